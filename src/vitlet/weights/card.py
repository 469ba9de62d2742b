"""Model cards: description, how to load the model, results, and the licences it inherits."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from vitlet.text import plural, printable, shareable, shareable_word
from vitlet.weights.kinds import NON_COMMERCIAL, UNKNOWN

OPENING = {
    "timm": 'import timm\nmodel = timm.create_model("local-dir:PATH/OF/THIS/FOLDER", pretrained=True)',
    "onnx": 'import onnxruntime\nsession = onnxruntime.InferenceSession("model.onnx")',
    "openvino": "import openvino\n"
    "# Without this, OpenVINO computes in bf16 on CPUs that have it: faster, with relative errors of 1e-3 to 1e-2.\n"
    'model = openvino.Core().compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})',
    "torch-export": 'import torch\nmodel = torch.export.load("model.pt2").module()',
}


_ROLES = {"init": "started from", "teacher": "taught by"}


def published(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return `facts` without the names of folders outside the working folder."""
    shown = dict(facts)
    if isinstance(source := facts.get("source"), str):
        shown["source"] = shareable_word(source)
    if isinstance(command := facts.get("command"), str):
        shown["command"] = shareable(command)
    return shown | {role: published(facts[role]) for role in _ROLES if isinstance(facts.get(role), Mapping)}


@dataclass(frozen=True)
class Link:
    """A network that a model was initialised from or distilled from."""

    what: str
    licence: str


def licence_chain(facts: Mapping[str, Any]) -> list[Link]:
    """Return every network behind the model of `facts`, nearest first; empty if everything was trained from scratch.

    Follows the imported file (`source`), the initial encoder (`init`) and the teacher (`teacher`), recursively.
    """
    return list(_links(facts))


def _links(facts: Mapping[str, Any]) -> Iterator[Link]:
    source = facts.get("source")
    if isinstance(source, Mapping):
        name = f"{source.get('kind', 'weights')} in {source.get('file', 'a file')}"
        yield Link(f"imported: {name}", str(facts.get("licence") or UNKNOWN))
    for role, words in _ROLES.items():
        other = facts.get(role)
        if isinstance(other, Mapping):
            if role == "teacher":
                yield Link(f"{words}: {other.get('source') or 'a network'}", str(other.get("licence") or UNKNOWN))
            yield from (Link(f"{words}: {link.what}", link.licence) for link in _links(other))


def is_non_commercial(chain: Sequence[Link]) -> bool:
    """Whether a known licence in the chain forbids commercial use."""
    return any("nc" in link.licence.lower().split("-") for link in chain)


def card(
    *,
    title: str,
    description: str,
    tags: Sequence[str],
    facts: Mapping[str, Any],
    target: str = "timm",
    results: Mapping[str, Mapping[str, Any]] | None = None,
    proof: Mapping[str, Any] | None = None,
) -> str:
    """Return the card as Markdown with front matter for model hubs.

    Args:
        title: Heading of the page.
        description: One paragraph.
        tags: Tags for hubs.
        facts: Provenance: recipe, data, command; shown as `published`.
        target: The library that opens the model, a key of `OPENING`.
        results: The files in `results/` of the run, by name.
        proof: Content of `proof.json`.
    """
    facts = published(facts)
    chain = licence_chain(facts)
    lines = [
        "---",
        *([f"library_name: {target}"] if target in ("timm", "openvino") else []),
        *([f"license: {NON_COMMERCIAL.lower()}"] if is_non_commercial(chain) else []),
        f"tags: [{', '.join(tags)}]",
        "---",
        "",
        f"# {title}",
        "",
        f"{description} Written by vitlet.",
        "",
        "```python",
        OPENING[target],
        "```",
        "",
        *(_results(results) if results else []),
        *(_proof(proof) if proof else []),
        *_licences(chain),
        "## Provenance",
        "",
        "```json",
        json.dumps(facts, indent=2).replace("```", "'''"),
        "```",
        "",
    ]
    return "\n".join(lines)


def _results(results: Mapping[str, Mapping[str, Any]]) -> list[str]:
    rows = [
        f"| {_cell(r['metric'])} | {r['value']:.4g} | {r['n']:,} {_cell(r['split'])} | {_cell(r['protocol'])} |"
        for r in results.values()
    ]
    return ["## Measured", "", "| metric | value | images | protocol |", "|---|---|---|---|", *rows, ""]


def _proof(proof: Mapping[str, Any]) -> list[str]:
    found, speed = proof["agreement"], proof["throughput"]
    needed, of_fp32 = (f"{100 * proof[key]['top1_agreement']:g} %" for key in ("tolerance", "tolerance_fp32"))
    bar = f"{needed} needed" if needed == of_fp32 else f"{needed} needed with 8 bits, {of_fp32} without"
    num = found["num_detections"]
    judged = "the images" if num is None else plural(num, "detection")
    lines = [
        "## This file beside the network it was made from",
        "",
        f"On {found['n']} images of {_cell(proof['images']['name'])} ({proof['images']['split']}):",
        "",
        f"* largest relative error {found['max_relative_error']:.1e}",
        f"* the same {found['top1_of']} for {100 * found['top1_agreement']:.1f} % of {judged} ({bar})",
    ]
    accuracy = found["accuracy"]
    if accuracy is not None:
        change = 100 * accuracy["difference"]
        lines.append(f"* accuracy {100 * accuracy['exported']:.1f} %, {change:+.1f} points ({accuracy['n']} labels)")
    where = f"one thread of {_cell(speed['processor'])}"
    return [*lines, f"* {speed['ratio']:.2f} times the images a second of eager PyTorch on {where}", ""]


def _licences(chain: Sequence[Link]) -> list[str]:
    lines = ["## Licences", ""]
    if not chain:
        return [*lines, "Trained from random weights, without a teacher: no licence of other weights applies.", ""]
    lines += ["Other networks went into this one; their licences apply to it as far as the law provides.", ""]
    lines += ["| network | licence |", "|---|---|"]
    lines += [f"| {_cell(link.what)} | {_cell(link.licence)} |" for link in chain]
    if is_non_commercial(chain):
        lines += ["", "**Not for commercial use**, as one of them says."]
    return [*lines, ""]


def _cell(text: object) -> str:
    return printable(str(text)).replace("|", "\\|").replace("<", "&lt;")

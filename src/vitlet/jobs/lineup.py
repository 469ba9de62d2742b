"""Models side by side: cost measured here, known accuracy, and published values."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import timm
from rich.table import Table
from torch import Tensor, nn

from vitlet.benchmarks.models import Candidate, bench_models, steps
from vitlet.benchmarks.published import ACCURACY_TAG, OURS, PAPER, SPEED_TAG
from vitlet.choices import InferencePrecision
from vitlet.console import Teller
from vitlet.disk import read_json, write_json
from vitlet.environment import environment
from vitlet.errors import UsageError
from vitlet.jobs.material import pick_device
from vitlet.jobs.options import Options
from vitlet.nn.convnet import AnyEncoder, new_encoder
from vitlet.nn.heads import AnyClassifier, head_input, new_classifier
from vitlet.recipes import all_recipes, by_name
from vitlet.run import Run
from vitlet.text import did_you_mean, printable
from vitlet.weights.source import load_encoder

_CLASSES = 1000
_BATCH = {"cpu": 16, "cuda": 256, "mps": 64}


class _Whole(nn.Module):
    """Encoder and classifier as one network."""

    def __init__(self, encoder: AnyEncoder, classifier: AnyClassifier) -> None:
        super().__init__()
        self.encoder, self.classifier = encoder, classifier

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(head_input(self.encoder, images))


def bench_lineup(
    names: Sequence[str],
    *,
    preset: Literal["paper"] | None = None,
    results: Path | None = None,
    batch_size: int | None = None,
    repeats: int = 5,
    precision: InferencePrecision = "fp32",
    out: Path | None = None,
    options: Options = Options(),
) -> dict[str, Any]:
    """Measure models and write the table.

    Args:
        names: timm names (random weights), recipes, or runs and model folders.
        preset: `paper`: the models of Table 2 that timm has, and the paper's own, before `names`.
        results: A folder of files from `vitlet evaluate --json`, for the accuracy of models that are not runs. A run's
            own results are found in the run.
        batch_size: Images per forward pass; None: 16 on a CPU, 256 on CUDA.
        repeats: Number of turns.
        precision: Precision of the matrix products.
        out: File for the figures.
        options: The device.

    Returns:
        The figures: `models` by name, each with `published` values apart from those measured here.

    Raises:
        UsageError: for an unknown name.
    """
    teller = Teller(quiet=options.quiet)
    asked = [*([*PAPER, *OURS] if preset == "paper" else []), *names]
    wanted = list(dict.fromkeys(asked))
    if not wanted:
        raise UsageError("no models to compare", fix="vitlet bench models NAME … or --preset paper")
    device = pick_device(options)
    candidates = {printable(name): candidate(name) for name in wanted}
    with teller.progress("measuring", total=steps(len(candidates), repeats)) as tick:
        figures = bench_models(
            candidates,
            batch_size=batch_size or _BATCH[device.type],
            repeats=repeats,
            device=str(device),
            precision=precision,
            progress=tick,
        )
    for name, row in figures["models"].items():
        row |= {"title": PAPER[name].title if name in PAPER else name, "accuracy": accuracy_of(name, results)}
        if name in PAPER:
            published = PAPER[name]
            row["published"] = {
                "images_per_second": {"value": published.images_per_second, "source": SPEED_TAG},
                "top1_percent": {"value": published.top1, "source": ACCURACY_TAG},
            }
    found = {"kind": "models", "figures": figures, "machine": environment()}
    teller.console.print(_table(figures))
    if out is not None:
        write_json(out, found)
        teller.say(f"written: {printable(out)}")
    return found


def candidate(name: str) -> Candidate:
    """Return the network that a name stands for.

    Raises:
        UsageError: for an unknown name.
    """
    if Path(name).exists():
        saved = load_encoder(name)
        head = saved.classifier or new_classifier(saved.encoder, num_classes=_CLASSES, pool="mean", seed=0)
        return Candidate(_Whole(saved.encoder, head), saved.evaluation.size, bytes_in=True)
    if timm.is_model(name):
        model = timm.create_model(name, pretrained=False)
        values = cast(dict[str, Any], model.pretrained_cfg)
        return Candidate(model, int(values["input_size"][-1]))
    recipes = all_recipes()
    if name not in recipes:
        near = did_you_mean(name, [*timm.list_models(), *recipes])
        raise UsageError(
            f"no model {printable(name)!r}",
            why=near if near.startswith("Did") else "",
            fix="a name of timm, a recipe of vitlet recipes, or a run",
        )
    recipe = by_name(name)
    encoder = new_encoder(recipe.encoder, normalisation=recipe.data.normalisation)
    pool = recipe.objective.to_json().get("pool", "mean")
    head = new_classifier(encoder, num_classes=_CLASSES, pool=pool, seed=0)
    return Candidate(_Whole(encoder, head), recipe.encoder.image_size, bytes_in=True)


def accuracy_of(name: str, results: Path | None) -> dict[str, Any] | None:
    """Return the measured top-1 of a model and the file that holds it; None if it was not measured here."""
    own = [Run(Path(name)).results / file for file in ("evaluate-val.json", "top1.json")]
    found = [(file, read_json(file)) for file in own if file.is_file()]
    if not found and results is not None:
        for file in sorted(results.rglob("*.json")):
            try:
                content = json.loads(file.read_bytes())
            except ValueError:
                continue
            details = content.get("details") if isinstance(content, dict) else None
            asked = {"model": name, "labels": "val"}  # ReaL and V2 measure something else
            if isinstance(details, dict) and asked.items() <= details.items() and content.get("metric") == "top1":
                found.append((file, content))
    if not found:
        return None
    file, content = found[0]
    keys = ("value", "n", "split", "protocol")
    return {**{key: content[key] for key in keys}, "data": content["data"]["name"], "file": printable(file.name)}


def _table(figures: dict[str, Any]) -> Table:
    table = Table(title=f"{figures['engine']}, batch {figures['batch_size']}, {figures['repeats']} turns")
    columns = ("model", "px", "parameters, M", "GFLOPs", "images/s here", "top-1 here", "published images/s [L]")
    for column in (*columns, "published top-1 [L]"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for row in figures["models"].values():
        known, published = row["accuracy"], row.get("published")
        table.add_row(
            row["title"],
            str(row["image_size"]),
            f"{row['parameters'] / 1e6:.2f}",
            f"{row['flops'] / 1e9:.2f}",
            f"{row['images_per_second']:,.1f}",
            f"{100 * known['value']:.1f} % ({known['data']})" if known else "–",
            f"{published['images_per_second']['value']:,.0f}" if published else "–",
            f"{published['top1_percent']['value']:.1f} %" if published else "–",
        )
    return table

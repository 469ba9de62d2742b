"""Verified export: write a model, open it in its own runtime, compare on real images, then move it into place.

Everything happens in a scratch folder; a model beyond the tolerance never reaches the target.
"""

import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from vitlet.choices import ExportTarget
from vitlet.console import Teller
from vitlet.disk import read_json, to_json_bytes, write_folder
from vitlet.environment import environment, hardware
from vitlet.errors import CheckpointError, DataError, ResourceError
from vitlet.evaluation.agreement import FP32, INT8, INT8_ENCODER, Agreement, agreement
from vitlet.evaluation.pace import one_thread, take_turns
from vitlet.evaluation.result import Result, write_result
from vitlet.jobs.detecting import load_detection
from vitlet.jobs.options import Options
from vitlet.jobs.spread import by_first_rank
from vitlet.jobs.witnesses import DRAW, Witnesses, gather_witnesses
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import head_input
from vitlet.run import Run
from vitlet.text import plural, printable
from vitlet.train.clock import Clock
from vitlet.weights.detector import SavedDetector, detector_card
from vitlet.weights.files import CARD, EXPORTED, PREPROCESSING, PROOF, require_replaceable
from vitlet.weights.folder import Saved, card_of, write_model
from vitlet.weights.form import Form, detection_run
from vitlet.weights.formats import Runner, open_graph, require_packages, write_graph
from vitlet.weights.int8 import quantise
from vitlet.weights.names import Source
from vitlet.weights.portable import Portable, PortableEncoder, described
from vitlet.weights.portable_detector import PortableDetector
from vitlet.weights.source import load_encoder

_BATCH = 32


@by_first_rank
def export(
    run: str | os.PathLike[str],
    *,
    out: str | os.PathLike[str],
    to: ExportTarget = "timm",
    images: str | os.PathLike[str] | None = None,
    int8: bool = False,
    embed_preprocessing: bool = False,
    options: Options = Options(),
) -> Path:
    """Write a finished model for another library, run it there on real images, and compare the outputs.

    Args:
        run: A finished run, a model folder or `timm:NAME@FILE`. A detector is exported whole, and its encoder alone if
            the folder of that is given.
        out: The folder; replaced if it is a model folder.
        to: `timm` (config.json, model.safetensors), `onnx`, `openvino` (model.xml, model.bin) or `torch-export`
            (model.pt2); beside it `preprocessing.json`, `proof.json` and a card.
        images: Of these 256 are used, held-out ones first; for a detector 64 are enough. None: the embedded digits.
        int8: Quantise, calibrated on other images of the set.
        embed_preprocessing: The model takes bytes (B S S 3) instead of standardised floats (B 3 S S).
        options: Workers, tolerance for unreadable images.

    Returns:
        The folder.

    Raises:
        CheckpointError: if there is no finished model, or the exported one is beyond the tolerance.
        DataError: if there are too few images, or a detector finds nothing on them.
        UsageError: if `out` contains other files, the format does not support the options or detectors, or a package is
            missing.
    """
    form = Form(to, int8, embed_preprocessing)
    form.require_possible()
    form.require_fit(run)
    require_packages(form)
    folder = Path(out)
    require_replaceable(folder, files=EXPORTED)
    teller = Teller(quiet=options.quiet)
    clock = Clock()
    detector = detection_run(run)
    saved = load_encoder(run) if detector is None else load_detection(detector)
    witnesses = gather_witnesses(saved, images, calibrate=int8, options=options, teller=teller)
    with tempfile.TemporaryDirectory() as scratch:
        stage = Path(scratch) / "model"
        proof = proved(saved, stage, form, witnesses, where=printable(folder), teller=teller)
        card = _card(saved, to, results=_results(run), proof=proof)
        texts = {PROOF: to_json_bytes(proof), CARD: card.encode()}
        write_folder(folder, {p.name: p.read_bytes() for p in sorted(stage.iterdir())} | texts)
    try:
        _record(run, form, proof, saved, cost=clock.spent())
    except ResourceError as error:  # the run may be somebody else's, and read-only; the model is proved all the same
        teller.say(f"note: the run keeps no record of this export, {PROOF} does: {error.what}. {error.why}.")
    teller.say(f"{printable(folder)}: {_sentence(proof, to)}")
    return folder


def proved(
    saved: Saved, stage: Path, form: Form, witnesses: Witnesses, *, where: str, teller: Teller
) -> dict[str, Any]:
    """Write the model into the folder `stage`, open it in its runtime, and compare the outputs.

    Returns:
        The content of `proof.json`.

    Raises:
        CheckpointError: if it is beyond the tolerance.
        DataError: if a detector finds nothing on the images.
    """
    model = _portable(saved, form)
    teller.say(f"writing for {form.target}{', 8 bits' if form.int8 else ''}")
    _write(saved, model, stage, form, witnesses)
    teller.say(f"comparing on {plural(len(witnesses.images), 'image')} of {printable(witnesses.facts['name'])}")
    runner = open_graph(model, stage, form)
    found = compare(saved, model, runner, witnesses, teller)
    if found.num_detections == 0:
        raise DataError(
            f"the detector finds nothing on the images of {printable(witnesses.facts['name'])}",
            why="An export is judged by what is found. Nothing was written",
            fix="give --images with objects that it knows",
        )
    allowed = FP32 if not form.int8 else INT8 if saved.classifier is not None else INT8_ENCODER
    shortcomings = found.shortcomings(allowed)
    if shortcomings:
        raise CheckpointError(
            f"{form.target} computes something else from this model",
            where=where,
            why=f"{'; '.join(shortcomings)}. Nothing was written",
            fix="calibrate with more of your own images (--images), or leave --int8 out"
            if form.int8
            else "report this with the run's recipe.json",
        )
    return {
        "form": asdict(form),
        "agreement": found.to_json(),
        "tolerance": asdict(allowed),
        "tolerance_fp32": asdict(FP32),
        "images": witnesses.facts | {"calibration": len(witnesses.calibration)},
        "throughput": _throughput(model, runner, witnesses),
        "machine": hardware(),
    }


def _portable(saved: Saved, form: Form) -> Portable:
    if isinstance(saved, SavedDetector):
        return PortableDetector(saved, embed_preprocessing=form.embed_preprocessing)
    return PortableEncoder(saved, embed_preprocessing=form.embed_preprocessing)


def _card(saved: Saved, target: ExportTarget, *, results: dict[str, Any], proof: dict[str, Any]) -> str:
    if isinstance(saved, SavedDetector):
        return detector_card(saved, target=target, results=results, proof=proof)
    return card_of(
        saved.encoder,
        saved.classes,
        saved.facts,
        evaluation=saved.evaluation,
        target=target,
        results=results,
        proof=proof,
    )


def _write(saved: Saved, model: Portable, stage: Path, form: Form, witnesses: Witnesses) -> None:
    if form.target == "timm":
        write_model(
            stage,
            encoder=saved.encoder,
            evaluation=saved.evaluation,
            facts=saved.facts,
            classifier=saved.classifier,
            classes=saved.classes,
        )
    else:
        stage.mkdir()
        write_graph(model, stage, form)
        if form.int8:
            quantise(stage, form, model.input_of(witnesses.calibration).numpy())
    told = described(model, evaluation=saved.evaluation)
    (stage / PREPROCESSING).write_bytes(to_json_bytes(told))


def compare(saved: Saved, model: Portable, runner: Runner, witnesses: Witnesses, teller: Teller) -> Agreement:
    """Compare our outputs, computed from bytes as in evaluation, with those of the exported model.

    Raises:
        CheckpointError: if the exported model does not take a batch.
    """
    original: list[Mapping[str, NDArray[np.float32]]] = []
    exported: list[Mapping[str, NDArray[np.float32]]] = []
    done, total = 0, len(witnesses.images)
    with torch.inference_mode(), one_thread(), teller.progress("comparing", total=total) as tick:
        for part in witnesses.images.split(_sizes(total) if model.any_batch else 1):
            original.append(_outputs(saved, model, part))
            exported.append(_taken(runner, model.input_of(part)))
            tick(done := done + len(part))
    joined = [{name: np.concatenate([row[name] for row in rows]) for name in model.outputs} for rows in
              (original, exported)]  # fmt: skip
    return agreement(joined[0], joined[1], labels=witnesses.labels)


def _sizes(count: int) -> list[int]:
    """Return the sizes of the batches: the last is divided, so that a graph for one size alone does not pass."""
    whole, rest = divmod(count - 1, _BATCH)
    return [*[_BATCH] * whole, *([rest] if rest else []), 1]


def _taken(runner: Runner, batch: Tensor) -> Mapping[str, NDArray[np.float32]]:
    try:
        return runner(batch)
    except Exception as error:  # the runtimes' own exceptions have no common base
        raise CheckpointError(
            f"the exported model does not take a batch of {plural(len(batch), 'image')}",
            why=f"{printable(' '.join(str(error).split())[:200]).rstrip('.')}. Nothing was written",
            fix="report this with the run's recipe.json",
        ) from error


def _outputs(saved: Saved, model: Portable, images: Tensor) -> dict[str, NDArray[np.float32]]:
    """Compute our outputs with the network itself, not with `Portable`, so that errors in `Portable` show too."""
    encoder = saved.encoder.eval()
    if isinstance(saved, SavedDetector):
        (found,) = saved.detector.eval().detect(cast(Encoder, encoder), images)
        return model.named([_filled(found[name], told["shape"]) for name, told in model.outputs.items()])
    seen = head_input(encoder, images)
    if saved.classifier is not None:
        return model.named((saved.classifier.eval()(seen).numpy(),))
    if isinstance(seen, Tensor):
        return model.named((seen.numpy(),))
    return model.named((seen.tokens.numpy(), seen.pooled("mean").numpy()))


def _filled(found: Tensor, shape: list[int]) -> Tensor:
    """Fill the detections of one image up to a fixed number."""
    return torch.cat([found, found.new_zeros(shape[1] - len(found), *shape[2:])])[None]


def _throughput(model: Portable, runner: Runner, witnesses: Witnesses) -> dict[str, Any]:
    """Measure images per CPU second of the exported model and eager PyTorch, alternating on one thread, same inputs."""
    batch = model.input_of(witnesses.images[: _BATCH if model.any_batch else 1])
    with torch.inference_mode():
        paces = take_turns({"eager": lambda: model(batch), "exported": lambda: runner(batch)})
    machine = environment()
    return {
        "images_per_cpu_second": {name: 1000 * len(batch) / pace.cpu_ms for name, pace in paces.items()},
        "ratio": paces["eager"].cpu_ms / paces["exported"].cpu_ms,
        "spread": {name: pace.spread for name, pace in paces.items()},
        "batch_size": len(batch),
        "threads": 1,
        "processor": machine["processor"],
    }


def _results(run: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the results measured so far, except those of exports."""
    source = Source.parse(run)
    folder = Run(source.path).results
    files = sorted(folder.glob("*.json")) if source.architecture is None and folder.is_dir() else []
    return {p.stem: read_json(p) for p in files if not p.stem.startswith("export-")}


def _record(
    run: str | os.PathLike[str], form: Form, proof: dict[str, Any], saved: Saved, *, cost: Mapping[str, float]
) -> None:
    """Write the proof as a result of the run; a model folder or bare file has no place for it."""
    place = Run(Source.parse(run).path)
    if not place.recipe_file.is_file():
        return
    found, facts = proof["agreement"], proof["images"]
    result = Result(
        metric="max_relative_error",
        value=found["max_relative_error"],
        n=found["n"],
        seed=DRAW,
        split=facts["split"],
        protocol=f"{form.target} beside the network it was made from",
        data={"name": facts["name"], "fingerprint": facts["fingerprint"]},
        recipe=saved.facts.get("recipe_fingerprint", ""),
        **cost,
        details={k: proof[k] for k in ("form", "agreement", "tolerance", "throughput")},
    )
    parts = ("export", form.target, *(["int8"] if form.int8 else []), *(["bytes"] if form.embed_preprocessing else []))
    write_result(place, "-".join(parts), result)


def _sentence(proof: dict[str, Any], target: str) -> str:
    found, accuracy = proof["agreement"], proof["agreement"]["accuracy"]
    num = found["num_detections"]
    judged = "" if num is None else f" of {plural(num, 'detection')}"
    changed = "" if accuracy is None else f", accuracy {100 * accuracy['difference']:+.1f} points"
    return (
        f"opened by {target}; on {found['n']} images the largest relative error is {found['max_relative_error']:.1e}, "
        f"the {found['top1_of']} the same for {100 * found['top1_agreement']:.1f} %{judged}{changed}; "
        f"{proof['throughput']['ratio']:.2f} times the images a second of eager PyTorch on one thread"
    )

"""Detection: the outputs of a finished training run, and detecting objects in other images."""

import io
import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from vitlet.arrays import write_arrays
from vitlet.console import Teller
from vitlet.data.decode import decode
from vitlet.data.detection.annotations import Annotations, annotations_of
from vitlet.data.detection.outlines import to_mask
from vitlet.data.index import Index
from vitlet.data.loader import evaluation_batches
from vitlet.disk import to_json_bytes, write_file, write_json
from vitlet.distributed.world import World
from vitlet.evaluation.detection.find import Found, find_objects
from vitlet.evaluation.detection.gallery import Drawn, draw, drawable, quality, squares
from vitlet.evaluation.detection.scores import Kind, Scores, score
from vitlet.evaluation.detection.truth import ground_truth
from vitlet.evaluation.result import Result, write_result
from vitlet.jobs.images import judged, opened
from vitlet.jobs.material import Material, pick_device
from vitlet.jobs.options import Options, require_detector
from vitlet.methods.detection import Detection
from vitlet.recipe import Recipe
from vitlet.recipes import from_json
from vitlet.run import Run
from vitlet.text import plural, printable
from vitlet.train.clock import Clock
from vitlet.weights.detector import Labels, SavedDetector, load_detector, read_labels, write_detector
from vitlet.weights.folder import read_model

_BATCH = 4
_SHOWN, _SHOWN_PIXELS = 4, 320


def finish_detection(
    run: Run, recipe: Recipe, material: Material, objective: Detection, *, facts: dict[str, Any], teller: Teller
) -> None:
    """Write the detector, its scores on the images held out from training, and its best and worst pictures."""
    annotations = material.annotations
    assert annotations is not None
    labels = Labels(annotations.classes, annotations.category_ids)
    write_detector(run.detector, objective.detector, labels=labels, facts=facts)
    if not len(material.held_out):
        teller.say("note: no image was held out, so nothing was scored.")
        return
    clock = Clock()
    found = list(_found(objective, material.index, material.held_out, recipe, teller, World()))
    truth = ground_truth(material.index, annotations, material.held_out)
    kinds: tuple[Kind, ...] = ("bbox", "segm") if objective.detector.shape.masks else ("bbox",)
    for kind in kinds:
        scores = score(truth, coco_results(found, annotations, material.held_out), kind=kind)
        _write_scores(run, recipe, material, scores, clock=clock, teller=teller)
    _write_gallery(run, material, annotations, found)


def coco_results(found: Iterable[Found], annotations: Annotations, ids: np.ndarray) -> list[dict[str, Any]]:
    """Return detections on the images `ids` of annotated data, in the format of a COCO results file."""
    numbers = annotations.columns["image_ids"]
    return [
        entry
        for image in found
        for entry in image.to_coco(
            image_id=int(numbers[int(ids[image.position])]), category_ids=annotations.category_ids
        )
    ]


def detect(
    run: str | os.PathLike[str],
    *,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    pictures: str | os.PathLike[str] | None = None,
    options: Options = Options(),
) -> Path:
    """Detect objects in every readable image and write them as a COCO results file.

    Args:
        run: A finished run of a detection recipe.
        data: Images, annotated or not.
        out: The JSON file: `image_id` (of the annotations, else the number of the image), `file_name`, `category_id`
            (of the training data), `bbox`, `score`, and `segmentation` from a detector with masks.
        pictures: A folder for copies of the images with the objects of score ½ or more drawn on them.
        options: Workers, device, tolerance.

    Raises:
        UsageError: if it is not a detection run.
        CheckpointError: if it is not finished.
    """
    model = _load(Run.open(run))
    with World.joined(pick_device(options)) as world:
        teller = Teller(quiet=options.quiet)
        index = opened(data, options, teller)
        annotations = annotations_of(index)
        ids = np.flatnonzero(judged(index, options, teller, training=False).good)
        objective = model.objective.to(pick_device(options)).eval()
        mine = []
        for found in _found(objective, index, ids, model.recipe, teller, world):
            row = int(ids[found.position])
            number = row if annotations is None else int(annotations.columns["image_ids"][row])
            objects = found.to_coco(image_id=number, category_ids=model.saved.category_ids)
            mine.append((found.position, [one | {"file_name": printable(index.path(row))} for one in objects]))
            if pictures is not None:
                _write_picture(Path(pictures), index, row, drawable(found, model.saved.classes))
        images = sorted(image for part in world.gather(json.dumps(mine)) for image in json.loads(part))
    if not world.is_first:
        return Path(out)
    entries = [entry for _, objects in images for entry in objects]
    write_file(Path(out), to_json_bytes(entries))
    teller.say(f"{plural(len(entries), 'object')} on {plural(len(images), 'image')}: {printable(out)}")
    if pictures is not None:
        teller.say(f"pictures: {printable(pictures)}")
    return Path(out)


@dataclass(frozen=True)
class _Model:
    objective: Detection
    recipe: Recipe
    saved: SavedDetector


def load_detection(run: Run) -> SavedDetector:
    """Load the encoder and the detector of a finished run.

    Raises:
        UsageError: if it is not a detection run.
        CheckpointError: if it is not finished.
    """
    return _load(run).saved


def _load(run: Run) -> _Model:
    recipe = from_json(run.recipe_json(), where=printable(run.recipe_file))
    require_detector(recipe, run)
    labels = read_labels(run.detector)
    found = read_model(run.encoder)
    objective = recipe.objective.build(found.encoder, num_classes=len(labels.classes), seed=recipe.budget.seed)
    assert isinstance(objective, Detection)
    load_detector(run.detector, objective.detector)
    saved = SavedDetector(
        encoder=found.encoder,
        classifier=None,
        classes=labels.classes,
        evaluation=found.evaluation,
        sha256=found.sha256,
        facts=found.facts,
        detector=objective.detector,
        category_ids=labels.category_ids,
    )
    return _Model(objective, recipe, saved)


def _found(
    objective: Detection, index: Index, ids: np.ndarray, recipe: Recipe, teller: Teller, world: World
) -> Iterable[Found]:
    """Detect objects in every image once, with progress; each rank takes its share."""
    view = recipe.data.evaluation
    device = next(objective.parameters()).device
    normalisation = recipe.data.normalisation
    batches = evaluation_batches(
        index, ids, view=view, batch_size=_BATCH, rank=world.rank, num_ranks=world.size, normalisation=normalisation
    )
    with teller.progress("finding objects", total=len(range(world.rank, len(ids), world.size))) as tick:
        for done, found in enumerate(find_objects(objective.detect, batches, view=view, device=device), start=1):
            yield found
            tick(done)


def _write_scores(
    run: Run, recipe: Recipe, material: Material, scores: Scores, *, clock: Clock, teller: Teller
) -> None:
    value, split = scores.numbers["AP"], material.held_out_split
    if value is None:
        teller.say(f"note: the {split} images have no object to score {scores.kind} on.")
        return
    result = Result(
        metric=f"{scores.kind}_ap",
        value=value,
        n=scores.num_images,
        seed=recipe.budget.seed,
        split=split,
        protocol=f"detection, {plural(len(material.ids), 'training image')}, COCO's mean over overlaps 0.50 to 0.95",
        data=material.index.facts(),
        recipe=recipe.fingerprint(),
        **clock.spent(),
        details={
            "numbers": scores.numbers,
            "per_class": {printable(name): ap for name, ap in scores.per_class.items()},
            "selection": "last step, nothing was chosen on this split",
        },
    )
    write_result(run, scores.kind, result)
    half = scores.numbers["AP50"] or 0.0
    teller.say(f"{scores.kind} AP {100 * value:.1f}, AP50 {100 * half:.1f} on {plural(result.n, f'{split} image')}")


def _write_gallery(run: Run, material: Material, annotations: Annotations, found: list[Found]) -> None:
    """Write `analysis/detections.{npz,json}`: truth and detections on the images of highest and lowest F1."""
    judged = []
    for image in found:
        rows = annotations.objects(int(material.held_out[image.position]), crowds=False)
        truth = _truth(annotations, rows, image)
        value = quality(image, truth.boxes, annotations.columns["categories"][rows])
        if value is not None:
            judged.append((value, image, truth))
    judged.sort(key=lambda entry: (-entry[0], entry[1].position))
    best = judged[:_SHOWN]
    chosen = best + [entry for entry in judged[-_SHOWN:] if all(entry is not other for other in best)]
    if not chosen:
        return
    pairs, rows = [], []
    for value, image, truth in chosen:
        row = int(material.held_out[image.position])
        pixels = decode(material.index.read(row), path=material.index.path(row))
        shown = (truth, drawable(image, annotations.classes))
        pairs.append([draw(pixels, objects, side=_SHOWN_PIXELS) for objects in shown])
        rows.append({"file": printable(material.index.path(row)), "f1": value})
    arrays = {
        "truth": squares([pair[0] for pair in pairs], side=_SHOWN_PIXELS),
        "found": squares([pair[1] for pair in pairs], side=_SHOWN_PIXELS),
    }
    about = {"num_best": len(best), "num_judged": len(judged), "split": material.held_out_split, "images": rows}
    write_json(run.analysis / "detections.json", about)
    write_arrays(run.analysis / "detections.npz", arrays)


def _truth(annotations: Annotations, rows: Sequence[int], image: Found) -> Drawn:
    """Return the objects in `rows` of the annotations, which are on `image`, to be drawn."""
    columns = annotations.columns
    boxes = np.array([columns["boxes"][r] for r in rows], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    outlines = [annotations.outline(r) for r in rows]
    names = [printable(annotations.classes[int(columns["categories"][r])]) for r in rows]
    blank = np.zeros((image.height, image.width), dtype=np.uint8)
    masks = [blank if o is None else to_mask(o, height=image.height, width=image.width) for o in outlines]
    return Drawn(boxes, names, masks)


def _write_picture(folder: Path, index: Index, row: int, objects: Drawn) -> None:
    """Write a PNG named after the path of the image, with folders as part of the name."""
    name = printable(index.path(row)).replace("/", "_")
    stream = io.BytesIO()
    draw(decode(index.read(row), path=index.path(row)), objects).save(stream, format="PNG")
    write_file(folder / f"{name}.png", stream.getvalue())

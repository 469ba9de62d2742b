"""Analysis of encoders: one pass over the same images, probes of each layer, files, figures and a page."""

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vitlet.analysis import record
from vitlet.analysis.attention import PUBLISHED_EPSILON
from vitlet.analysis.diagnosis import Measured, Place, diagnose, is_random
from vitlet.analysis.layers import (
    ProbeCurve,
    class_attention,
    gradient_norms,
    principal_colours,
    probe_curve,
    same_shape,
    weight_distances,
)
from vitlet.analysis.record import Gradients
from vitlet.analysis.sample import choose, even_batches
from vitlet.analysis.similarity import require_same_size
from vitlet.analysis.survey import POOLED_LIMIT, Subject, Survey, pooled_features
from vitlet.augmentation import View
from vitlet.choices import LayerProbe
from vitlet.console import Teller, Ticker
from vitlet.data.batch import Batch
from vitlet.data.classes import require_classes
from vitlet.data.index import Index
from vitlet.data.loader import evaluation_batches
from vitlet.data.subsets import balanced, divide
from vitlet.data.verdicts import Verdicts
from vitlet.disk import write_json
from vitlet.distributed.world import World
from vitlet.environment import environment
from vitlet.errors import DataError
from vitlet.evaluation import labels
from vitlet.jobs.images import judged, opened
from vitlet.jobs.material import pick_device
from vitlet.jobs.options import Options
from vitlet.jobs.subjects import open_subjects, trained_from_first
from vitlet.normalisation import Normalisation
from vitlet.run import Run
from vitlet.text import plural, printable

PROBE_IMAGES = 1000
GRADIENT_IMAGES = 256
_BATCH, _PUBLISHED_BATCH = 64, 128
_PICTURES = 8


@dataclass(frozen=True)
class Look:
    """Which images are analysed, and how."""

    images: int = 1024
    seed: int = 0
    """Decides which images, and the weights of `random`."""
    num_labels: int | None = None
    """Use only this many training labels, balanced over classes: those that fine-tuning with this seed uses."""
    published: bool = False
    """Reproduce quirks of the paper's code: images in folder order, batches of 128 until there are more than `images`,
    10⁻⁶ in the entropy, pitch 14, and a new final norm for MAE's encoders."""

    @property
    def batch_size(self) -> int:
        """Images per CKA batch."""
        return _PUBLISHED_BATCH if self.published else _BATCH

    @property
    def num_images(self) -> int:
        """How many images are looked at, if there are as many."""
        return (self.images // self.batch_size + 1) * self.batch_size if self.published else self.images


@dataclass(frozen=True)
class Sample:
    """The images of one analysis."""

    index: Index
    ids: np.ndarray
    """Rows to analyse, in this order; their number is a multiple of `batch_size`."""
    batch_size: int
    learned: np.ndarray
    """Labelled rows to train the probes on; disjoint from `ids`."""
    num_labels: int
    """Number of labelled training images, after the limit of `Look.num_labels`."""
    split: str
    view: View
    normalisation: Normalisation
    """The first encoder's, as the view is."""
    workers: int

    def batches(self, ids: np.ndarray, *, size: int) -> Iterator[Batch]:
        """Return batches of the rows `ids`, in order."""
        return evaluation_batches(
            self.index,
            ids,
            view=self.view,
            batch_size=size,
            workers=self.workers,
            normalisation=self.normalisation,
        )


def analyse(
    encoders: Sequence[str],
    *,
    data: str | os.PathLike[str],
    out: str | os.PathLike[str],
    images: int = 1024,
    seed: int = 0,
    num_labels: int | None = None,
    published: bool = False,
    options: Options = Options(),
) -> Path:
    """Write `OUT/analysis/*`, `OUT/figures/*.svg` and `OUT/report.html` about some encoders.

    Args:
        encoders: Runs, model folders, `timm:NAME@FILE`, or `random`: the first one's network with untrained weights;
            `random:ENCODER` for another's.
        data: Images; without labels there are no probes.
        out: The folder.
        images: How many to analyse, equally many of each class.
        seed: Decides which images, and the weights of `random`.
        num_labels: Probe on only this many training labels, balanced over classes: those that fine-tuning with this
            seed uses.
        published: Reproduce quirks of the paper's code: images in folder order, a batch more of them, distances in
            units of 14 pixels, MAE's encoders without their final norm.
        options: Workers, device, tolerance.

    Returns:
        The page.

    Raises:
        UsageError: if the encoders see images of different sizes, or one has no attention.
        DataError: if there are too few images.
        NonFiniteError: if an encoder's features are not numbers.
    """
    from vitlet.reports.analysis import write_analysis_page  # matplotlib: late, as it takes a second

    look = Look(images, seed, num_labels, published)
    began, run, teller = time.monotonic(), Run(Path(out)), Teller(quiet=options.quiet)
    with World.joined(pick_device(options)) as world:
        subjects, view = open_subjects(encoders, options, seed=look.seed, published=look.published)
        require_same_size({s.name: s.encoder.config.image_size for s in subjects})
        index = opened(data, options, teller)
        seen = view, subjects[0].encoder.normalisation
        sample = _sample(index, judged(index, options, teller), *seen, look=look, options=options)
        with run.lock() if world.is_first else contextlib.nullcontext():
            survey = _survey(subjects, sample, look, world, teller)
            if world.is_first:
                _write(run, survey, sample, look, teller, data=printable(data))
                seconds = time.monotonic() - began
                write_json(run.analysis / "about.json", _about(subjects, sample, look) | {"wall_seconds": seconds})
                teller.say(f"page: {printable(write_analysis_page(run.path))}")
        world.barrier(patient=True)  # until the files are there
    return run.path / "report.html"


def _survey(subjects: Sequence[Subject], sample: Sample, look: Look, world: World, teller: Teller) -> Survey:
    """Run the pass over the images; under torchrun each rank takes a contiguous range of whole batches."""
    batches = len(sample.ids) // sample.batch_size
    first, last = (sample.batch_size * (batches * rank // world.size) for rank in (world.rank, world.rank + 1))
    survey = Survey(
        subjects,
        epsilon=PUBLISHED_EPSILON if look.published else 0.0,
        pooled=min(POOLED_LIMIT, len(sample.ids)),
        first=first,
    )
    with teller.progress("looking at images", total=last - first) as tick:
        if first < last:  # else there are fewer batches than ranks, and this one adds nothing to the sums
            survey.run(_counted(sample.batches(sample.ids[first:last], size=sample.batch_size), tick))
    world.barrier(patient=True)  # shares are unequal
    survey.sum_over_ranks()
    return survey


def _write(run: Run, survey: Survey, sample: Sample, look: Look, teller: Teller, *, data: str) -> None:
    """Write everything that needs no second pass over all images."""
    subjects = survey.subjects
    record.write_survey(run.analysis, survey, published=look.published)
    curves = _probe(survey, sample, seed=look.seed, teller=teller)
    gradients = [_gradients(subject, sample) for subject in subjects]
    num_learned = len(sample.learned) if curves else 0
    record.write_layers(run.analysis, survey, curves, gradients, num_labels=num_learned)
    moved = _moved(subjects)
    record.write_weights(run.analysis, moved)
    _write_pictures(run, subjects, sample)
    place = Place(
        data=data,
        num_labels=sample.num_labels if curves else 0,
        image_size=sample.view.size,
        limit=look.num_labels,
    )
    record.write_diagnosis(run.analysis, diagnose(_measured(survey, curves, moved), place))


def _sample(
    index: Index, verdicts: Verdicts, view: View, normalisation: Normalisation, *, look: Look, options: Options
) -> Sample:
    """Choose the images to analyse: held-out labelled ones if they fill a batch, else all usable ones."""
    train, test, split = divide(index, verdicts.good)
    if len(test) < look.batch_size:
        test, split = np.flatnonzero(verdicts.good), "all images"
    picked = choose(np.asarray(index.labels[test]), num=look.num_images, seed=look.seed, folder_order=look.published)
    num, size = even_batches(len(picked), batch_size=look.batch_size)
    ids = test[picked[:num]]
    if look.num_labels is not None:
        train = train[balanced(np.asarray(index.labels[train]), num=look.num_labels, seed=look.seed)]
    learned = train[choose(np.asarray(index.labels[train]), num=PROBE_IMAGES, seed=look.seed)]
    return Sample(
        index=index,
        ids=ids,
        batch_size=size,
        learned=np.setdiff1d(learned, ids),
        num_labels=len(train),
        split=split,
        view=view,
        normalisation=normalisation,
        workers=options.num_workers(image_size=view.size),
    )


def _about(subjects: Sequence[Subject], sample: Sample, look: Look) -> dict[str, Any]:
    return {
        "models": [{"name": s.name, "source": s.source} for s in subjects],
        "data": sample.index.facts(),
        "split": sample.split,
        "images": len(sample.ids),
        "batch_size": sample.batch_size,
        "seed": look.seed,
        "published_quirks": look.published,
        "environment": environment(),
    }


def _counted(batches: Iterator[Batch], tick: Ticker) -> Iterator[Batch]:
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        tick(done)


def _probe(survey: Survey, sample: Sample, *, seed: int, teller: Teller) -> list[list[ProbeCurve]]:
    """Probe each layer and evaluate on the images of the survey; return [] without labels."""
    counted, classes = survey.labels, sample.index.classes
    learned = torch.from_numpy(np.asarray(sample.index.labels[sample.learned], dtype=np.int64))
    known = torch.isin(counted, learned.unique())  # with many classes, the training images may lack some
    counted = counted[known]
    try:
        require_classes(sample.index)
        labels.require(learned, counted, classes=classes, split=sample.split, where=sample.index.name)
    except DataError as error:
        teller.say(f"note: layers are not probed: {error}")
        return []
    if not known.all():
        left_out = plural(int((~known).sum()), "image")
        teller.say(f"note: probes leave out {left_out} of classes that the {len(learned):,} learned ones do not have")
    found = []
    for k, subject in enumerate(survey.subjects):
        teller.say(f"probing the layers of {subject.name}")
        train = pooled_features(subject.encoder, sample.batches(sample.learned, size=_BATCH))
        test = survey.features(k)[known], counted
        protocols: tuple[LayerProbe, ...] = ("knn", "logistic")
        found.append([probe_curve(p, train, test, seed=seed, classes=classes) for p in protocols])
    return found


def _gradients(subject: Subject, sample: Sample) -> Gradients:
    """Gradients of the classifier's loss on labelled images, if there is a classifier and labels of its classes."""
    if subject.classifier is None:
        return Gradients(None, "no classifier, so no loss")
    if subject.classes != sample.index.classes:
        return Gradients(None, "its classes are not those of the images")
    ids = sample.ids[np.asarray(sample.index.labels[sample.ids]) >= 0][:GRADIENT_IMAGES]
    if not len(ids):
        return Gradients(None, "no labelled image")
    norms = gradient_norms(subject.encoder, subject.classifier, sample.batches(ids, size=_BATCH))
    return Gradients(norms, f"mean loss over {plural(len(ids), 'image')}")


def _moved(subjects: Sequence[Subject]) -> list[tuple[str, str, dict[str, list[float]]]]:
    """Return the weight distances of each encoder of the same shape from the first one."""
    first = subjects[0]
    return [
        (first.name, other.name, weight_distances(first.encoder, other.encoder))
        for other in subjects[1:]
        if not is_random(other.source) and same_shape(first.encoder, other.encoder)
    ]


def _measured(
    survey: Survey, curves: Sequence[Sequence[ProbeCurve]], moved: Sequence[tuple[str, str, dict[str, list[float]]]]
) -> list[Measured]:
    cka = survey.similarity.result().cka.numpy()
    first_depth = survey.subjects[0].encoder.config.depth
    later = trained_from_first(survey.subjects)
    distances = {to: np.mean([d["attention"], d["mlp"]], 0) for _, to, d in moved if to in later}
    start, found = 0, []
    for k, subject in enumerate(survey.subjects):
        depth = subject.encoder.config.depth
        same = np.rint(np.arange(first_depth + 1) * depth / first_depth).astype(int)
        found.append(
            Measured(
                name=subject.name,
                source=subject.source,
                readout=next((c.correct for c in curves[k] if c.protocol == "logistic"), None) if curves else None,
                alignment=cka[np.arange(first_depth + 1), start + same],
                distance=distances.get(subject.name),
            )
        )
        start += depth + 1
    return found


@torch.inference_mode()
def _write_pictures(run: Run, subjects: Sequence[Subject], sample: Sample) -> None:
    """Write the first few images of the sample with the principal colours and attention of the last layer."""
    batch = next(sample.batches(sample.ids[:_PICTURES], size=_PICTURES))
    colours, attention = [], []
    for subject in subjects:
        encoder = subject.encoder
        grid = (encoder.config.grid, encoder.config.grid)
        name = f"block.{encoder.config.depth - 1}.attention_logits"
        images = batch.images.to(next(encoder.parameters()).device)
        encoded = encoder.encode(encoder.embed(images), trace=[name])
        colours.append(principal_colours(subject.last_norm(encoded).cpu(), grid=grid))
        attention.append(class_attention(encoded.traced[name]).cpu().unflatten(-1, grid))
    record.write_pictures(
        run.analysis,
        batch.images.permute(0, 2, 3, 1).cpu().numpy(),
        names=[s.name for s in subjects],
        colours=colours,
        attention=attention,
    )

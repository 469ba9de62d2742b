"""The encoders of an analysis, and which of them were trained from the first."""

from collections.abc import Sequence
from typing import cast

from torch import nn

from vitlet.analysis.diagnosis import RANDOM, is_random
from vitlet.analysis.survey import Subject
from vitlet.augmentation import View
from vitlet.environment import Environment
from vitlet.errors import UsageError
from vitlet.jobs.material import pick_device, start_content
from vitlet.jobs.options import Options
from vitlet.nn.convnet import require_patches
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier
from vitlet.rng import derive
from vitlet.text import printable, told_apart
from vitlet.weights.names import Source
from vitlet.weights.source import load_encoder


def open_subjects(
    encoders: Sequence[str], options: Options, *, seed: int, published: bool = False
) -> tuple[list[Subject], View]:
    """Return the encoders to analyse, with unique names, and the view of the first, which is used for all.

    Args:
        encoders: As for `jobs.analysing.analyse`.
        options: Device.
        seed: Decides untrained weights. Their stream is their own: a run with this seed started from other ones.
        published: Give MAE's encoders a new final norm. The paper's code reads them as networks that pool their
            patches, whose norm their files do not hold; MoCo-v3's, whose positions tell, it reads with their own norm.

    Raises:
        UsageError: if there is none, the first is `random`, or one has no attention.
        CheckpointError: as `load_encoder`.
    """
    if not encoders:
        raise UsageError("no encoder given", fix="vitlet analyse RUN --data DATA --out DIR")
    if is_random(encoders[0]):
        raise UsageError("random weights need a shape", fix="name a run or a model folder first, then random")
    saved = {word: load_encoder(_network(word, first=encoders[0])) for word in encoders}
    first = saved[encoders[0]]
    device = pick_device(options)
    subjects = []
    for name, word in zip(map(printable, told_apart([_path(word) for word in encoders])), encoders, strict=True):
        encoder, classifier = require_patches(saved[word].encoder, purpose="an analysis"), saved[word].classifier
        if is_random(word):
            control = derive(seed, "random control")
            made = Encoder(encoder.config, normalisation=encoder.normalisation, seed=control)
            subjects.append(Subject(name, made.to(device), source=printable(word)))
            continue
        if published and classifier is None and _has_norm_of_mae(encoder):
            cast(nn.LayerNorm, encoder.vit.norm).reset_parameters()
        head = classifier.to(device) if isinstance(classifier, Classifier) else None
        subjects.append(
            Subject(name, encoder.to(device), source=printable(word), classifier=head, classes=saved[word].classes)
        )
    return subjects, first.evaluation


def trained_from_first(subjects: Sequence[Subject]) -> set[str]:
    """Return the names of those trained from the first: runs record their start, other sources are assumed to be."""
    first, starts = subjects[0], dict[str, str | None]()
    for other in subjects[1:]:
        made = Environment.of(other.source)
        starts[other.name] = (made.launch.get("start") or "") if made.is_there else None
    is_asked = not is_random(first.source) and any(starts.values())  # the content needs a read from the disk
    content = start_content(first.source).split()[0] if is_asked else None
    return {name for name, start in starts.items() if start is None or start.split()[:1] == [content]}


def _network(word: str, *, first: str) -> str:
    """The encoder that `word` names or, if it asks for untrained weights, the one whose network gets them."""
    return first if word == RANDOM else word.removeprefix(f"{RANDOM}:")


def _path(word: str) -> tuple[str, ...]:
    """The path that tells an encoder from others of the same name; untrained weights say whose network they fill."""
    if word == RANDOM:
        return (RANDOM,)
    *folders, name = Source.parse(_network(word, first="")).path.resolve().parts
    return (*folders, f"{RANDOM} like {name}" if is_random(word) else name)


def _has_norm_of_mae(encoder: Encoder) -> bool:
    """Whether it ends in a norm and has MAE's positions, which tell in the files of the paper's authors."""
    shape = encoder.config
    return shape.final_norm and shape.position == "sincos" and shape.sincos_order == "column-row"

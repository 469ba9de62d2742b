"""The encoders of an analysis, and which of them were trained from the first."""

from collections.abc import Sequence
from pathlib import Path

from vitlet.analyse.diagnosis import RANDOM
from vitlet.analyse.survey import Subject
from vitlet.augmentation import View
from vitlet.disk import read_json
from vitlet.errors import UsageError
from vitlet.jobs.material import pick_device, start_content
from vitlet.jobs.options import Options
from vitlet.nn.convnet import require_patches
from vitlet.nn.encoder import Encoder
from vitlet.nn.heads import Classifier
from vitlet.text import printable
from vitlet.weights.names import Source
from vitlet.weights.source import load_encoder


def open_subjects(encoders: Sequence[str], options: Options) -> tuple[list[Subject], View]:
    """Return the encoders to analyse, with unique names, and the view of the first, which is used for all.

    Raises:
        UsageError: if there is none, the first is `random`, or one has no attention.
        CheckpointError: as `load_encoder`.
    """
    if not encoders:
        raise UsageError("no encoder given", fix="vitlet analyse RUN --data DATA --out DIR")
    if encoders[0] == RANDOM:
        raise UsageError("random weights need a shape", fix="name a run or a model folder first, then random")
    saved = {word: load_encoder(word) for word in encoders if word != RANDOM}
    first = saved[encoders[0]]
    device = pick_device(options)
    subjects = []
    for name, word in zip(_names(encoders), encoders, strict=True):
        if word == RANDOM:
            like = require_patches(first.encoder, purpose="an analysis")
            made = Encoder(like.config, normalisation=like.normalisation, seed=0)
            subjects.append(Subject(name, made.to(device), source=RANDOM))
            continue
        encoder, classifier = require_patches(saved[word].encoder, purpose="an analysis"), saved[word].classifier
        head = classifier.to(device) if isinstance(classifier, Classifier) else None
        subjects.append(
            Subject(name, encoder.to(device), source=printable(word), classifier=head, classes=saved[word].classes)
        )
    return subjects, first.evaluation


def trained_from_first(subjects: Sequence[Subject]) -> set[str]:
    """Return the names of those trained from the first: runs record their start, other sources are assumed to be."""
    first, starts = subjects[0], dict[str, str | None]()
    for other in subjects[1:]:
        facts = Path(other.source) / "environment.json"
        starts[other.name] = (read_json(facts).get("launch", {}).get("start") or "") if facts.is_file() else None
    is_asked = first.source != RANDOM and any(starts.values())  # the content needs a read from the disk
    content = start_content(first.source).split()[0] if is_asked else None
    return {name for name, start in starts.items() if start is None or start.split()[:1] == [content]}


def _names(words: Sequence[str]) -> list[str]:
    """Return the last parts of the paths where unique, else whole paths; a repeated source is numbered."""
    short = [word if word == RANDOM else Source.parse(word).path.resolve().name for word in words]
    names = [printable(s if short.count(s) == 1 else w) for s, w in zip(short, words, strict=True)]
    return [n if names.count(n) == 1 else f"{n} ({names[:i].count(n) + 1})" for i, n in enumerate(names)]

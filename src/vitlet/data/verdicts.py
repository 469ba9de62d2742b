"""The verdicts of `check` on a set of images, for users, for training and for the report."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any, final

import numpy as np

from vitlet.data.duplicates import dhash, equal_pairs, near_pairs, shared_pairs
from vitlet.data.findings import Findings
from vitlet.data.index import Index
from vitlet.data.splits import SPLITS, TRAIN
from vitlet.disk import write_csv
from vitlet.errors import DataError
from vitlet.text import plural, printable

_SHOWN = 20
_MOST_SIMILAR = 10_000
"""Number of similar pairs that are kept; there may be millions."""


@final
@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of images that are equal or similar; paths are looked up on access."""

    count: int
    _index: Index = field(repr=False)
    _rows: np.ndarray
    """Int64 [k, 2]: all equal pairs, or the first 10,000 similar ones."""

    def __len__(self) -> int:
        """Return the number of pairs kept, at most `count`."""
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((self._index.path(a), self._index.path(b)) for a, b in self._rows)

    @property
    def examples(self) -> tuple[tuple[str, str], ...]:
        """Paths of the first 20 pairs."""
        return tuple(islice(self, _SHOWN))

    def to_json(self) -> dict[str, Any]:
        """Return count and examples."""
        return {"count": self.count, "examples": [[printable(a), printable(b)] for a, b in self.examples]}


@final
@dataclass(frozen=True, eq=False)
class Remarks:
    """(path, text) of some images, in the order of the index; looked up on access."""

    _index: Index = field(repr=False)
    _rows: np.ndarray
    _codes: np.ndarray
    _texts: list[str]

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[tuple[str, str]]:
        return ((self._index.path(i), self._texts[code]) for i, code in zip(self._rows, self._codes, strict=True))

    def joined(self, rows: np.ndarray, text: str) -> "Remarks":
        """Return these and `text` about `rows`, in the order of the index."""
        codes = np.concatenate([self._codes, np.full(len(rows), len(self._texts), dtype=self._codes.dtype)])
        every = np.concatenate([self._rows, rows])
        order = np.argsort(every, kind="stable")
        return Remarks(self._index, every[order], codes[order], [*self._texts, text])

    def first(self, count: int) -> list[tuple[str, str]]:
        """Return at most `count` of them."""
        return list(islice(self, count))


@final
@dataclass(frozen=True, eq=False)
class Verdicts:
    """The verdict on every image of an index. Only `good` decides what is trained on; the rest is information."""

    name: str
    good: np.ndarray
    """Bool [n]; the k-th good image is the k-th image of the same set without the bad ones."""
    bad: Remarks
    """The reasons."""
    warnings: Remarks
    """Warnings of the decoder about images that it could read."""
    modes: dict[str, int]
    """Number of good images by form of storage, such as `JPEG RGB` or `GIF P, first frame`; most frequent first."""
    heights: tuple[int, int, int]
    """Smallest, median, largest of the good images, in pixels."""
    widths: tuple[int, int, int]
    duplicates: Pairs
    """Files with equal bytes: the first of them, paired with each of the others."""
    near_duplicates: Pairs
    """Similar images with different bytes."""
    leaks: Pairs
    """Images of val or test that have the same bytes as a training image."""
    near_leaks: Pairs
    balance: dict[str, dict[str, int]]
    """Number of good images by split and class; those without a label are under the empty name."""
    lost_classes: tuple[str, ...]
    """Classes that have training images, none of which is good."""
    notes: tuple[str, ...]
    """How the data was understood, and what was not read."""

    @property
    def pairs(self) -> dict[str, Pairs]:
        """The pairs by kind; leaks are among the duplicates as well."""
        return {kind: getattr(self, kind) for kind in ("duplicates", "near_duplicates", "leaks", "near_leaks")}

    def without(self, index: Index, rows: np.ndarray, *, reason: str) -> "Verdicts":
        """Return the verdicts with the good images of `rows` counted as bad; pairs and sizes stay as they are."""
        good = self.good.copy()
        good[rows] = False
        return replace(self, good=good, bad=self.bad.joined(rows, reason), balance=_balance(index, good))

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with printable names and lists cut after 20."""
        return {
            "name": self.name,
            "notes": list(self.notes),
            "num_images": len(self.good),
            "num_good": int(self.good.sum()),
            "num_bad": len(self.bad),
            "bad": [[printable(path), reason] for path, reason in self.bad.first(_SHOWN)],
            "num_warnings": len(self.warnings),
            "warnings": [[printable(path), text] for path, text in self.warnings.first(_SHOWN)],
            "modes": self.modes,
            "heights": list(self.heights),
            "widths": list(self.widths),
            **{kind: pairs.to_json() for kind, pairs in self.pairs.items()},
            "balance": {
                split: {printable(name): count for name, count in classes.items()}
                for split, classes in self.balance.items()
            },
            "lost_classes": [printable(name) for name in self.lost_classes],
        }

    def require(self, *, max_bad: float = 0.01, training: bool = True) -> None:
        """Refuse a set with too many bad images.

        Args:
            max_bad: The largest share of bad images to accept.
            training: Whether training images are needed, of every class.

        Raises:
            DataError: if the share is larger, nothing is left to train on, or a class has lost all its images.
        """
        share = len(self.bad) / len(self.good)
        worst = "; ".join(f"{printable(path)}: {reason}" for path, reason in self.bad.first(5))
        what = f"{len(self.bad):,} of {plural(len(self.good), 'image')} cannot be used"
        left = not training or sum(self.balance.get(SPLITS[TRAIN], {}).values())
        if not left and not len(self.bad):
            raise DataError(
                "no images to train on",
                where=self.name,
                why="All images belong to other splits",
                fix="put images into train/, or check the manifest's split column",
            )
        if not left or share > max_bad:
            enough = math.ceil(share * 100) / 100
            raise DataError(
                what,
                where=self.name,
                why=f"{share:.1%} is more than the accepted {max_bad:.1%}. Such as {worst}",
                fix=f"repair or remove them (vitlet check lists all), or go on without them: --max-bad {enough:g}",
            )
        if training and self.lost_classes:
            names = ", ".join(printable(name) for name in self.lost_classes[:_SHOWN])
            raise DataError(
                f"{plural(len(self.lost_classes), 'class', 'classes')} without a good training image: {names}",
                where=self.name,
                why=f"{what}. Such as {worst}",
                fix="repair the images or remove the class",
            )

    def write_bad_files(self, path: Path) -> None:
        """Write a CSV file (path, reason) of the bad images."""
        write_csv(path, ("path", "reason"), ((printable(name), reason) for name, reason in self.bad))

    def write_copies(self, path: Path) -> None:
        """Write a CSV file (kind, path, matches) of the pairs that are kept; in a leak `path` is the training image."""
        rows = ((kind, printable(a), printable(b)) for kind, pairs in self.pairs.items() for a, b in pairs)
        write_csv(path, ("kind", "path", "matches"), rows)


def summarise(index: Index, findings: Findings) -> Verdicts:
    """Return the verdicts that follow from the findings."""
    mode, warning = findings.column("mode"), findings.column("warning")
    good = mode > 0
    bad, remarked = np.flatnonzero(~good), np.flatnonzero(good & (warning > 0))
    in_train = index.splits == TRAIN
    modes = {findings.texts[code]: int(n) for code, n in enumerate(np.bincount(mode[good])) if n}
    lost = np.setdiff1d(index.labels[in_train], np.append(index.labels[good & in_train], -1))
    near_duplicates, near_leaks = _near_copies(index, findings, np.flatnonzero(good), in_train)
    duplicates, leaks = _copies(index, findings.column("digest"), good, in_train)
    return Verdicts(
        name=index.name,
        good=good,
        bad=Remarks(index, bad, findings.take("reason", bad), findings.texts),
        warnings=Remarks(index, remarked, warning[remarked], findings.texts),
        modes=dict(sorted(modes.items(), key=lambda mode: (-mode[1], mode[0]))),
        heights=_range(findings.column("height")[good]),
        widths=_range(findings.column("width")[good]),
        duplicates=duplicates,
        near_duplicates=near_duplicates,
        leaks=leaks,
        near_leaks=near_leaks,
        balance=_balance(index, good),
        lost_classes=tuple(index.classes[code] for code in lost),
        notes=index.notes,
    )


def _copies(index: Index, digests: np.ndarray, good: np.ndarray, in_train: np.ndarray) -> tuple[Pairs, Pairs]:
    """Return duplicates, and those between training and other images."""
    ids = np.flatnonzero(good)
    duplicates = _pairs(index, ids[equal_pairs(digests[ids])])
    train_ids, other_ids = np.flatnonzero(good & in_train), np.flatnonzero(good & ~in_train)
    leaks = shared_pairs(digests[train_ids], digests[other_ids])
    return duplicates, _pairs(index, np.stack([train_ids[leaks[:, 0]], other_ids[leaks[:, 1]]], axis=1))


def _near_copies(index: Index, findings: Findings, ids: np.ndarray, in_train: np.ndarray) -> tuple[Pairs, Pairs]:
    """Return near duplicates, and those between training and other images."""
    hashes = np.empty(len(findings), dtype=np.uint64)
    for places, rows in findings.parts():
        hashes[places] = dhash(rows["thumbnail"])
    hashes = hashes[ids]
    counts, firsts = [0, 0], [np.empty((0, 2), dtype=np.int64)] * 2
    for positions in near_pairs(hashes, lambda places: findings.take("thumbnail", ids[places])):
        pairs = ids[positions]
        unequal = pairs[findings.take("digest", pairs[:, 0]) != findings.take("digest", pairs[:, 1])]
        leaks = unequal[in_train[unequal[:, 0]] != in_train[unequal[:, 1]]]
        for k, more in enumerate((unequal, leaks)):
            counts[k] += len(more)
            candidates = np.concatenate([firsts[k], more])
            firsts[k] = candidates[np.lexsort((candidates[:, 1], candidates[:, 0]))][:_MOST_SIMILAR]
    near_duplicates, near_leaks = (_pairs(index, first, n) for first, n in zip(firsts, counts, strict=True))
    return near_duplicates, near_leaks


def _pairs(index: Index, pairs: np.ndarray, count: int | None = None) -> Pairs:
    return Pairs(len(pairs) if count is None else count, index, pairs)


def _range(sides: np.ndarray) -> tuple[int, int, int]:
    return (int(sides.min()), int(np.median(sides)), int(sides.max())) if len(sides) else (0, 0, 0)


def _balance(index: Index, good: np.ndarray) -> dict[str, dict[str, int]]:
    balance: dict[str, dict[str, int]] = {}
    for code, split in enumerate(SPLITS):
        labels = index.labels[good & (index.splits == code)]
        counts = np.bincount(labels + 1, minlength=len(index.classes) + 1)
        names = ("", *index.classes)
        if counts.any():
            balance[split] = {name: int(n) for name, n in zip(names, counts, strict=True) if n or name}
    return balance

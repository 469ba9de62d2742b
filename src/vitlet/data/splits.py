"""The splits of a data set, and the words for them in tables and in the names of folders and files."""

import os
import re
from collections.abc import Sequence
from typing import Literal

from vitlet.errors import DataError
from vitlet.text import printable

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
"""In the order of their codes."""
TRAIN, VAL, TEST = range(3)
"""Codes of the splits, as in the column `splits` of an index."""

WORDS = {"train": TRAIN, "training": TRAIN, "val": VAL, "valid": VAL, "validation": VAL, "test": TEST, "testing": TEST}
"""Codes by the words that other tools use."""

HELD_OUT = "held-out train"
"""Name of the images to evaluate on if the data has no split for it: a part of the training images."""

# The longest word first, and no letter after it: `valley.tar` is no validation split.
_FILE_START = re.compile(rf"({'|'.join(sorted(WORDS, key=len, reverse=True))})(?![^\W\d_])", re.IGNORECASE)


def code_of(word: str) -> int | None:
    """Return the code of the split that `word` stands for, in upper or lower case; None for other words."""
    return WORDS.get(word.lower())


def code_of_file(name: str) -> int | None:
    """Return the code of the split whose word a file name starts with, as in `train-00001.tar` and `val2017.json`."""
    start = _FILE_START.match(name)
    return code_of(start[0]) if start else None


def codes_of_files(files: Sequence[str], *, where: str) -> dict[str, int]:
    """Return the code of each file's split. If none of the names starts with a split, all files are training data.

    Args:
        files: Names; folders in them are ignored.
        where: Where the files are, for the message.

    Raises:
        DataError: if only some of the names start with a split.
    """
    codes = {file: code_of_file(os.path.basename(file)) for file in files}
    unclear = [os.path.basename(file) for file, code in codes.items() if code is None]
    if len(unclear) == len(codes):
        return dict.fromkeys(files, TRAIN)
    if unclear:
        raise DataError(
            f"the split of {printable(', '.join(unclear[:5]))} is not clear",
            where=where,
            why="Other files are named train*, validation* or test*",
            fix="rename or move these files",
        )
    return {file: code for file, code in codes.items() if code is not None}

"""Files of arrays: what is written is read, and nothing that could run code is."""

from pathlib import Path

import numpy as np
import pytest

from vitlet.arrays import read_arrays, write_arrays
from vitlet.errors import CheckpointError

ARRAYS = {"delta.0": np.linspace(0, 1, 7), "images": np.arange(24, dtype=np.uint8).reshape(2, 2, 2, 3)}


def test_arrays_return_as_they_were(tmp_path: Path) -> None:
    write_arrays(tmp_path / "new" / "a.npz", ARRAYS)
    read = read_arrays(tmp_path / "new" / "a.npz", needed=["images"], fix="")
    assert read.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert read[name].dtype == array.dtype
        assert np.array_equal(read[name], array)


def test_equal_arrays_give_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_arrays(tmp_path / f"{name}.npz", ARRAYS)
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_objects_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="Object arrays cannot be saved"):
        write_arrays(tmp_path / "a.npz", {"a": np.array([{}])})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["missing", "cut", "folder", "object", "single", "lacks"])
def test_what_cannot_be_read_is_named_with_its_fix(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.npz"
    if damage == "cut":
        write_arrays(path, ARRAYS)
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "folder":
        path.mkdir()
    elif damage == "object":  # unpickling it could run code
        np.savez(path, images=np.array([{}]))
    elif damage == "single":  # one array without a name
        with path.open("wb") as stream:
            np.save(stream, ARRAYS["images"])
    elif damage == "lacks":
        write_arrays(path, {"delta.0": ARRAYS["delta.0"]})
    with pytest.raises(CheckpointError, match=r"a\.npz .*Fix: run it again"):
        read_arrays(path, needed=["images"], fix="run it again")

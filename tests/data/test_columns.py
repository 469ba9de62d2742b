import subprocess
import sys
import time
from pathlib import Path

import pytest

from vitlet.data.columns import cache_folder
from vitlet.data.index import open_index
from vitlet.errors import ResourceError


def test_numbered_classes_are_in_the_order_of_the_numbers(tmp_path, tree):
    index = open_index(tree(tmp_path, "10/a.png", "2/a.png", "1/a.png"))
    assert index.classes == ("1", "2", "10")
    assert index.labels.tolist() == [0, 2, 1]  # the order of the paths is that of their bytes: 1, 10, 2


class TestCache:
    def test_where_it_is(self, tmp_path, monkeypatch):
        assert cache_folder(tmp_path) == tmp_path
        monkeypatch.setenv("VITLET_CACHE", "/a")
        assert cache_folder() == Path("/a")
        monkeypatch.delenv("VITLET_CACHE")
        monkeypatch.setenv("XDG_CACHE_HOME", "/b")
        assert cache_folder() == Path("/b/vitlet")
        monkeypatch.delenv("XDG_CACHE_HOME")
        monkeypatch.setenv("HOME", "/c")
        assert cache_folder() == Path("/c/.cache/vitlet")

    def test_nothing_is_left_behind(self, tmp_path, tree, problem):
        (tmp_path / "empty").mkdir()
        problem(tmp_path / "empty", cache=tmp_path / "cache")
        tree(tmp_path / "d", "1.png")
        folders = {open_index(tmp_path / "d", cache=tmp_path / "cache").folder for _ in range(2)}
        assert [*(tmp_path / "cache").iterdir()] == [*folders]

    def test_that_cannot_be_written(self, tmp_path, tree):
        (tmp_path / "file").write_text("")
        with pytest.raises(ResourceError, match="VITLET_CACHE"):
            open_index(tree(tmp_path / "d", "1.png"), cache=tmp_path / "file")

    def test_a_full_disk_says_so(self, tmp_path):
        with pytest.raises(ResourceError, match="No space left on device") as caught:
            _fill("/dev/full", tmp_path)
        assert caught.value.exit_code == 5


def _fill(device: str, cache: Path) -> None:
    from vitlet.data.columns import Writer

    with Writer(cache) as writer:
        writer._paths.close()
        writer._paths = open(device, "wb", buffering=0)  # noqa: SIM115
        writer.add(b"x", label=None, split=0, size=1, mtime=1)


@pytest.mark.long
def test_a_million_paths_cost_little_memory(tmp_path):
    """Built, opened and read for three epochs in a process of its own; the control is a list of strings."""
    program = """
import sys
import numpy, psutil
from pathlib import Path
from vitlet.data.columns import Writer
from vitlet.data.index import Index
def rss(): return psutil.Process().memory_info().rss / 1e6
N = 1_000_000
idle = rss()
with Writer(Path(sys.argv[1])) as writer:
    for i in range(N):
        writer.add(b"train/class_%03d/photograph_%08d.jpeg" % (i // 1000, i), label=b"%03d" % (i // 1000), split=0,
                   size=100_000 + i, mtime=1_700_000_000_000_000_000 + i)
    folder = writer.publish(key="", name="million", root="/nowhere", classes=writer.classes)
del writer
index = Index.load(folder)
built = rss() - idle
after = []
for epoch in range(3):
    order = numpy.random.Generator(numpy.random.Philox(epoch)).permutation(N)
    total = 0
    for i in order[:100_000]:
        total += len(index.path(i)) + int(index.labels[i])
    numpy.asarray(index.labels).sum(), numpy.asarray(index.sizes).sum(), numpy.asarray(index.splits).sum()
    del order
    after.append(rss() - idle)
assert index.path(123_456).endswith("class_123/photograph_00123456.jpeg"), index.path(123_456)
print(built, after)
assert built <= 150 and max(after) <= 150, (built, after)
assert after[2] - after[0] < 5, after
strings = [index.path(i) for i in range(200_000)]
assert rss() - idle - after[2] > 16, "the control should have cost more"
"""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-c", program, tmp_path], check=True, timeout=60, capture_output=True, text=True
    )
    print(done.stdout)
    assert time.monotonic() - start < 60

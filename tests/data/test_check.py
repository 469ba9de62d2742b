import io
import json
import os
import time

import numpy as np
import pytest
from PIL import Image

import vitlet.data.check as module
from vitlet.data.check import check
from vitlet.data.index import open_index
from vitlet.errors import DataError


def photo(key: int, kind: str = "JPEG", mode: str = "RGB") -> bytes:
    small = np.random.Generator(np.random.Philox(key)).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(small).resize((64, 48), Image.Resampling.BICUBIC).convert(mode).save(stream, format=kind)
    return stream.getvalue()


def write(root, files: dict[str, bytes]):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def bad_paths(verdicts) -> list[str]:
    return [path for path, _ in verdicts.bad]


def test_every_kind_of_trouble_is_reported(tmp_path):
    full = photo(1)
    root = write(
        tmp_path / "d",
        {
            "train/cat/ok.jpg": photo(0),
            "train/cat/copy.jpg": photo(0),
            "train/cat/odd.png": photo(5, "PNG", "RGBA"),
            "train/cat/cut.jpg": full[: len(full) // 2],
            "train/dog/page.jpg": b"<html>404</html>",
            "train/dog/ok.jpg": photo(2),
            "val/cat/leak.jpg": photo(0),
            "val/dog/like.png": photo(2, "PNG"),
            "val/dog/tiny.png": b"",
        },
    )
    index = open_index(root)
    calls = []
    verdicts = check(index, workers=2, progress=lambda done, total: calls.append((done, total)))
    assert calls == [(i, 9) for i in range(1, 10)]
    assert bad_paths(verdicts) == ["train/cat/cut.jpg", "train/dog/page.jpg", "val/dog/tiny.png"]
    reasons = dict(verdicts.bad)
    assert "truncated" in reasons["train/cat/cut.jpg"].lower()
    assert "not a JPEG" in reasons["train/dog/page.jpg"]
    assert reasons["val/dog/tiny.png"] == "the file is empty"
    assert verdicts.good.tolist() == [path not in reasons for path in map(index.path, range(9))]
    assert verdicts.modes == {"JPEG RGB": 4, "PNG RGB": 1, "PNG RGBA": 1}
    assert (verdicts.heights, verdicts.widths) == ((48, 48, 48), (64, 64, 64))
    assert verdicts.duplicates.count == 2
    assert verdicts.leaks.examples == (("train/cat/copy.jpg", "val/cat/leak.jpg"),)
    assert ("train/dog/ok.jpg", "val/dog/like.png") in verdicts.near_leaks.examples
    assert verdicts.balance == {"train": {"cat": 3, "dog": 1}, "val": {"cat": 1, "dog": 1}}
    assert json.loads(json.dumps(verdicts.to_json(), allow_nan=False))["num_bad"] == 3


def test_verdicts_are_cached_by_file_limits_and_decoder(tmp_path, monkeypatch):
    root = write(tmp_path / "d", {f"{i}.jpg": photo(i) for i in range(6)} | {"6.jpg": photo(6)[:200]})
    decoded = []

    def counting(work, items, **options):
        items = list(items)
        decoded.append([open_index(root).path(i) for i in items])
        return parallel(work, items, **options)

    parallel = module.parallel
    monkeypatch.setattr(module, "parallel", counting)

    def run(**options):
        decoded.clear()
        verdicts = check(open_index(root), workers=1, **options)
        return verdicts, decoded[0]

    first, names = run()
    assert len(names) == 7
    second, names = run()
    assert names == []
    assert second.to_json() == first.to_json()
    (root / "2.jpg").write_bytes(photo(20))
    (root / "new.jpg").write_bytes(photo(21))
    assert run()[1] == ["2.jpg", "new.jpg"]
    assert len(run(min_side=9)[1]) == 8
    monkeypatch.setattr(module, "decoder_version", lambda: "another")
    assert len(run()[1]) == 8


def test_a_damaged_cache_is_made_anew(tmp_path):
    root = write(tmp_path / "d", {"1.jpg": photo(1)})
    check(open_index(root), workers=1, cache=tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("check-*.npz")
    for content in (b"", b"PK\x03\x04", file.read_bytes()[:300]):
        file.write_bytes(content)
        assert check(open_index(root), workers=1, cache=tmp_path / "cache").good.all()


def test_read_errors_are_tried_again(tmp_path):
    root = write(tmp_path / "d", {"1.jpg": photo(1), "2.jpg": photo(2)})
    index = open_index(root)
    os.rename(root / "1.jpg", root / "away")
    assert bad_paths(check(index, workers=1)) == ["1.jpg"]
    os.rename(root / "away", root / "1.jpg")
    assert check(index, workers=1).good.all()


def test_an_interrupted_check_goes_on_where_it_was(tmp_path):
    index = open_index(write(tmp_path / "d", {f"{i}.jpg": photo(i) for i in range(40)}))

    def interrupt(done, total):
        if done == 25:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        check(index, workers=2, progress=interrupt)
    calls = []
    assert check(index, workers=2, progress=lambda done, total: calls.append(done)).good.all()
    assert calls[0] == 26


def test_grey_fill_that_the_decoder_only_remarks_on_is_bad(tmp_path):
    """The scan ends early but the end marker is there: libjpeg fills up with grey and writes a line to stderr."""
    whole = photo(3)
    index = open_index(write(tmp_path / "d", {"1.jpg": whole[:-150] + b"\xff\xd9", "2.jpg": whole}))
    verdicts = check(index, workers=1)
    assert bad_paths(verdicts) == ["1.jpg"]
    assert "premature end of data segment" in verdicts.bad[0][1]


def test_a_hanging_file_system_cannot_hold_the_check(tmp_path, monkeypatch):
    root = write(tmp_path / "d", {f"{i}.jpg": photo(i) for i in range(10)})
    index = open_index(root)
    read = type(index).read

    def slow(self, i):
        if i == 4:
            time.sleep(60)
        return read(self, i)

    monkeypatch.setattr(type(index), "read", slow)
    verdicts = check(index, workers=2, item_seconds=1)
    assert verdicts.bad == [("4.jpg", "no result after 1 s")]


def test_thirty_percent_corrupt_files_change_nothing_for_the_good_ones(tmp_path):
    clean = {f"train/{'cat' if i % 2 else 'dog'}/{i:02d}.jpg": photo(i) for i in range(14)}
    damaged = {name.replace(".jpg", "x.jpg"): content[:100] for name, content in list(clean.items())[:6]}
    first = open_index(write(tmp_path / "clean", clean))
    second = open_index(write(tmp_path / "mixed", clean | damaged))
    verdicts = check(second, workers=2)
    ids = np.flatnonzero(verdicts.good)
    assert [second.path(i) for i in ids] == [first.path(i) for i in range(14)]
    np.testing.assert_array_equal(second.labels[ids], first.labels)
    with pytest.raises(DataError, match=r"6 of 20 images cannot be used.*--max-bad 0\.3"):
        verdicts.require()
    verdicts.require(max_bad=0.3)
    check(first, workers=1).require(max_bad=0)

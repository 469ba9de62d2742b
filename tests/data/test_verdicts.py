import csv

import numpy as np
import pytest

from vitlet.data.check import check
from vitlet.data.findings import Findings
from vitlet.data.index import open_index
from vitlet.data.verdicts import summarise
from vitlet.errors import DataError


def judged(index, bad: dict[int, str]):
    """Verdicts as if the images in `bad` had failed, without decoding anything."""
    findings = Findings(len(index), folder=index.folder)
    for i in range(len(index)):
        texts = {"reason": bad[i]} if i in bad else {"mode": "PNG L"}
        codes = {column: findings.code(text) for column, text in texts.items()}
        findings.enter(i, digest=b"%016d" % i, height=8, width=8, **codes)
    return summarise(index, findings)


def test_above_the_accepted_share_it_stops_and_says_how_to_go_on(tmp_path, tree):
    index = open_index(tree(tmp_path, *(f"{i:03d}.png" for i in range(200))))
    judged(index, {3: "x", 4: "y"}).require()
    verdicts = judged(index, {3: "truncated", 4: "y", 5: "z"})
    with pytest.raises(DataError) as caught:
        verdicts.require()
    assert "3 of 200 images cannot be used" in str(caught.value)
    assert "003.png: truncated" in str(caught.value)
    assert "--max-bad 0.02" in str(caught.value)
    verdicts.require(max_bad=0.02)


def test_nothing_left_or_a_lost_class_always_stops(tmp_path, tree):
    index = open_index(tree(tmp_path, "a/0.png", "b/1.png", "b/2.png"))
    with pytest.raises(DataError, match="1 class without a good training image: a"):
        judged(index, {0: "x"}).require(max_bad=1)
    with pytest.raises(DataError, match="3 of 3 images"):
        judged(index, {0: "x", 1: "x", 2: "x"}).require(max_bad=1)


def test_bad_files_cannot_act_as_formulas(tmp_path, tree):
    names = ["=cmd|' /C calc'!A0.png", "+1.png", "-1.png", "@x.png", "\tx.png", 'quote".png', "new\nline.png"]
    index = open_index(tree(tmp_path / "d", *names, b"\xff.png", "ok.png"))
    bad = {i: "=reason" for i in range(len(index)) if index.path(i) != "ok.png"}
    judged(index, bad).write_bad_files(tmp_path / "bad_files.csv")
    with open(tmp_path / "bad_files.csv", encoding="utf-8", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows[0] == ["path", "reason"]
    assert len(rows) == 9
    assert all(not cell.startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows for cell in row)
    cells = [row[0] for row in rows]
    assert "'=cmd|' /C calc'!A0.png" in cells
    assert "new\\x0aline.png" in cells
    assert "\\xff.png" in cells


def test_all_pairs_of_equal_images_are_written(tmp_path, tree, png):
    root = tree(tmp_path / "d", "train/0.png")
    for i in range(25):
        (root / f"val/{i:02}.png").parent.mkdir(exist_ok=True)
        (root / f"val/{i:02}.png").write_bytes(png(0))
    verdicts = check(open_index(root), workers=1)
    assert (verdicts.leaks.count, len(verdicts.leaks.examples)) == (25, 20)
    verdicts.write_copies(tmp_path / "copies.csv")
    with open(tmp_path / "copies.csv", encoding="utf-8", newline="") as stream:
        head, *rows = csv.reader(stream)
    assert head == ["kind", "path", "matches"]
    leaks = [tuple(row[1:]) for row in rows if row[0] == "leaks"]
    assert leaks == [("train/0.png", f"val/{i:02}.png") for i in range(25)]
    assert sum(row[0] == "duplicates" for row in rows) == 25


def test_copies_cannot_act_as_formulas(tmp_path, tree, png):
    root = tree(tmp_path / "d", "=1+1.png")
    (root / "@x.png").write_bytes(png(0))
    check(open_index(root), workers=1).write_copies(tmp_path / "copies.csv")
    with open(tmp_path / "copies.csv", encoding="utf-8", newline="") as stream:
        assert list(csv.reader(stream))[1:] == [["duplicates", "'=1+1.png", "'@x.png"]]


def test_what_was_not_read_is_part_of_the_record(tmp_path, tree):
    index = open_index(tree(tmp_path, "0.png", "1.heic"))
    assert index.notes
    assert judged(index, {}).to_json()["notes"] == list(index.notes)


@pytest.mark.shared
def test_images_of_coco_that_are_in_both_splits_are_found(shared):
    verdicts = check(open_index(shared / "coco_small"), workers=2)
    assert verdicts.good.all()
    assert verdicts.leaks.count == 32


def test_images_left_out_later_stand_among_the_bad_ones_with_their_reason(tmp_path, tree):
    index = open_index(tree(tmp_path, "a/0.png", "a/1.png", "b/2.png", "b/3.png", "b/4.png"))
    before = judged(index, {2: "truncated"})
    now = before.without(index, np.array([0, 4]), reason="as before")
    assert now.good.tolist() == [False, True, False, True, False]
    assert list(now.bad) == [("a/0.png", "as before"), ("b/2.png", "truncated"), ("b/4.png", "as before")]
    assert (now.to_json()["num_bad"], now.balance) == (3, {"train": {"a": 1, "b": 1}})
    assert before.good.sum() == 4

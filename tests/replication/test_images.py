"""The halves that stand in for the paper's data sets."""

import re
from pathlib import Path

import numpy as np
import pytest
from small_images import CLASSES, command, write_images

from vitlet.cli import main
from vitlet.data.index import open_index
from vitlet.data.splits import SPLITS
from vitlet.replication.images import Counts, counts, in_half, labels_of, num_chosen, write_half


def test_halves_have_other_classes_and_images_and_are_all_there_is(images: Path):
    index = open_index(images)
    up, down = (np.flatnonzero(in_half(index, half)) for half in ("upstream", "downstream"))
    assert not set(up) & set(down)
    assert len(up) + len(down) == len(index)
    assert {index.classes[c] for c in np.unique(index.labels[up])} == {CLASSES[0], CLASSES[2]}


def test_a_half_is_written_with_its_bytes_labels_and_splits(images: Path, tmp_path: Path):
    index = open_index(images)
    rows = np.flatnonzero(in_half(index, "downstream"))
    write_half(images, "downstream", tmp_path / "half", note=b"{}\n")
    copy = open_index(tmp_path / "half")
    assert copy.classes == (CLASSES[1], CLASSES[3])

    def content(of, ids) -> set[tuple[bytes, str, str]]:
        return {(of.read(i), of.classes[of.labels[i]], SPLITS[of.splits[i]]) for i in ids}

    assert content(copy, range(len(copy))) == content(index, rows)
    assert (tmp_path / "half" / "node.json").read_bytes() == b"{}\n"


def test_links_are_followed_only_if_told_so_and_every_task_of_a_cluster_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    images = write_images(tmp_path / "elsewhere", train=4, test=2)
    linked, out, jobs = tmp_path / "linked", tmp_path / "out", tmp_path / "jobs"
    linked.mkdir()
    for split in ("train", "test"):
        (linked / split).symlink_to(images / split)
    asked = command(linked, out, "--slurm", str(jobs), what=("claim-1",))
    assert main(asked) == 3
    assert "--follow-outside" in capsys.readouterr().err
    assert main([*asked, "--follow-outside", "--max-bad", "0.5"]) == 0
    first, *others = sorted(jobs.glob("*.sbatch"))
    assert all("--max-bad 0.5 --follow-outside" in file.read_text() for file in (first, *others))
    half = next(word for word in re.findall(r"\b[0-9a-f]{12}\b", first.read_text()))
    assert main([*command(linked, out, "--node", half, what=("claim-1",)), "--follow-outside"]) == 0
    (folder,) = (out / "data").iterdir()
    assert len(open_index(folder)) == 2 * (4 + 2)


def test_counts_are_those_that_a_job_would_use(images: Path, tmp_path: Path):
    index = open_index(images)
    assert counts(index, in_half(index, "upstream")) == Counts(classes=2, train=48, test=16, smallest=24)
    train_only = open_index(images / "train")
    assert counts(train_only) == Counts(classes=4, train=76, test=20, smallest=19), "a fifth is held out"


@pytest.mark.parametrize(("share", "labels"), [(1.0, 48), (0.5, 24), (0.001, 2)])
def test_labels_are_a_share_of_the_smallest_class_and_one_at_least(share: float, labels: int):
    assert labels_of(Counts(classes=2, train=60, test=16, smallest=24), share) == labels


@pytest.mark.parametrize(("subset", "number"), [("50%", 24), ("tail:2", 24 + 12)])
def test_a_subset_is_counted_as_it_will_be_drawn(images: Path, subset: str, number: int):
    index = open_index(images)
    labels = np.repeat([0, 1], 24)
    assert num_chosen(counts(index, in_half(index, "upstream")), labels, subset) == number

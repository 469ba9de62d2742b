"""Suites: what a file may say, and what is refused before anything heavy is imported."""

from pathlib import Path

import pytest

from vitlet.errors import UsageError
from vitlet.jobs.suites import paper_suite, read_suite

SMALL = """
recipe = "debug_supervised"

[grid]
lr = [0.01, 0.1]
epochs = [[1, 0], [2, 1]]
layer_decay = [1.0]

[[data]]
name = "ours"
data = "photos"

[[data]]
name = "pets"
title = "Cats and dogs"
data = "torchvision:pets@tv"
recipe = "transfer_pets"

[data.grid]
lr = [0.03]
epochs = [[1, 0]]
layer_decay = [0.75]
"""


def write(folder: Path, text: str) -> str:
    (folder / "mine.toml").write_text(text)
    return str(folder / "mine.toml")


def test_the_papers_suite_is_its_six_data_sets_with_twelve_settings_each(tmp_path: Path) -> None:
    suite = read_suite("paper", root=tmp_path)
    assert suite == paper_suite(tmp_path)
    sizes = {entry.name: len(suite.settings_of(entry)) for entry in suite.data}
    assert sizes == {"flowers102": 12, "pets": 12, "aircraft": 12, "cars": 12, "cifar100": 12, "inat18": 1}
    assert {entry.data for entry in suite.data} == {f"torchvision:{name}@{tmp_path}" for name in sizes}


def test_a_file_names_data_beside_it_and_grids_from_the_nearest(tmp_path: Path) -> None:
    suite = read_suite(write(tmp_path, SMALL), root=None)
    ours, pets = suite.data
    assert suite.name == "mine"
    assert ours.data == f"{tmp_path}/photos"
    assert pets.data == f"torchvision:pets@{tmp_path}/tv"
    assert [r.name for r in suite.settings_of(ours)] == ["debug_supervised"] * 4
    (only,) = suite.settings_of(pets)
    assert (only.name, only.optimizer.base_lr, only.optimizer.layer_decay) == ("transfer_pets", 0.03, 0.75)


def test_a_recipe_brings_its_own_grid_and_one_without_is_taken_as_it_is(tmp_path: Path) -> None:
    text = '[[data]]\nname = "a"\ndata = "a"\n[[data]]\nname = "b"\ndata = "b"\nrecipe = "finetune_micro"\n'
    suite = read_suite(write(tmp_path, text), root=None)
    assert [len(suite.settings_of(entry)) for entry in suite.data] == [8, 1]


def test_a_part_of_a_suite_can_be_asked_for(tmp_path: Path) -> None:
    suite = read_suite("paper", root=tmp_path, only=("pets", "cars"))
    assert [entry.name for entry in suite.data] == ["pets", "cars"]


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("data = 3", "data = 3"),
        ("[[data]\n", "not TOML"),
        ("", "'data' is missing"),
        ('[[data]]\nname = "a"\ndata = "a"\nrecipie = "x"\n', "Did you mean recipe"),
        ('[[data]]\nname = "a"\ndata = "a"\nrecipe = "transfer_flower"\n', "Did you mean transfer_flowers"),
        ('[[data]]\nname = "a"\ndata = "a"\nrecipe = "mae_micro"\n', "no recipe for a transfer"),
        ('[[data]]\nname = "a"\ndata = "a"\nrecipe = "finetune_micro_convnet"\n', "no recipe for a transfer"),
        ('[[data]]\nname = "a"\ndata = "torchvision:cat@x"\n', "no public data set"),
        ('[[data]]\nname = "../a"\ndata = "a"\n', "data.0.name"),
        ('[[data]]\nname = "a"\ndata = "a"\n[[data]]\nname = "a"\ndata = "b"\n', "two data sets called a"),
        ('[grid]\nlr = []\nepochs = [[1, 0]]\n[[data]]\nname = "a"\ndata = "a"\n', "grid.lr"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, text: str, answer: str) -> None:
    with pytest.raises(UsageError, match=answer):
        read_suite(write(tmp_path, text), root=None)


def test_unknown_suites_and_parts_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="Known: paper"):
        read_suite("papers", root=tmp_path)
    with pytest.raises(UsageError, match="--root FOLDER"):
        read_suite("paper", root=None)
    with pytest.raises(UsageError, match="Did you mean pets"):
        read_suite("paper", root=tmp_path, only=("pet",))

"""What a report reads of a run directory, and what it does where a file is missing or damaged."""

import numpy as np
import pytest

from vitlet.disk import TEMPORARY, write_json
from vitlet.errors import CheckpointError
from vitlet.recipes import by_name
from vitlet.reports.contents import find_comparison, read
from vitlet.run import Run


def test_only_the_recipe_is_needed(tmp_path, run_maker):
    (bare,) = read([run_maker(tmp_path / "bare", full=False)])
    assert (bare.metrics, bare.results, bare.environment.is_there) == ([], [], False)
    assert bare.reconstructions is None
    assert bare.check is None
    with pytest.raises(CheckpointError, match=r"recipe\.json"):
        read([Run(tmp_path / "nothing")])


def test_runs_of_one_name_are_told_apart(tmp_path, run_maker):
    paths = ("a/run", "b/run", "b/other")
    assert [c.name for c in read([run_maker(tmp_path / p, full=False) for p in paths])] == [
        "a/run",
        "b/run",
        "other",
    ]


def test_runs_whose_parents_are_called_alike_too(tmp_path, run_maker):
    paths = ("one/mae/run", "two/mae/run", "two/dino/run", "two/dino/run")
    made = {path: run_maker(tmp_path / path, full=False) for path in dict.fromkeys(paths)}
    assert [c.name for c in read([made[path] for path in paths])] == [
        "one/mae/run",
        "two/mae/run",
        "dino/run (1)",
        "dino/run (2)",
    ]


def test_the_hash_is_the_recipes_own(tmp_path):
    recipe = by_name("mae_micro")
    write_json(tmp_path / "recipe.json", recipe.to_json())
    assert read([Run(tmp_path)])[0].recipe_hash == recipe.fingerprint()


def test_what_a_killed_writer_left_is_not_read(tmp_path, run_maker):
    run = run_maker(tmp_path / "run")
    (run.results / f"{TEMPORARY}7-knn.json").write_text('{"metric": "to')
    assert len(read([run])[0].results) == 1


@pytest.mark.parametrize("damage", ["cut", "object", "shape", "missing"])
def test_damaged_pictures_are_named(tmp_path, run_maker, damage):
    run = run_maker(tmp_path / "run")
    path = run.analysis / "reconstructions.npz"
    images = np.zeros((2, 8, 8, 3), np.uint8)
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:200])
    elif damage == "object":  # unpickling it could run code
        np.savez(path, input=np.array([{}]), masked=images, reconstruction=images)
    elif damage == "shape":
        np.savez(path, input=images[..., 0], masked=images[..., 0], reconstruction=images[..., 0])
    else:
        np.savez(path, input=images)
    with pytest.raises(CheckpointError, match=r"reconstructions\.npz"):
        read([run])


def test_a_comparison_is_found_beside_the_runs_that_it_names(tmp_path, run_maker, demo_maker, comparison_maker):
    """Every one of them, and where it stands: a folder may hold runs on other data, and another folder like names."""
    runs, given = demo_maker(tmp_path / "demo"), comparison_maker() | {"pretrained": "pretrain"}
    assert find_comparison(runs) is None
    write_json(tmp_path / "demo" / "comparison.json", given)
    for asked in (runs, runs[:1], runs[1:], runs[4:5]):
        assert find_comparison(asked) == given
    other = run_maker(tmp_path / "demo" / "other", full=False)
    like = run_maker(tmp_path / "elsewhere" / "pretrain", full=False)
    for asked in ([other], [*runs, other], [like], [like, *runs[1:]], []):
        assert find_comparison(asked) is None
    write_json(tmp_path / "demo" / "comparison.json", comparison_maker())
    assert find_comparison(runs[:1]) is None, "a run of pre-training is no arm"

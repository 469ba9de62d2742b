"""The sections that show what was found."""

import json
import re
from collections import defaultdict

import numpy as np
import pytest

from vitlet.evaluation.health import explain, verdict
from vitlet.reports import evidence
from vitlet.reports.contents import read
from vitlet.reports.page import write_page


def test_sections_without_their_files_are_empty(tmp_path, run_maker):
    bare = read([run_maker(tmp_path / "bare", full=False)])
    assert evidence.accuracy(bare, None) is None
    assert evidence.losses(bare) == ()
    assert evidence.pictures(bare) == ()
    assert evidence.health(bare) is None


def test_losses_of_different_methods_are_not_drawn_on_one_axis(tmp_path, demo_maker, comparison_maker):
    pretraining, fine_tuning = evidence.losses(read(demo_maker(tmp_path), comparison_maker()))
    assert "squared error of normalised pixels" in pretraining.finding
    assert "cross-entropy" in fine_tuning.finding
    assert pretraining.key == ()
    assert [words for _, words in fine_tuning.key] == ["MAE pre-training (3 runs)", "random init (3 runs)"]


def series(*drawings: str) -> set[str]:
    return {colour for drawing in drawings for colour in re.findall(r"--series-\d", drawing)}


def test_a_run_has_one_colour_in_all_figures_and_no_other_has_it(tmp_path, run_maker):
    kinds = {"mae": "mae", "fine": "supervised", "other": "mae", "scr": "supervised"}
    runs = read([run_maker(tmp_path / name, kind=kind) for name, kind in kinds.items()])
    seen: dict[str, set[str]] = defaultdict(set)
    for _, rows, _ in evidence.accuracy(runs, None).groups:
        for row in rows:
            seen[row.title] |= series(row.key, row.drawing)
    plots = [*evidence.losses(runs), *evidence.health(runs).plots]
    for swatch, words in (entry for plot in plots for entry in plot.key):
        seen[words] |= series(swatch)
    assert [[words for _, words in plot.key] for plot in plots] == [["mae", "other"], ["fine", "scr"]] + 3 * [
        ["mae", "other"]
    ]
    assert all(series(*plot.drawings) == series(*(swatch for swatch, _ in plot.key)) for plot in plots)
    assert seen == {name: {f"--series-{i}"} for i, name in enumerate(kinds, 1)}


def test_arms_keep_their_colours_and_other_runs_have_none_of_them(tmp_path, demo_maker, comparison_maker):
    given = comparison_maker()
    runs = read(demo_maker(tmp_path), given)
    pretraining, fine_tuning = evidence.losses(runs)
    rows = evidence.accuracy(runs, given).groups[0][1]
    assert [(row.title, series(row.key)) for row in rows] == [(w, series(swatch)) for swatch, w in (
        (swatch, words.removesuffix(" (3 runs)")) for swatch, words in fine_tuning.key
    )]  # fmt: skip
    own = series(*pretraining.drawings, *(d for plot in evidence.health(runs).plots for d in plot.drawings))
    assert len(own) == 1
    assert not own & series(*fine_tuning.drawings)


def test_the_finding_tells_each_runs_first_and_last_value(tmp_path, run_maker):
    (plot,) = evidence.losses(read([run_maker(tmp_path / "one")]))
    first, last = plot.finding.removesuffix(".").split(" from ")[1].split(" to ")
    assert float(first) == pytest.approx(0.95, abs=0.05)
    assert float(last) == pytest.approx(0.39, abs=0.03)
    assert f">{last}</text>" in plot.drawings[0], "readers and listeners are told the same number"


def test_accuracy_marks_guessing_only_where_the_classes_are_known(tmp_path, run_maker, comparison_maker):
    runs = read([run_maker(tmp_path / "one")])
    assert evidence.accuracy(runs, None).chance == ""
    assert evidence.accuracy(runs, comparison_maker()).chance.endswith("(1 of 10 classes)")


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((0.1, 0.2), "entirely above"),
        ((-0.2, -0.1), "entirely below"),
        ((-0.1, 0.1), "both sides"),
        (None, "no interval"),
    ],
)
def test_the_difference_is_told_in_words(interval, words):
    assert words in evidence.difference_plot(0.1, interval, title="x").finding


def test_pictures_say_where_their_brightness_comes_from(tmp_path, run_maker):
    run = run_maker(tmp_path / "one")
    (shown,) = evidence.pictures(read([run]))
    labels = ["input", "masked", "reconstruction; brightness and contrast predicted too"]
    assert [[picture.label for picture in rows] for rows in shown.sets] == [labels] * 2
    (run.analysis / "reconstructions.json").write_text('{"caption": "", "statistics": "target"}')
    assert evidence.pictures(read([run]))[0].sets[0][2].label.endswith("contrast target")


def test_many_pictures_are_cut_and_it_is_said(tmp_path, run_maker):
    run = run_maker(tmp_path / "one")
    images = np.zeros((30, 16, 16, 3), np.uint8)
    np.savez(run.analysis / "reconstructions.npz", input=images, masked=images, reconstruction=images)
    assert "first 8 of 30" in evidence.pictures(read([run]))[0].caption


def test_health_gives_the_last_verdict_of_every_run(tmp_path, run_maker):
    health = evidence.health(read([run_maker(tmp_path / "a"), run_maker(tmp_path / "b")]))
    assert health.verdicts == (
        ("a", "learning", "loss 1.0 at first, 0.4 now."),
        ("b", "learning", "loss 1.0 at first, 0.4 now."),
    )
    assert [plot.title for plot in health.plots] == ["kNN on frozen features", "Feature spread", "Effective rank"]


def test_a_verdict_that_is_too_early_is_shown_as_such(tmp_path, run_maker):
    run = run_maker(tmp_path / "a")
    found = {"verdict": verdict([0.9], []), "advice": explain([0.9], [])}
    run.metrics_file.write_text(json.dumps({"step": 1, "epoch": 0.1, "loss": 0.9, "probe": found}) + "\n")
    health = evidence.health(read([run]))
    assert health.verdicts == (("a", "too early", "loss 0.9, 1 logged and 8 needed for a trend."),)
    assert "last health check: too early." in write_page([run], out=tmp_path / "page.html").read_text()

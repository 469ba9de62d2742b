"""Suggestions held against fine-tuning: the rule, what is fine-tuned, and a study from end to end."""

import json
from pathlib import Path
from typing import Any

import pytest
from small_runs import QUIET, write_images

from in_place import in_place
from vitlet.analysis.diagnosis import Claim, Suggestion, Way
from vitlet.data.index import open_index
from vitlet.evaluation.compare import paired_difference
from vitlet.jobs import side_by_side, studying
from vitlet.jobs.studying import outcome, study
from vitlet.jobs.training import pretrain
from vitlet.units import Images
from vitlet.weights.folder import read_model, write_model


@pytest.mark.parametrize(
    ("better", "worse", "expected"),
    [
        ((0.50, 0.51, 0.52), (0.40, 0.41, 0.42), "right"),
        ((0.40, 0.41, 0.42), (0.50, 0.51, 0.52), "wrong"),
        ((0.50, 0.60, 0.40), (0.45, 0.52, 0.44), "undecided"),
        ((0.90,), (0.10,), "undecided"),
        ((0.50, 0.60, 0.40), (0.50, 0.60, 0.40), "wrong"),
    ],
)
def test_the_rule(better: tuple[float, ...], worse: tuple[float, ...], expected: str) -> None:
    assert outcome(paired_difference(better, worse)) == expected


def test_what_was_not_fine_tuned_is_not_judged() -> None:
    assert outcome(None) == "not judged"


@pytest.mark.long
def test_from_end_to_end_with_planted_suggestions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Real analyses and fine-tunings; what the rules would say about such small runs is replaced."""
    data = write_images(tmp_path / "images", train=72, test=16)
    small = {"budget.duration": Images(n=64), "budget.batch_size": 8}
    runs = [
        pretrain("mae_micro", data=data, out=tmp_path / name, seed=seed, set=small, options=QUIET).path
        for seed, name in enumerate(("one", "two"))
    ]
    planted = [
        Suggestion("Initialisation", "f", "s", "c", "high", Claim(Way(str(runs[0])), Way("random"))),
        Suggestion("Lower blocks", "f", "s", "c", "low", Claim(Way(str(runs[0]), layer_decay=0.75), Way(str(runs[0])))),
        Suggestion("Top blocks", "f", "s", "c", "high"),
        Suggestion("Distillation", "f", "", "", "no evidence"),
    ]
    monkeypatch.setattr("vitlet.jobs.analysing.diagnose", lambda measured, place: planted)
    monkeypatch.setattr(side_by_side, "processes", in_place)

    def run(**more: Any) -> dict[str, Any]:
        options = {
            "data": data,
            "out": tmp_path / "out",
            "labels": (8,),
            "seeds": 2,
            "settings": small,
            "num_images": 32,
        }
        return study(runs, **options, **more, json=tmp_path / "table.json")

    found = run()
    assert json.loads((tmp_path / "table.json").read_text()) == json.loads(json.dumps(found))
    assert found["data"] == {"name": "images", "fingerprint": open_index(data).fingerprint}
    assert [row["encoder"] for row in found["rows"]] == ["one"] * 4 + ["two"] * 4
    first, lower, top, distil = found["rows"][:4]
    assert len(first["values"]["better"]) == 2
    assert first["difference"]["mean"] == pytest.approx(
        sum(a - b for a, b in zip(first["values"]["better"], first["values"]["worse"], strict=True)) / 2
    )
    assert lower["values"]["worse"] == first["values"]["better"], "the same fine-tuning is made once"
    assert (top["outcome"], distil["outcome"]) == ("not judged", "no evidence")
    tuned = list((tmp_path / "out/finetuned").iterdir())
    assert len(tuned) == 3 * 2, "three ways, two seeds"
    decays = {json.loads((run / "recipe.json").read_text())["optimizer"]["layer_decay"] for run in tuned}
    assert 0.75 in decays
    assert len(decays) == 2
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    run()
    after = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.json")}
    assert {path.name for path in before if before[path] != after[path]} == {studying.FILE}
    assert "Lower blocks" in capsys.readouterr().out

    known = {path.name for path in (tmp_path / "out/analyses").iterdir()}
    saved = read_model(runs[1] / "encoder")
    saved.encoder.vit.cls_token.data += 1  # type: ignore[union-attr]
    write_model(runs[1] / "encoder", encoder=saved.encoder, evaluation=saved.evaluation, facts=saved.facts)
    run(options=QUIET)
    assert capsys.readouterr().out == "", "quiet"
    new = {path.name for path in (tmp_path / "out/analyses").iterdir()} - known
    assert sorted(name.rsplit("-", 1)[0] for name in new) == ["one-8", "two-8"], "each was looked at beside the other"

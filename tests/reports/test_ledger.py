"""The results in README and on the site are those of the ledger; its files keep what is promised of them."""

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from cyclopts import CycloptsError

from test_docs import parse
from vitlet.disk import read_json, write_json
from vitlet.errors import UsageError
from vitlet.evaluation.compare import mean_interval
from vitlet.reports.ledger import claims_markdown, fill, filled, rows

ROOT = Path(__file__).parents[2]


PAGES = ("README.md", "docs/results/README.md", "docs/results/replication.md")
LEDGER = sorted((ROOT / "docs/results").glob("*.json"))
PROMISED: dict[str, dict[str, float]] = {
    "demo-digits": {"scratch": 0.25},
    "demo-cifar10": {"scratch": 0.10, "finetune": 0.10},
}
"""By how much pre-training helps in the published demos, at least: by protocol, in shares of the test images."""
APART = {"demo-cifar10"}
"""Those in which the intervals of the arms do not touch."""


@pytest.mark.parametrize("page", PAGES)
def test_pages_show_the_ledger(page: str) -> None:
    shown = filled(ROOT / page, ROOT / "docs/results")
    assert shown == (ROOT / page).read_text(), f"python -m vitlet.reports.ledger docs/results {' '.join(PAGES)}"


def test_links_lead_to_the_files(tmp_path: Path) -> None:
    write_json(tmp_path / "results/c.json", {"protocol": "knn", "value": 0.5, "n": 10, "split": "val"})
    marks = "".join(f"<!-- {name}:begin -->\n<!-- {name}:end -->\n" for name in ("results", "claims"))
    for page, link in (("page.md", "(results/c.json)"), ("results/page.md", "(c.json)")):
        (tmp_path / page).write_text(marks)
        assert link in filled(tmp_path / page, tmp_path / "results")


def test_a_changed_figure_is_seen() -> None:
    text = (ROOT / "README.md").read_text()
    assert fill(text, {"results": lambda _: "| other |"}) != text


def test_every_file_of_the_ledger_stands_on_the_results_page() -> None:
    page = (ROOT / "docs/results/README.md").read_text()
    files = [path.name for path in (ROOT / "docs/results").glob("*.json")]
    assert files
    assert not [name for name in files if f"({name})" not in page]


def shortfalls(entry: dict[str, Any], promised: dict[str, float], *, apart: bool) -> Iterator[str]:
    """What the published file of a demo does not keep."""
    protocols = {protocol["name"]: protocol for protocol in entry["protocols"]}
    for name, least in promised.items():
        difference, (first, second) = protocols[name]["difference"], (a["values"] for a in protocols[name]["arms"])
        if difference["pairs"] < 3 or not len(first) == len(second) == difference["pairs"]:
            yield f"{name}: {difference['pairs']} pairs"
        if abs(difference["mean"] - (fmean(first) - fmean(second))) > 1e-9:
            yield f"{name}: another mean than that of the values"
        if difference["mean"] < least:
            yield f"{name}: {difference['mean']:.4f} < {least}"
        lower, upper = mean_interval(first).low, mean_interval(second).high
        if apart and not (lower is not None and upper is not None and lower > upper):
            yield f"{name}: the intervals overlap"


@pytest.mark.parametrize("name", PROMISED)
def test_published_demos_keep_what_is_promised(name: str) -> None:
    entry = read_json(ROOT / f"docs/results/{name}.json")
    assert not list(shortfalls(entry, PROMISED[name], apart=name in APART))


def less(protocol: dict[str, Any]) -> None:
    """All seeds alike, a tenth of a point apart: the arms do not overlap, and pre-training hardly helps."""
    for arm, value in zip(protocol["arms"], (0.401, 0.4), strict=True):
        arm["values"] = [value, value + 1e-6, value]
    protocol["difference"]["mean"] = fmean(protocol["arms"][0]["values"]) - fmean(protocol["arms"][1]["values"])


def fewer(protocol: dict[str, Any]) -> None:
    """Without the last seed."""
    for arm in protocol["arms"]:
        del arm["values"][-1]
    protocol["difference"] |= {"pairs": 2, "mean": 0.3}
    protocol["arms"][0]["values"] = [value + 0.3 for value in protocol["arms"][1]["values"]]


def wider(protocol: dict[str, Any]) -> None:
    """Seeds that differ more than the arms."""
    for arm, mean in zip(protocol["arms"], (0.7, 0.4), strict=True):
        arm["values"] = [mean - 0.2, mean, mean + 0.2]
    protocol["difference"]["mean"] = 0.3


def edited(protocol: dict[str, Any]) -> None:
    """A difference that the values do not have."""
    protocol["difference"]["mean"] += 0.01


@pytest.mark.parametrize(
    ("change", "named"), [(less, " < 0."), (fewer, "2 pairs"), (wider, "overlap"), (edited, "another mean")]
)
@pytest.mark.parametrize("name", PROMISED)
def test_control_a_changed_demo_is_seen(name: str, change: Callable[[dict[str, Any]], None], named: str) -> None:
    published = read_json(ROOT / f"docs/results/{name}.json")
    for broken in PROMISED[name]:
        entry = copy.deepcopy(published)
        change(next(protocol for protocol in entry["protocols"] if protocol["name"] == broken))
        found = list(shortfalls(entry, PROMISED[name], apart=name in APART))
        if change is wider and name not in APART:
            assert not found
        else:
            assert any(text.startswith(broken) and named in text for text in found), found


def commands_in(value: Any) -> Iterator[str]:
    """Every command that an entry of the ledger names, at any depth; a suggestion may have none."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("command", "commands"):
                yield from filter(None, [inner] if isinstance(inner, str) else inner)
            else:
                yield from commands_in(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from commands_in(inner)


@pytest.mark.parametrize("file", LEDGER, ids=lambda path: path.stem)
def test_commands_of_the_ledger_can_be_given_again(file: Path) -> None:
    found = list(commands_in(read_json(file)))
    assert found
    for command in found:
        program, _, words = command.partition(" ")
        assert program == "vitlet"
        try:
            parse(words.replace(" RECIPE ", " mae_micro "))  # a suggestion leaves the choice to the reader
        except CycloptsError as error:
            pytest.fail(f"{command}: {error}")


@pytest.mark.parametrize("words", ["bench stpe --json out.json", "bench step --jsn out.json", "demo --out a --out b"])
def test_control_a_command_that_is_none_is_seen(words: str) -> None:
    (command,) = commands_in([{"machine": {"command": words}}])
    with pytest.raises(CycloptsError):
        parse(command)


def test_marks_choose_files_and_keep_what_stands_between_tables(tmp_path: Path) -> None:
    for name, value in (("a", 0.1), ("b", 0.2), ("bench-c", 0.3)):
        write_json(tmp_path / f"{name}.json", {"protocol": name, "value": value, "n": 1, "split": "val"})
    (tmp_path / "page.md").write_text(
        "<!-- results:begin of b a: words -->\n<!-- results:end -->\nbetween\n"
        "<!-- results:begin of bench-*: words -->\nold\n<!-- results:end -->\n"
    )
    text = filled(tmp_path / "page.md", tmp_path)
    first, second = text.split("between")
    assert first.index("| b |") < first.index("| a |")
    assert "bench-c" not in first
    assert "| bench-c |" in second
    assert "old" not in text
    assert filled(tmp_path / "page.md", tmp_path) == text


def test_ratios_of_packed_images_are_shown_too(tmp_path: Path) -> None:
    figures = {"ratio": {"uint8": 2.3}, "packed_ratio": {"256": 4.45, "raw": 10.4}, "repeats": 5}
    write_json(tmp_path / "a.json", {"figures": figures, "machine": {"command": "vitlet bench input"}})
    assert rows(tmp_path)[0][1] == "uint8 2.30×, packed 256 4.45×, packed raw 10.40×"


def test_each_kind_of_entry_becomes_rows(tmp_path: Path) -> None:
    arms = [{"values": [0.5, 0.7]}, {"values": [0.3, 0.3]}]
    difference = {"mean": 0.3, "low": 0.1, "high": 0.5, "pairs": 2}
    protocol = {"title": "Fine-tuning", "arms": arms, "difference": difference, "n": 1000, "split": "test"}
    write_json(tmp_path / "a.json", {"protocols": [protocol], "verdict": {}, "data": {"name": "digits"}})
    write_json(tmp_path / "b.json", {"figures": {"ratio": 2.25, "repeats": 5}, "machine": {"command": "vitlet bench"}})
    write_json(tmp_path / "c.json", {"protocol": "knn", "value": 0.5, "n": 10, "split": "val"})
    row = {"values": [0.4, 0.5, 0.6], "mean": 0.5, "difference": {"mean": 0.2}}
    learned = {
        "kind": "learning",
        "title": "cifar: 64 views",
        "protocols": {"knn": {"mae": row}},
        "n": 1000,
    }
    write_json(tmp_path / "d.json", learned | {"pretraining_cpu_seconds": {"mae": 1.0}})
    studied = {"kind": "study", "title": "S", "counts": {"Top": {"right": 2, "wrong": 1}}, "labels": [300], "seeds": 3}
    write_json(tmp_path / "e.json", studied)
    found = rows(tmp_path)
    assert found[4] == ("S: top", "2 right, 1 wrong", "300 labels, 3 seeds", "e.json")
    assert found[3] == ("cifar: mae", "knn 50.0 % (random 30.0 %)", "3 seeds, 1,000 images", "d.json")
    assert found[0] == (
        "digits: fine-tuning",
        "30.0 % → 60.0 %, +30.0 points (+10.0 to +50.0)",
        "2 seeds, 1,000 test images",
        "a.json",
    )
    assert found[1][1] == "2.25×"
    assert found[2][:3] == ("knn", "50.0 %", "10 val images")


def test_a_race_to_a_loss_has_a_row_of_its_own(tmp_path: Path) -> None:
    entry = {
        "kind": "overfit", "title": "Eight", "scores": {"random-0": {"bbox": 1.0}}, "wall_seconds_of_first_run": 60,
        "n": 8, "seeds": 2, "init": "runs/mae",
        "steps_to_loss": {"loss": 1.5, "random": [90.0, 70.0], "pretrained": [40.0, 60.0],
                          "difference": {"mean": -30.0, "low": -284.1, "high": 224.1}},
    }  # fmt: skip
    write_json(tmp_path / "a.json", entry)
    assert rows(tmp_path)[1] == (
        "Eight: to a training loss of 1.50, from random weights → runs/mae",
        "80 → 50 steps, −30 (−284 to +224)",
        "2 seeds, 8 images",
        "a.json",
    )
    del entry["steps_to_loss"]
    write_json(tmp_path / "a.json", entry)
    assert len(rows(tmp_path)) == 1


def test_transfers_and_models_become_rows(tmp_path: Path) -> None:
    done = {"state": "done", "data_title": "Pets", "encoder": "mae", "labels": "90 labels", "values": [0.5, 0.6]}
    done |= {"mean": 0.55, "low": 0.4, "high": 0.7, "n": 100, "split": "test"}
    write_json(tmp_path / "a.json", {"kind": "transfer", "rows": [done, {"state": "left out"}]})
    models = {name: {"images_per_second": speed} for name, speed in (("a", 5.0), ("finetune_x", 7.0), ("b", 9.0))}
    figures = {"models": models, "repeats": 5, "engine": "PyTorch, eager"}
    write_json(
        tmp_path / "b.json", {"kind": "models", "figures": figures, "machine": {"command": "vitlet bench models"}}
    )
    assert rows(tmp_path) == [
        ("Pets: transfer from mae, 90 labels", "55.0 % (40.0 to 70.0)", "2 seeds, 100 test images", "a.json"),
        (
            "`vitlet bench models`",
            "images/s of 3 models: b 9.0, finetune_x 7.0, a 5.0",
            "5 turns, PyTorch, eager",
            "b.json",
        ),
    ]


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(UsageError, match="marks"):
        fill("no marks", {"results": lambda _: ""})


def replication(answer: str = "supported") -> dict:
    part = {"title": "MAE − scratch", "unit": "points", "margin": 0.0, "n_seeds": 3, "n": 5000,
            "mean": 0.05, "low": 0.01, "high": 0.09, "answer": answer}  # fmt: skip
    first = {
        "number": 1,
        "statement": "MAE wins",
        "source": "Table 1",
        "answer": answer,
        "why": "",
        "parts": [part],
        "beside": [],
    }
    second = {"number": 2, "statement": "It is wet", "source": "Figure 9", "answer": "not run", "why": "needs: rain"}
    return {"kind": "replication", "scale": "micro", "claims": [first, second | {"parts": []}]}


def test_claims_show_answer_effect_interval_and_n_and_keep_their_place(tmp_path: Path) -> None:
    write_json(tmp_path / "replication-micro.json", replication("not supported"))
    first, second = claims_markdown(tmp_path).splitlines()[2:]
    assert "| not supported | MAE − scratch: +5.0 points (+1.0 to +9.0) | 3 seeds, 5,000 images |" in first
    assert "| not run: needs: rain |" in second
    assert rows(tmp_path) == [], "claims stand in their own table alone"


def test_a_claim_shows_the_part_that_decides_it(tmp_path: Path) -> None:
    entry = replication("not supported")
    entry["claims"][0]["parts"] = [
        part | {"answer": answer, "title": answer}
        for part, answer in zip(2 * entry["claims"][0]["parts"], ("supported", "not supported"), strict=True)
    ]
    write_json(tmp_path / "replication-micro.json", entry)
    assert "| not supported | not supported: +5.0 points" in claims_markdown(tmp_path)
    entry["claims"][0] |= {"answer": "not run", "why": "2 of 3 seeds"}
    write_json(tmp_path / "replication-micro.json", entry)
    assert "| not run: 2 of 3 seeds |  |  |" in claims_markdown(tmp_path)

"""The command line: help at once, wrong words refused before anything heavy is imported, errors on one line.

Help and the refusals run together in one process (`cli_cases.py`), where what each of them imports can be seen.
"""

import functools
import json
import os
import random
import string
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vitlet.cli import app, main
from vitlet.recipes import all_recipes

pytestmark = pytest.mark.timeout(300)  # seconds by themselves; another matter beside a busy neighbour

HERE = Path(__file__).resolve().parent
VERBS = tuple(word for word in app if not word.startswith("-"))
TRAIN = ("pretrain", "mae_micro", "--data", "{data}", "--out", "{out}")
FINE = ("finetune", "finetune_micro", "--init", "none", "--data", "{data}", "--out", "{out}")


def with_changes(words: tuple[str, ...], **changes: str) -> tuple[str, ...]:
    """A command line with the values after some options replaced."""
    result = list(words)
    for option, value in changes.items():
        result[result.index(f"--{option}") + 1] = value
    return tuple(result)


COMPARE = ("compare", "{model}", "--data", "{data}", "--out", "{out}")
LAYERS = ("sweep", "distill-layers", "dmae_micro", "--data", "{data}", "--teacher", "{model}", "--out", "{out}")

# (words, what the answer has to name)
REFUSED: list[tuple[tuple[str, ...], str]] = [
    # verbs
    (("pretrian",), '"pretrain"'),
    (("finetun",), '"finetune"'),
    (("Pretrain",), '"pretrain"'),
    (("train",), "Unknown command"),
    (("--versoin",), "--version"),
    (("-v",), "-v"),
    (("",), "empty value"),
    # what is missing
    (("pretrain",), "recipe"),
    (("pretrain", "mae_micro"), "--data"),
    (("pretrain", "mae_micro", "--data", "{data}"), "--out"),
    (("finetune", "finetune_micro", "--data", "{data}", "--out", "{out}"), "--init"),
    (("check",), "data"),
    (("resume",), "run"),
    (("probe", "{model}"), "--data"),
    (("embed", "{model}", "--data", "{data}"), "--out"),
    (("predict", "{data}", "--out", "{out}"), "--data"),
    (("export", "{model}"), "--out"),
    (("export", "{model}", "--out", "x", "--to", "onx"), '"onnx"'),
    (("export", "{model}", "--out", "x", "--int8"), "--to onnx or --to openvino"),
    (("export", "{model}", "--out", "x", "--embed-preprocessing"), "torch-export"),
    (("export", "{model}", "--out", "x", "--images", "{out}"), "no file or folder"),
    (("push", "{model}"), "to"),
    (("push", "{model}", "someone/digits"), "hf://USER/NAME"),
    (("push", "{out}", "hf://someone/digits"), "no file or folder"),
    (("report", "{data}"), "--out"),
    (("report", "--out", "{out}"), "no run"),
    (("bench",), "what"),
    ((*TRAIN, "--epochs"), "--epochs"),
    (with_changes(TRAIN, data=""), "--data"),
    ((*TRAIN[:2], "--data=", *TRAIN[4:]), "--data"),
    (with_changes(TRAIN, out=""), "--out"),
    # options
    ((*TRAIN, "--epoch", "3"), "--epochs"),
    ((*TRAIN, "-epochs", "3"), "--epochs"),
    ((*TRAIN, "--batchsize", "3"), "--batch-size"),
    ((*TRAIN, "--lr", "3"), "--lr"),
    ((*TRAIN, "--num-labels", "3"), "--num-labels"),
    ((*TRAIN, "--no-compile"), "--no-compile"),
    ((*TRAIN, "--epochs", "3", "--epochs", "4"), "--epochs"),
    ((*TRAIN, "extra"), "extra"),
    (("check", "{data}", "{data}"), "Unused"),
    (("recipes", "mae_micro", "debug"), "debug"),
    (("demo", "{data}"), "Unused"),
    # types and ranges
    ((*TRAIN, "--epochs", "ten"), "--epochs"),
    ((*TRAIN, "--epochs", "nan"), "--epochs nan"),
    ((*TRAIN, "--epochs", "inf"), "--epochs inf"),
    ((*TRAIN, "--epochs", "-1"), "--epochs -1"),
    ((*COMPARE, "--epochs", "-1"), "--epochs -1"),
    ((*TRAIN, "--batch-size", "0"), "--batch-size 0"),
    ((*TRAIN, "--batch-size", "-8"), "--batch-size -8"),
    ((*TRAIN, "--batch-size", "1.5"), "--batch-size"),
    ((*TRAIN, "--batch-size", "99999999999"), "--batch-size 99999999999"),
    ((*TRAIN, "--seed", "-1"), "--seed -1"),
    ((*TRAIN, "--seed", "x"), "--seed"),
    ((*TRAIN, "--seed", "4294967296"), "--seed 4294967296"),
    ((*TRAIN, "--precision", "bf61"), '"bf16"'),
    ((*TRAIN, "--precision", "64"), '"fp32"'),
    ((*TRAIN, "--workers", "-1"), "workers"),
    ((*TRAIN, "--workers", "many"), "--workers"),
    ((*TRAIN, "--device", "gpu"), '"cuda"'),
    ((*TRAIN, "--device", "cdua"), '"cuda"'),
    ((*TRAIN, "--micro-batch", "0"), "micro_batch"),
    ((*TRAIN, "--max-bad", "2"), "--max-bad"),
    ((*TRAIN, "--max-bad", "1%"), "--max-bad"),
    ((*TRAIN, "--compile", "maybe"), "maybe"),
    ((*FINE, "--num-labels", "0"), "--num-labels"),
    ((*FINE, "--num-labels", "few"), "--num-labels"),
    ((*FINE, "--keep-blocks", "2"), "--keep-blocks without an initial encoder"),
    ((*FINE, "--keep-blocks", "two"), "--keep-blocks"),
    (("check", "{data}", "--max-bad", "-0.1"), "--max-bad"),
    (("demo", "--seeds", "0"), "--seeds"),
    (("demo", "--seeds", "three"), "--seeds"),
    (("probe", "{model}", "--data", "{data}", "--protocol", "knm"), '"knn"'),
    (("probe", "{model}", "--data", "{data}", "--pool", "men"), '"mean"'),
    (("bench", "stpe"), '"step"'),
    (("bench", "step", "--device", "cuda"), "--device with bench step"),
    (("bench", "input", "--precision", "bf16"), "--precision with bench input"),
    # comparisons, sweeps and subsets
    (("compare", "--data", "{data}", "--out", "{out}"), "no run given"),
    ((*COMPARE, "--label-fractions", "0,1"), "--label-fractions"),
    ((*COMPARE, "--label-fractions", "0.1,few"), "'few'"),
    ((*COMPARE, "--label-fractions", "0.1,0.1"), "given twice"),
    ((*COMPARE, "--seeds", "0"), "--seeds"),
    ((*COMPARE, "--supervised", "nowhere"), "nowhere"),
    ((*COMPARE, "--recipe", "mae_micro"), "not a recipe to finetune with"),
    ((*COMPARE, "--set", "optimizer.lr=1"), "optimizer."),
    (("sweep", "keep-blocks", "--data", "{data}", "--out", "{out}"), "no run given"),
    (("sweep", "keep-blocks", "{model}", "--data", "{data}", "--out", "{out}", "--blocks", "0,1.5"), "whole number"),
    (("sweep", "keep-block"), '"keep-blocks"'),
    ((*LAYERS, "--layers", "12"), "no lists of layers"),
    ((*LAYERS, "--layers", "[[0,1]]"), "from 1"),
    ((*LAYERS, "--layers", "[[1,1]]", "--finetune", "debug"), "not a recipe to finetune with"),
    ((*TRAIN, "--subset", "2"), "out of range"),
    ((*TRAIN, "--subset", "nowhere.txt"), "names no subset"),
    ((*FINE, "--subset", "tail:0"), "out of range"),
    # keys and values of --set
    ((*TRAIN, "--set", "optimzer.base_lr=1"), "optimizer.base_lr"),
    ((*TRAIN, "--set", "optimizer.lr=1"), "optimizer."),
    ((*TRAIN, "--set", "objective.mask_ration=0.6"), "objective.mask_ratio"),
    ((*TRAIN, "--set", "data.views.1.flip=0"), "data.views.0.flip"),
    ((*TRAIN, "--set", "data.views.0.crop.scale=[0.2,1]"), "unknown key"),
    ((*TRAIN, "--set", "objective.mask_ratio=1.5"), "objective.mask_ratio"),
    ((*TRAIN, "--set", "objective.mask_ratio=most"), "objective.mask_ratio"),
    ((*TRAIN, "--set", "optimizer.base_lr=NaN"), "optimizer.base_lr"),
    ((*TRAIN, "--set", "optimizer.base_lr=1e999"), "optimizer.base_lr"),
    ((*TRAIN, "--set", "optimizer.betas=[0.9]"), "optimizer.betas"),
    ((*TRAIN, "--set", "encoder.heads=5"), "multiple of encoder.heads"),
    ((*TRAIN, "--set", "encoder.patch_size=5"), "multiple of encoder.patch_size"),
    ((*TRAIN, "--set", "encoder.image_size=64"), "image_size"),
    ((*TRAIN, "--set", "budget.duration=10"), "budget.duration"),
    ((*TRAIN, "--set", "budget.duration.unit=weeks"), "budget.duration"),
    ((*TRAIN, "--set", "objective=3"), "objective"),
    ((*TRAIN, "--set", "encoder.width.x=1"), "unknown key"),
    ((*TRAIN, "--set", "=1"), "unknown key"),
    ((*TRAIN, "--set", "encoder.width"), "--set"),
    ((*TRAIN, "--set"), "--set"),
    # recipes
    (("recipes", "mae_mircro"), "mae_micro"),
    (("recipes", "MAE_MICRO"), "recipe"),
    (("recipes", "{out}.json"), "no file"),
    (("recipes", "{broken}"), "JSON"),
    (("recipes", "{list}"), "not a recipe"),
    (("recipes", "{nameless}"), "no name"),
    (("recipes", "{extra}"), "objective.mask_rato"),
    (("pretrain", "mae_tiny_400", *TRAIN[2:]), "mae_tiny_400e"),
    (("pretrain", "finetune_micro", *TRAIN[2:]), "vitlet finetune finetune_micro"),
    (("finetune", "mae_micro", *FINE[2:]), "vitlet pretrain mae_micro"),
    (("pretrain", "../mae_micro", *TRAIN[2:]), "mae_micro"),
    # paths
    (with_changes(TRAIN, data="{out}/nothing"), "no file or folder"),
    (with_changes(TRAIN, data="{data}/\x1b[2Jname"), "\\x1b[2Jname"),
    (with_changes(TRAIN, data="a" * 300), "no file or folder"),
    (with_changes(TRAIN, data="\ud800"), "no file or folder"),
    ((*TRAIN, "--init", "{out}/nothing"), "no file or folder"),
    (with_changes(FINE, init="{out}/nothing"), "no file or folder"),
    (with_changes(FINE, init="None"), "no file or folder"),
    (("check", "{out}"), "no file or folder"),
    (("demo", "--data", "{out}"), "no file or folder"),
    (("probe", "{out}", "--data", "{data}"), "no file or folder"),
    (("embed", "{model}", "--data", "{out}", "--out", "x.parquet"), "no file or folder"),
    (("predict", "{out}", "--data", "{data}", "--out", "x.csv"), "no file or folder"),
    (("export", "{out}", "--out", "x"), "no file or folder"),
    (with_changes(TRAIN, data="{model}x"), "Did you mean model?"),
    ((*TRAIN, "--init", "{model}x"), "Did you mean model?"),
    (("check", "{model}/confg.json"), "Did you mean config.json?"),
    # the folder of the run
    (with_changes(TRAIN, out="{mine}"), "not empty and not a run"),
    (with_changes(FINE, out="{mine}"), "not empty and not a run"),
    ((*with_changes(TRAIN, out="{mine}"), "--fresh"), "not empty and not a run"),
    (with_changes(TRAIN, out="{table}"), "is a file, not a folder"),
    (with_changes(TRAIN, out="{table}/run"), "is a file, not a folder"),
    ((*with_changes(TRAIN, out="{begun}"), "--epochs", "3"), "recipe differ"),
    ((*with_changes(TRAIN, out="{begun}"), "--subset", "1%"), "subset differ"),
    (with_changes(FINE, out="{begun}"), "recipe differ"),
    # the file that is written
    (("embed", "{model}", "--data", "{data}", "--out", "{out}/photo.png"), "photo.parquet"),
    (("predict", "{model}", "--data", "{data}", "--out", "{out}/classes.parquet"), "classes.csv"),
    (("predict", "{model}", "--data", "{data}", "--out", "{table}"), "of something else"),
    (("predict", "{model}", "--data", "{data}", "--out", "{table}/classes.csv"), "is no folder"),
    (("report", "{run}", "--out", "{data}"), "does not end in .html"),
    (("report", "{run}", "--out", "{run}/"), "does not end in .html"),
    (("report", "{run}", "--out", "{page}"), "of something else"),
    (("detect", "{run}", "--data", "{data}", "--out", "{nameless}"), "of something else"),
    (("bench", "step", "--json", "{list}"), "of something else"),
    (("bench", "step", "--json", "{data}"), "does not end in .json"),
    (("evaluate", "{model}", "--data", "{data}", "--json", "{extra}"), "of something else"),
    # files of another kind
    (with_changes(TRAIN, data="{picture}"), "one image"),
    (with_changes(FINE, data="{weights}"), "no data set"),
    (("check", "{weights}"), "no data set"),
    (("demo", "--data", "{picture}"), "one image"),
    (("export", "{model}", "--out", "x", "--images", "{picture}"), "one image"),
    (("embed", "{model}", "--data", "{picture}", "--out", "x.parquet"), "one image"),
    ((*TRAIN, "--init", "{weights}"), "vitlet import"),
    (with_changes(FINE, init="{picture}"), "vitlet import"),
    (with_changes(TRAIN, data="{pipe}"), "a pipe"),
    ((*TRAIN, "--init", "{pipe}"), "a pipe"),
    (("pretrain", "{pipe}", *TRAIN[2:]), "a pipe"),
    (("import", "{pipe}", "--out", "x"), "a pipe"),
    (("import", "{data}", "--out", "x"), "is a folder"),
    # models that cannot do it, and folders that are not replaced
    (("predict", "{encoder}", "--data", "{data}", "--out", "x.csv"), "then predict with NEW"),
    (("evaluate", "{encoder}", "--data", "{data}"), "without a classifier"),
    (("detect", "{learned}", "--data", "{data}", "--out", "x.json"), "mae_micro, which finds no objects"),
    (("export", "{model}", "--out", "{mine}"), "not a model folder"),
    (("import", "{zip}", "--out", "{mine}"), "not a model folder"),
]
# No run, model or weights there: exit 4, as for every other thing that is not the run it should be.
NO_RUN: list[tuple[tuple[str, ...], str]] = [
    (("resume", "{out}"), "no run at"),
    (("resume", "{data}"), "recipe.json"),
    (("report", "{data}", "--out", "x.html"), "recipe.json"),
    ((*TRAIN, "--init", "{data}"), "no finished encoder"),
    (with_changes(FINE, init="{data}"), "no finished encoder"),
    (("predict", "{data}", "--data", "{data}", "--out", "x.csv"), "no finished encoder"),
    (("compare", "{model}", "{data}", "--data", "{data}", "--out", "{out}"), "no finished encoder"),
    (("import", "{picture}", "--out", "x"), "is not a weights file"),
    (("predict", "{model}", "--data", "{data}", "--out", "x.csv"), "was not written by vitlet"),
]
# Exit 3, as for all data that cannot be used.
WRONG_DATA: list[tuple[tuple[str, ...], str]] = [
    (("check", "{columns}"), "the columns are not path[,label][,split]"),
    (with_changes(TRAIN, data="{columns}"), "unknown: 'file'"),
    (("embed", "{model}", "--data", "{columns}", "--out", "x.parquet"), "the first line names the columns"),
    (("check", "{column_parquet}"), "unknown: 'file'"),
    (("check", "{no_parquet}"), "as Parquet"),
    (TRAIN, "no images"),
    (FINE, "no images"),
    (with_changes(FINE, data="{flat}"), "flat has no labels"),
    (("finetune", "detection_micro", *with_changes(FINE, data="{flat}")[2:]), "flat has no boxes"),
    (with_changes(COMPARE, data="{flat}"), "flat has no labels"),
    (("sweep", "keep-blocks", *with_changes(COMPARE, data="{flat}")[1:]), "flat has no labels"),
    ((*with_changes(LAYERS, data="{flat}"), "--layers", "[[1,1]]"), "flat has no labels"),
    (("probe", "{model}", "--data", "{flat}"), "flat has no labels"),
    (("study", "{model}", "{model}", "--data", "{flat}", "--out", "{out}"), "flat has no labels"),
    (("learn", "--data", "{flat}", "--out", "{out}"), "flat has no labels"),
    (("overfit", "--data", "{data}", "--out", "{out}"), "no images"),
    (("analyse", "{model}", "--data", "{data}", "--out", "{out}"), "no images"),
    (("embed", "{model}", "--data", "{data}", "--out", "x.parquet"), "no images"),
    (("predict", "{classifier}", "--data", "{data}", "--out", "x.csv"), "no images"),
    (("evaluate", "{classifier}", "--data", "{data}"), "no images"),
    (("detect", "{detector}", "--data", "{data}", "--out", "x.json"), "no images"),
    (("export", "{model}", "--out", "x", "--images", "{data}"), "no images"),
    (("push", "{model}", "hf://someone/digits", "--images", "{data}"), "no images"),
    (("check", "{data}"), "no images"),
    (("pack", "{data}", "--out", "x"), "no images"),
    (("demo", "--data", "{data}"), "no images"),
]
HELP: list[tuple[str, ...]] = [
    ("--help",), ("-h",), (), *((verb, "--help") for verb in VERBS), ("--version",), ("recipes",), ("recipes", "debug"),
]  # fmt: skip
READS_WORDS = {
    "cyclopts", "attr", "attrs", "docstring_parser", "pydantic", "pydantic_core", "annotated_types",
    "typing_extensions", "typing_inspection", "rich", "pygments", "markdown_it", "mdurl",
}  # fmt: skip
"""The packages that help needs, with what these need."""
READS_TABLES = {"numpy", "pyarrow", "cloudpickle", "cython_runtime"}
SLOW = {"sklearn", "matplotlib", "tensorboard", "onnx", "openvino", "pycocotools", "jinja2"}


def edits(word: str, *, start: int) -> list[str]:
    """Every word one deletion, insertion, substitution or exchange of neighbours away, from letter `start` on."""
    letters = string.ascii_lowercase
    found = {word[:i] + word[i + 1 :] for i in range(start, len(word))}
    found |= {word[:i] + c + word[i + 1 :] for i in range(start, len(word)) for c in letters}
    found |= {word[:i] + c + word[i:] for i in range(start, len(word) + 1) for c in letters}
    found |= {word[:i] + word[i + 1] + word[i] + word[i + 2 :] for i in range(start, len(word) - 1)}
    return sorted(found - {word, word[:start]})


def options_of(verb: str) -> list[str]:
    arguments = app[verb].assemble_argument_collection()
    return [name for argument in arguments for name in argument.names if name.startswith("--")]


def typos() -> list[tuple[tuple[str, ...], str]]:
    """(words, the right word): verbs, flags, recipes and keys, a fixed sample of all single edits."""
    draw = random.Random(0)
    found: list[tuple[tuple[str, ...], str]] = []
    for verb in VERBS:
        found += [((wrong,), verb) for wrong in draw.sample(edits(verb, start=0), 8) if wrong not in VERBS]
    flags = sorted(set(options_of("pretrain")) - {"--recipe"})
    for flag in flags:
        for wrong in [flag[1:], *draw.sample(edits(flag, start=2), 5)]:
            value = () if flag in ("--compile", "--fresh", "--accept-data-change") else ("1",)
            rest = [w for w in TRAIN if w not in (flag, f"{{{flag[2:]}}}")]
            if wrong not in flags:
                found.append(((*rest, wrong, *value), flag))
    for name in all_recipes():
        wrongs = draw.sample(edits(name, start=0), 2)
        found += [(("recipes", wrong), name) for wrong in wrongs if wrong not in all_recipes()]
    for key in ("optimizer.base_lr", "objective.mask_ratio", "budget.log_every", "encoder.depth", "data.views.0.flip"):
        found += [((*TRAIN, "--set", f"{wrong}=1"), key) for wrong in draw.sample(edits(key, start=0), 10)]
    return found


@pytest.fixture(scope="session")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the names in braces stand for."""
    folder = tmp_path_factory.mktemp("cli")
    (folder / "images").mkdir()
    files = {"broken": "{", "list": "[1]", "nameless": "{}"}
    extra = all_recipes()["mae_micro"]().to_json()
    extra["objective"]["mask_rato"] = 0.5
    for name, content in {**files, "extra": json.dumps(extra)}.items():
        (folder / f"{name}.json").write_text(content)
    named = {name: str(folder / f"{name}.json") for name in (*files, "extra")}
    (folder / "model").mkdir()
    named |= {"model": str(folder / "model"), "picture": str(folder / "photo.PNG")}
    named |= {"weights": str(folder / "weights.pt"), "pipe": str(folder / "pipe.json")}
    for file in (folder / "model/config.json", folder / "photo.PNG", folder / "weights.pt"):
        file.write_text("{}")
    os.mkfifo(folder / "pipe.json")
    (folder / "flat").mkdir()
    (folder / "flat/1.png").write_text("")
    for name, pool in (("encoder", None), ("classifier", "mean")):
        (folder / name).mkdir()
        (folder / name / "config.json").write_text(json.dumps({"vitlet": {"pool": pool}}))
        named[name] = str(folder / name)
    for name, recipe in (("learned", "mae_micro"), ("detector", "detection_micro")):
        (folder / name).mkdir()
        (folder / name / "recipe.json").write_text(json.dumps(all_recipes()[recipe]().to_json()))
        named[name] = str(folder / name)
    (folder / "tensors.pth").write_bytes(b"PK\x03\x04")
    named |= {"flat": str(folder / "flat"), "zip": str(folder / "tensors.pth")}
    (folder / "run").mkdir()
    (folder / "run/recipe.json").write_text("{}")
    (folder / "labels.csv").write_text("path,label\n1.png,cat\n")
    (folder / "mine.html").write_text("<title>mine</title>")
    (folder / "columns.csv").write_text("file,class\n1.png,cat\n")
    pq.write_table(pa.table({"file": ["1.png"], "class": ["cat"]}), folder / "columns.parquet")
    (folder / "no.parquet").write_text("file,class\n")
    named |= {"column_parquet": str(folder / "columns.parquet"), "no_parquet": str(folder / "no.parquet")}
    (folder / "mine").mkdir()
    (folder / "mine/photo.png").write_text("")
    (folder / "begun").mkdir()
    launch = {"recipe": all_recipes()["mae_micro"]().fingerprint(), "subset": None}
    (folder / "begun/environment.json").write_text(json.dumps({"launch": launch}))
    (folder / "begun/recipe.json").write_text("{}")
    named |= {"columns": str(folder / "columns.csv"), "mine": str(folder / "mine"), "begun": str(folder / "begun")}
    named |= {"run": str(folder / "run"), "table": str(folder / "labels.csv"), "page": str(folder / "mine.html")}
    return {"data": str(folder / "images"), "out": str(folder / "new"), **named}


def filled(words: tuple[str, ...], places: dict[str, str]) -> list[str]:
    return [functools.reduce(lambda w, p: w.replace(f"{{{p[0]}}}", p[1]), places.items(), word) for word in words]


def cases() -> list[tuple[str, ...]]:
    return [*HELP, *(words for words, _ in (*REFUSED, *NO_RUN, *WRONG_DATA, *typos()))]


@pytest.fixture(scope="session")
def document(places: dict[str, str]) -> dict[str, Any]:
    """Every case, run one after the other in one fresh process, and what its last imports brought with them."""
    done = subprocess.run(
        [sys.executable, HERE / "cli_cases.py"], input=json.dumps([filled(c, places) for c in cases()]),
        capture_output=True, text=True, check=True, timeout=280,
    )  # fmt: skip
    return json.loads(done.stdout)


@pytest.fixture(scope="session")
def answers(document: dict[str, Any]) -> dict[tuple[str, ...], dict[str, Any]]:
    return dict(zip(cases(), document["answers"], strict=True))


def shown(words: tuple[str, ...]) -> str:
    """A name for a case."""
    text = " ".join(word[:40] for word in words).replace("\x1b", "ESC")
    return text.encode("ascii", "backslashreplace").decode() or "empty"


@pytest.mark.parametrize(("words", "named"), REFUSED, ids=[shown(w) for w, _ in REFUSED])
def test_wrong_words_are_refused(answers: dict[tuple[str, ...], dict[str, Any]], words: tuple[str, ...], named: str):
    answer = answers[words]
    assert answer["code"] == 2, answer
    assert_one_line(answer, named)


@pytest.mark.parametrize(("words", "named"), NO_RUN, ids=[shown(w) for w, _ in NO_RUN])
def test_what_is_no_run_is_refused(answers: dict[tuple[str, ...], dict[str, Any]], words: tuple[str, ...], named: str):
    answer = answers[words]
    assert answer["code"] == 4, answer
    assert_one_line(answer, named)


@pytest.mark.parametrize(("words", "named"), WRONG_DATA, ids=[shown(w) for w, _ in WRONG_DATA])
def test_wrong_data_is_refused(answers: dict[tuple[str, ...], dict[str, Any]], words: tuple[str, ...], named: str):
    answer = answers[words]
    assert answer["code"] == 3, answer
    assert_one_line(answer, named)


def assert_one_line(answer: dict[str, Any], named: str) -> None:
    """What, where, why and a fix on one line of printable text; nothing else was said, nothing heavy imported."""
    message = answer["err"]
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert message.endswith("\n")
    assert named in message
    assert "Fix: " in message
    assert "Traceback" not in message
    assert message[:-1].isprintable()
    assert len(message) < 700
    assert answer["out"] == ""
    assert set(answer["imported"]) <= READS_WORDS | READS_TABLES


def test_refusals_leave_nothing_behind(answers: dict[tuple[str, ...], dict[str, Any]], places: dict[str, str]):
    assert not Path(places["out"]).exists()
    assert not any(Path(places["data"]).iterdir())


def test_typos_get_the_right_suggestion(answers: dict[tuple[str, ...], dict[str, Any]]):
    cases = typos()
    wrong = [(words, right, answers[words]["err"]) for words, right in cases if not suggests(answers[words], right)]
    assert len(cases) > 400
    assert len(wrong) <= 0.05 * len(cases), wrong[:10]
    assert all(answers[words]["code"] == 2 for words, _ in cases)


def suggests(answer: dict[str, Any], right: str) -> bool:
    message = answer["err"]
    return any(f"Did you mean {quote}{right}{quote}" in message for quote in ('"', "")) and message[-1:] == "\n"


@pytest.mark.parametrize("words", HELP, ids=[" ".join(w) for w in HELP])
def test_help_imports_what_reads_words_and_shows_text(
    answers: dict[tuple[str, ...], dict[str, Any]], words: tuple[str, ...]
):
    """That is what makes it an answer at once; neither NumPy nor torch is there."""
    answer = answers[words]
    assert answer["code"] == 0
    assert answer["out"]
    assert not answer["err"]
    assert set(answer["imported"]) <= READS_WORDS


def test_what_loads_slowly_is_loaded_where_it_is_used(document: dict[str, Any]):
    """Every rank and every process of a pool begins with the imports of a job. The control is what needs one of these;
    that of the tests above is torch, which a job does need.
    """
    assert SLOW.isdisjoint(document["job"])
    assert SLOW.intersection(document["probe"]) == {"sklearn"}
    assert "torch" in document["job"]


@pytest.mark.parametrize(("words", "code"), [(("--help",), 0), (("pretrian",), 2), (("resume", "{out}"), 4)])
def test_the_process_ends_with_the_code_of_the_answer(words: tuple[str, ...], code: int, places: dict[str, str]):
    done = subprocess.run([sys.executable, "-m", "vitlet", *filled(words, places)], capture_output=True, timeout=60)
    assert done.returncode == code


def test_every_verb_of_the_interface_is_there():
    promised = "demo check recipes pretrain finetune resume probe embed predict export report bench"
    assert set(VERBS) >= set(promised.split())


def test_recipes_prints_json_that_is_a_recipe_again(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main(["recipes", "mae_tiny_400e"]) == 0
    text, _, values = capsys.readouterr().out.partition("\n{")
    assert "Table 1" in text
    assert json.loads("{" + values) == all_recipes()["mae_tiny_400e"]().to_json()
    replayed = tmp_path / "recipe.json"
    replayed.write_text("{" + values)
    assert main(["recipes", str(replayed)]) == 0
    assert capsys.readouterr().out.endswith("{" + values)


def test_wrong_data_is_exit_3(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "images").mkdir()
    words = ["pretrain", "debug", "--data", str(tmp_path / "images"), "--out", str(tmp_path / "run")]
    assert main(words) == 3
    assert "no images" in capsys.readouterr().err
    assert main(words) == 3, "the first refusal left something that blocks the second try"


def test_no_model_is_exit_4(capsys: pytest.CaptureFixture[str], tmp_path: Path):
    assert main(["export", str(tmp_path), "--out", str(tmp_path / "model")]) == 4
    assert "no finished encoder" in capsys.readouterr().err


def test_debug_shows_where(capsys: pytest.CaptureFixture[str]):
    assert main(["recipes", "mae_mircro"]) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert main(["recipes", "mae_mircro", "--debug"]) == 2
    shown = capsys.readouterr().err
    assert "Traceback" in shown
    assert shown.splitlines()[-1].startswith("error: no recipe")


def test_ctrl_c_is_answered(capsys: pytest.CaptureFixture[str]):
    """cyclopts would end the process without a word."""

    @app.command(name="planted")
    def planted() -> None:
        raise KeyboardInterrupt

    try:
        assert main(["planted"]) == 130
        assert capsys.readouterr().err.startswith("error: interrupted")
    finally:
        del app["planted"]


def test_a_fault_of_ours_is_said_to_be_one(capsys: pytest.CaptureFixture[str]):
    @app.command(name="planted")
    def planted() -> None:
        raise KeyError("of ours\x1b[2J")

    try:
        assert main(["planted"]) == 1
        message = capsys.readouterr().err
        assert "KeyError" in message
        assert "fault of vitlet" in message
        assert "\x1b" not in message
        assert message.count("\n") == 1
    finally:
        del app["planted"]


def test_a_command_that_shares_no_work_is_refused_under_torchrun(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["bench", "models"]) == 2
    assert "vitlet bench under torchrun" in capsys.readouterr().err
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert main(["export", str(tmp_path / "a"), "--out", "x"]) != 0
    assert "under torchrun" not in capsys.readouterr().err

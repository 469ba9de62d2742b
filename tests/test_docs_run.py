"""What the documentation tells people to type runs, page by page, in a folder where its names stand for something.

Recipes keep their method and their layers and are made small; trainings end after two steps. What needs more than this
machine, or hours, is listed with the test that stands for it. Commands run in this process; of those that torchrun
starts, one for each verb runs once more as it stands there, over two processes. Blocks of Python run as they are.
"""

import ast
import functools
import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parent / folder) for folder in ("jobs", "faults")]

import torch
from small_runs import CLASSES, Here, write_images
from timm.models.vision_transformer import VisionTransformer

from annotated_images import write_annotated
from test_docs import PAGES, ROOT, commands, lines
from vitlet import recipes
from vitlet.cli import main
from vitlet.errors import UsageError
from vitlet.jobs import comparing, learning, steps
from vitlet.recipe import Recipe

pytestmark = [
    pytest.mark.documentation,
    pytest.mark.timeout(300),  # a page is seconds by itself; another matter beside busy neighbours
]

ELSEWHERE = {
    r".* s3://": "tests/data/test_stores.py",
    r"push ": "tests/jobs/test_pushing.py",
    r"reproduce ": "tests/reproduce",
    r"learn ": "tests/jobs/test_learning.py",
    r"study ": "tests/jobs/test_studying.py",
    r"bench budget": "tests/bench/test_budget.py",
    r"bench models .*--preset paper": "tests/jobs/test_lineup.py",
    r"transfer .*--suite paper": "tests/jobs/test_suites.py",
    r"evaluate .*imagenet": "tests/evaluate/test_imagenet.py",
}
PYTHON_ELSEWHERE = {
    "docs/guides/export.md": "tests/jobs/test_exporting.py",
    "CONTRIBUTING.md": "tests/test_docs_run.py",  # excerpts with … in them, which are no programs
}
FEW_LABELS = 12
"""The images are fewer here than on the pages."""
IMAGES = {"photos", "others", "labelled", "images", "gauges", "data", "cifar10", "imagenet"}
MADE = {
    **dict.fromkeys(("runs/mae", "runs/dino", "runs/moco", "runs/teacher", "my-run", "other-run"), "pretrained"),
    **dict.fromkeys(("runs/fine", "runs/fine-0", "runs/scratch", "runs/scratch-0", "runs/taught", "runs/big"), "tuned"),
    "runs/detector/encoder": "pretrained/encoder",
}
WEIGHTS = re.compile(r"[\w.]+\.pth(\.tar)?")
_STEPS = 2
_TO_STEPS = steps.to_steps
_PLAIN = recipes.all_recipes()


def run_of(page: Path) -> list[str]:
    """The commands of a page that run here."""
    found = dict.fromkeys(commands(page.read_text()))
    return [command for command in found if not any(re.match(pattern, command) for pattern in ELSEWHERE)]


def python_of(page: Path) -> list[str]:
    """The blocks of Python of a page, one after the other."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def launched() -> dict[str, tuple[Path, str]]:
    """The first line with torchrun for each verb that has one, and its page."""
    found: dict[str, tuple[Path, str]] = {}
    for page in PAGES:
        for line in lines(page.read_text()):
            if line.startswith("torchrun "):
                found.setdefault(line.split(" -m vitlet ")[1].split()[0], (page, line))
    return found


def smaller(recipe: Recipe) -> dict[str, Any]:
    """What makes batches small, of images of 32 pixels, and a ViT of width 24 with as many blocks as before."""
    views, sides = recipe.data.views, dict[str, Any]()
    for i, view in enumerate(views):
        sides[f"data.views.{i}.size"] = 4 * round(8 * view.size / views[0].size)
    sides |= {"data.evaluation.size": 32, "encoder.image_size": 32}
    sides |= {"budget.batch_size": 2 if recipe.objective.learns_labels else 8}  # shares of the labels are few
    if recipe.encoder.kind == "vit":
        sides |= {"encoder.patch_size": 4, "encoder.width": 24, "encoder.heads": 2}
    if recipe.objective.learns_objects() is not None:
        sides |= {"objective.window": 3, "objective.global_blocks": [1], "objective.channels": 16,
                  "objective.anchors": [4, 8, 16, 32, 64], "objective.proposals": 20, "objective.box_width": 16,
                  "objective.box_samples": 8}  # fmt: skip
    return sides


def small(recipe: Recipe) -> Recipe:
    return recipes.with_overrides(recipe, smaller(recipe))


def _made_small(make: Callable[[], Recipe]) -> Callable[[], Recipe]:
    @functools.wraps(make)
    def changed() -> Recipe:
        return small(make())

    return changed


@pytest.fixture(autouse=True, scope="module")
def _small() -> Iterator[None]:
    known = {name: _made_small(make) for name, make in recipes.all_recipes().items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(recipes, "all_recipes", lambda: known)
        for module in (steps, comparing):
            patch.setattr(module, "to_steps", lambda *values, **sizes: min(_STEPS, _TO_STEPS(*values, **sizes)))
        patch.setattr(comparing, "ProcessPoolExecutor", Here)
        patch.setattr(learning, "PROBES", 2)
        yield


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What pages take for granted: images, finished runs, somebody's weights."""
    root = tmp_path_factory.mktemp("made")
    write_images(root / "many", train=100, test=128)
    write_images(root / "few", train=40, test=6)
    write_annotated(root / "annotated", train=12)
    data = ["--data", f"{root}/few"]
    assert main(["pretrain", "mae_micro", "--out", f"{root}/pretrained", *data]) == 0
    assert main(["finetune", "finetune_micro", "--init", f"{root}/pretrained", "--out", f"{root}/tuned", *data]) == 0
    with torch.random.fork_rng(devices=()):
        network = VisionTransformer(img_size=32, patch_size=4, embed_dim=24, depth=12, num_heads=12, num_classes=0)
    torch.save(network.state_dict(), root / "weights.pth")
    return root


def supply(word: str, made: Path, *, page: Path) -> None:
    """Put what `word` names where the page expects it, unless it is there."""
    word = word.rpartition("=")[2].rpartition("@")[2].rstrip("/")
    if not word or Path(word).exists():
        return
    text = page.read_text()
    is_many = re.search("^vitlet (export|compare) ", text, re.MULTILINE)
    folder = "annotated" if page.stem == "detection" else "many" if is_many else "few"
    if word in IMAGES:
        shutil.copytree(made / folder, word)
    elif word in MADE:
        shutil.copytree(made / MADE[word], word)
    elif WEIGHTS.fullmatch(word):
        shutil.copy(made / "weights.pth", word)
    elif word == "mine.toml":
        (content,) = re.findall(r"```toml\n(.*?)```", text, re.DOTALL)
        Path(word).write_text(content)
        supply("gauges", made, page=page)
    elif word.endswith("percent.txt"):
        Path(word).parent.mkdir(exist_ok=True)
        Path(word).write_text("".join(f"train/{name}/{i:02}.png\n" for name in CLASSES for i in range(8)))
    elif word.endswith("/recipe.json"):
        supply(word.removesuffix("/recipe.json"), made, page=page)


@pytest.mark.parametrize("page", [page for page in PAGES if run_of(page)], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_commands_of_a_page_run(
    page: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(Path("demo-run/digits"), train=12, test=6)  # where the demo would write its own
    for command in run_of(page):
        words = [re.sub(r"\$\w+", "0", word) for word in shlex.split(command)]
        out = words[words.index("--out") + 1] if "--out" in words else None
        if "--num-labels" in words:
            words[words.index("--num-labels") + 1] = str(FEW_LABELS)
        if out is not None and words[0] in ("pretrain", "finetune", "pack"):
            shutil.rmtree(out, ignore_errors=True)  # lines of a page may be alternatives
        for word in words:
            if word != out:
                supply(word, made, page=page)
        assert main(words) == 0, f"vitlet {command}: {capsys.readouterr().err}"


@pytest.mark.parametrize("verb", launched())
def test_a_line_with_torchrun_runs_over_two_processes(
    verb: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numbers of hosts and of processes on each apart, and the meeting point, which is this machine."""
    monkeypatch.chdir(tmp_path)
    page, line = launched()[verb]
    launcher, words = line.split(" -m vitlet ")
    launcher = re.sub(r"--(nnodes|rdzv-\S+) \S+ ?", "", launcher.removeprefix("torchrun "))
    launcher, count = re.subn(r"--nproc-per-node \d+", "--standalone --nproc-per-node 2", launcher)
    assert count == 1
    asked = shlex.split(words)
    for command in commands(page.read_text()):  # what an earlier line of the page leaves
        first = shlex.split(command)
        out = first[first.index("--out") + 1] if first[0] == "pack" else None
        if out in asked and not Path(out).exists():
            supply(first[1], made, page=page)
            assert main(first) == 0
    brief = {"budget.duration": {"unit": "steps", "n": _STEPS}, "optimizer.warmup": {"unit": "steps", "n": 1}}
    plain = _PLAIN[asked[1]]()
    settings = [f"--set={key}={json.dumps(value)}" for key, value in (smaller(plain) | brief).items()]
    command = [sys.executable, "-m", "torch.distributed.run", *shlex.split(launcher), "-m", "vitlet", *asked]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [*command, "--device", "cpu", "--workers", "0", *settings],
        capture_output=True, text=True, timeout=200, env=environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("finished: ") == 2, "each process ends well"


def test_lines_with_torchrun_are_there() -> None:
    assert "pretrain" in launched()


class _Fewer(ast.NodeTransformer):
    """Fewer labels, as for the commands."""

    def visit_keyword(self, node: ast.keyword) -> ast.keyword:
        if node.arg == "num_labels":
            node.value = ast.copy_location(ast.Constant(FEW_LABELS), node.value)
        return node


def run_python(page: Path, blocks: list[str], made: Path, patch: pytest.MonkeyPatch) -> None:
    """Run blocks one after the other with the names of those before, on images and runs that their texts name."""
    tree = ast.fix_missing_locations(_Fewer().visit(ast.parse("\n".join(blocks))))
    nodes = list(ast.walk(tree))
    outs = [node.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "out"]
    written = {node.value.rstrip("/") for node in outs if isinstance(node, ast.Constant)}
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.rstrip("/") not in written:
            supply(node.value, made, page=page)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("vitlet.recipes."):
            for alias in node.names:
                patch.setattr(importlib.import_module(node.module or ""), alias.name, recipes.all_recipes()[alias.name])
    exec(compile(tree, str(page), "exec"), {"__name__": "page"})


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if python_of(page) and str(page.relative_to(ROOT)) not in PYTHON_ELSEWHERE],
    ids=lambda p: str(p.relative_to(ROOT)),
)
def test_the_python_of_a_page_runs(page: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run_python(page, python_of(page), made, monkeypatch)


def test_python_that_fails_would_be_found(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    wrong = ["import vitlet", 'vitlet.pretrain("mae_micro", data="photos/", out="runs/mae", epoch=3)']
    with pytest.raises(UsageError, match="Did you mean epochs"):
        run_python(ROOT / "docs/start.md", wrong, made, monkeypatch)


def test_python_that_runs_elsewhere_is_there() -> None:
    for page, test in PYTHON_ELSEWHERE.items():
        assert python_of(ROOT / page)
        assert (ROOT / test).exists()


def test_a_command_that_fails_would_be_found(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    supply("photos/", made, page=ROOT / "docs/start.md")
    assert main(["pretrain", "mae_micro", "--data", "photos/", "--out", "runs/mae"]) == 0
    assert main(["probe", "runs/mea", "--data", "photos/"]) == 2


def test_what_runs_elsewhere_is_little_and_is_there() -> None:
    every = {command for page in PAGES for command in commands(page.read_text())}
    here = {command for page in PAGES for command in run_of(page)}
    assert len(here) >= 0.8 * len(every), sorted(every - here)
    for pattern, test in ELSEWHERE.items():
        assert any(re.match(pattern, command) for command in every), f"{pattern} matches nothing any more"
        assert (ROOT / test).exists()

"""What the documentation tells people to type runs, page by page, in a folder where its names stand for something.

Every line in a block of shell either runs here or is listed with the test that runs it. Recipes keep their method and
their layers and are made small; trainings end after two steps. Commands run in this process; those that torchrun
starts run once more as they stand there, over two processes, on two hosts where the line says so; of `make` the
commands that it would give are parsed; SLURM is played. Blocks of Python run as they are.
"""

import ast
import functools
import importlib
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import threading
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path += [str(Path(__file__).parent / folder) for folder in ("jobs", "faults")]

import huggingface_hub
import torch
import torchvision
from small_runs import CLASSES, write_image, write_images, write_public
from test_evaluating import model
from test_pushing import Hub
from timm.models.vision_transformer import VisionTransformer

from annotated_images import write_annotated
from in_place import in_place
from test_docs import PAGES, ROOT, commands, parse
from vitlet import recipes
from vitlet.cli import main
from vitlet.errors import UsageError
from vitlet.evaluation.imagenet import synsets
from vitlet.jobs import learning, lineup, side_by_side, steps, witnesses
from vitlet.recipe import Recipe

pytestmark = [
    pytest.mark.documentation,
    pytest.mark.timeout(300),  # a page is seconds by itself; another matter beside busy neighbours
]

ELSEWHERE = {
    r"vitlet .* s3://": "data/test_stores.py::test_the_command_line_trains_from_s3_and_resumes_there",
    r"vitlet learn ": "jobs/test_whole.py::test_the_command_line_needs_no_network",
    r"vitlet study ": "jobs/test_whole.py::test_the_command_line_needs_no_network",
    r"vitlet reproduce .* --plan": "replication/test_calibrate.py::test_on_a_gpu_the_price_is_in_the_time_of_the_gpu",
    r"vitlet reproduce .* --collect": "replication/test_replicate.py::test_every_number_is_measured_or_says_why_not",
    r"vitlet reproduce (?!.*--(plan|collect|slurm))": "replication/test_replicate.py::test_everything_runs_to_its_end",
    r"torchrun .* reproduce ": "replication/test_ranks.py::test_two_ranks_find_what_one_process_does",
    r"pip install ": "test_docs_run.py::test_what_pip_is_told_to_install_is_an_extra",
    r"python3 -m venv \.venv ": "test_docs.py::test_make_takes_an_environment_that_is_there",
    r"sysctl ": "distributed/test_hosts.py::test_a_cut_cable_ends_both_hosts_and_the_run_goes_on",
}
"""Lines of shell that need hours, another machine or its administrator, and the test that runs the same in small."""
PYTHON_ELSEWHERE = {
    "docs/guides/export.md": "tests/jobs/test_exporting.py",
    "docs/guides/detection.md": "tests/jobs/test_exporting_detectors.py",
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
_LOOP = re.compile(r"for \w+ in .*; do|done")
WEIGHTS = re.compile(r"[\w.]+\.pth(\.tar)?")
_STEPS = 2
_TO_STEPS = steps.to_steps
_PLAIN = recipes.all_recipes()


def shell(text: str) -> list[str]:
    """Every line in blocks of shell, without its comment; what a loop repeats, once."""
    blocks = re.findall(r"```(?:bash|sh|console)\n(.*?)```", text, re.DOTALL)
    plain = (line.strip().removeprefix("$ ") for block in blocks for line in block.replace("\\\n", " ").splitlines())
    found = dict.fromkeys(re.sub(r"(^|\s+)#.*", "", line) for line in plain)
    return [line for line in found if line and not _LOOP.fullmatch(line)]


def run_of(page: Path) -> list[str]:
    """The lines of a page that run here."""
    others = [*ELSEWHERE, "torchrun "]
    return [line for line in shell(page.read_text()) if not any(re.match(pattern, line) for pattern in others)]


def python_of(page: Path) -> list[str]:
    """The blocks of Python of a page, one after the other."""
    return re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL)


def launched() -> list[tuple[Path, str]]:
    """Every line with torchrun that is run here, and its page."""
    elsewhere = re.compile("|".join(ELSEWHERE))
    lines = ((page, line) for page in PAGES for line in shell(page.read_text()))
    return [(page, line) for page, line in lines if line.startswith("torchrun ") and not elsewhere.match(line)]


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
        for module in ("jobs.steps", "recipe"):
            patch.setattr(
                f"vitlet.{module}.to_steps", lambda *values, **sizes: min(_STEPS, _TO_STEPS(*values, **sizes))
            )
        patch.setattr(side_by_side, "processes", in_place)
        patch.setattr(learning, "PROBES", 2)
        patch.setattr(witnesses, "DETECTOR_IMAGES", 15)  # as many as are annotated
        patch.setattr(lineup, "PAPER", {"resnet18": lineup.PAPER["resnet18"]})
        patch.setattr(torchvision.datasets.cifar, "check_integrity", lambda *_: True)
        patch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
        with Hub() as hub:
            threading.Thread(target=hub.serve_forever, args=(0.02,), daemon=True).start()
            patch.setenv("HF_ENDPOINT", hub.address)
            patch.setenv("HF_TOKEN", "hf_of_a_test")
            yield
            hub.shutdown()


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
    if page.stem == "transfer" and word in _IMAGENET:
        write_imagenet(word)
    elif word == "data/imagenet":
        shutil.copytree(made / folder, word)
    elif word == "results":
        Path(word).mkdir()
    elif word == "torchvision-root":
        write_public(Path(word), train=16, test=4)
    elif word in IMAGES:
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


_IMAGENET = {"runs/fine", "imagenet/val", "imagenetv2-matched-frequency-format-val"}


def write_imagenet(word: str) -> None:
    """A classifier of ImageNet's classes, or a few images of its test sets under their names."""
    match word:
        case "runs/fine":
            model(Path(word), synsets(), answer=0)
        case "imagenet/val":
            for number in range(1, 9):
                name = f"{synsets()[number % 2]}/ILSVRC2012_val_{number:08d}.png"
                write_image(Path(word) / name, number, light=True)
        case _:
            for number in range(2):
                write_image(Path(word) / f"{number}/a.png", number, light=True)


def run_line(line: str, made: Path, *, page: Path) -> None:
    """Run a line of shell as its first word asks for."""
    match line.split()[0]:
        case "vitlet":
            run_vitlet(line.removeprefix("vitlet "), made, page=page)
        case "make":
            would = subprocess.run(["make", "-n", *line.split()[1:]], cwd=ROOT, capture_output=True, text=True)
            assert would.returncode == 0, would.stderr
            for command in re.findall(r"\.venv/bin/vitlet (.*)", would.stdout.replace("\\\n", " ")):
                parse(command)
        case "source":
            assert line == "source .venv/bin/activate", "what make and uv write"
        case "bash" | "sbatch":
            played = Path("played").absolute()
            played.mkdir(exist_ok=True)
            (played / "sbatch").write_text('#!/bin/bash\nbash -n "${@: -1}" && echo 7\n')
            (played / "sbatch").chmod(0o755)
            path = os.environ | {"PATH": f"{played}:{os.environ['PATH']}"}
            done = subprocess.run(["bash", "-c", line], env=path, capture_output=True, text=True)
            assert done.returncode == 0, done.stderr
        case other:
            pytest.fail(f"{page.name}: nothing runs {other}, and ELSEWHERE names no test for: {line}")


def run_vitlet(command: str, made: Path, *, page: Path) -> None:
    words = ["data" if word == "/data" else re.sub(r"\$\w+", "0", word) for word in shlex.split(command)]
    out = words[words.index("--out") + 1] if "--out" in words else None
    if "--num-labels" in words:
        words[words.index("--num-labels") + 1] = str(FEW_LABELS)
    if out is not None and words[0] in ("pretrain", "finetune", "pack"):
        shutil.rmtree(out, ignore_errors=True)  # lines of a page may be alternatives
    for word in words:
        if word != out:
            supply(f"{word}/imagenet" if word == "data" and "paper" in words else word, made, page=page)
    assert main(words) == 0, f"vitlet {command}"
    if words[0] == "transfer":  # data sets that are missing are no error
        assert "done" in {row["state"] for row in json.loads(Path(f"{out}/transfer.json").read_text())["rows"]}


@pytest.mark.filterwarnings("ignore:Use 'content=<...>'")  # the hub's client to its own HTTP library
@pytest.mark.parametrize("page", [page for page in PAGES if run_of(page)], ids=lambda p: str(p.relative_to(ROOT)))
def test_the_lines_of_a_page_run(page: Path, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_images(Path("demo-run/digits"), train=16, test=6)  # where the demo would write its own
    for line in run_of(page):
        run_line(line, made, page=page)


@pytest.mark.parametrize(("page", "line"), launched(), ids=lambda value: str(value).split(" -m ")[0])
def test_a_line_with_torchrun_runs_over_two_processes(
    page: Path, line: str, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of processes on each host apart, and the meeting point, which is this machine, as both hosts are."""
    monkeypatch.chdir(tmp_path)
    launcher, words = line.removeprefix("torchrun ").split(" -m vitlet ")
    found = re.search(r"--nnodes (\d+)", launcher)
    hosts = int(found[1]) if found else 1
    launcher, count = re.subn(r"--nproc-per-node \d+", f"--nproc-per-node {2 // hosts}", launcher)
    assert count == 1
    if hosts == 1:
        launcher += " --standalone"
    else:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            here = f"--local-addr 127.0.0.1 --rdzv-endpoint 127.0.0.1:{free.getsockname()[1]}"
        launcher, count = re.subn(r"--rdzv-endpoint \S+", here, launcher)
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
    agents = [
        subprocess.Popen(
            [*command, "--device", "cpu", "--workers", "0", *settings],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment,
        )
        for _ in range(hosts)
    ]  # fmt: skip
    try:
        said = [agent.communicate(timeout=200)[0] for agent in agents]
    finally:
        for agent in agents:
            agent.kill()
    assert [agent.returncode for agent in agents] == [0] * hosts, said
    assert sum(text.count("finished: ") for text in said) == 1, "each process ends well, and the first rank says so"


def test_lines_with_torchrun_are_there() -> None:
    lines = [line for _, line in launched()]
    assert any("--nnodes 2" in line for line in lines)
    assert any("--nnodes" not in line for line in lines)


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


def test_a_line_that_fails_would_be_found(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = ROOT / "docs/start.md"
    run_line("vitlet pretrain mae_micro --data photos/ --out runs/mae", made, page=page)
    (tmp_path / "broken.sbatch").write_text("if\n")
    for wrong in (
        "vitlet probe runs/mea --data photos/",
        "make evidences DATA=images/",
        "sbatch broken.sbatch",
        "bash jobs/submit.sh",
    ):
        with pytest.raises(AssertionError):
            run_line(wrong, made, page=page)
    with pytest.raises(pytest.fail.Exception, match="nothing runs curl, and ELSEWHERE names no test for: curl -O x"):
        run_line("curl -O x", made, page=page)


def test_no_line_of_shell_is_passed_over() -> None:
    block = "```bash\n# all\n$ vitlet demo  # one\nfor i in 0 1; do\n  curl -O x \\\n    y\ndone\n```\n```text\nno\n```"
    assert shell(block) == ["vitlet demo", "curl -O x      y"]
    for page in PAGES:
        fences = re.findall(r"^ *```(.*)$", page.read_text(), re.MULTILINE)
        assert "" not in fences[::2], f"{page}: a block without a language, which nobody runs"


def test_what_pip_is_told_to_install_is_an_extra() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    told = [line for page in PAGES for line in shell(page.read_text()) if line.startswith("pip install ")]
    assert told
    for line in told:
        found = re.fullmatch(r"pip install '(?:vitlet|\.)\[(\w+)\]'", line)
        assert found, line
        assert found[1] in extras, line


def test_what_runs_elsewhere_is_little_and_is_there() -> None:
    every = {line for page in PAGES for line in shell(page.read_text())}
    here = {line for page in PAGES for line in run_of(page)}
    assert len(here) >= 0.8 * len(every), sorted(every - here)
    for pattern, test in ELSEWHERE.items():
        assert any(re.match(pattern, line) for line in every), f"{pattern} matches nothing any more"
        file, name = test.split("::")
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), test

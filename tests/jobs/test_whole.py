"""The main job from end to end: by the public names of Python, and by the command line without a network.

The parts have tests of their own beside this file; here they are links of one chain.
"""

import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from small_images import write_images as write_four_classes
from small_runs import DETECTING, QUIET, SHORT, SMALLER, stands, write_images
from timm.models.vision_transformer import VisionTransformer

import vitlet
from vitlet.cli import app
from vitlet.run import Run


def test_every_public_name_is_a_function_or_a_class_with_its_words() -> None:
    assert sorted(vitlet.__all__) == sorted(vitlet._HOMES)
    for name in vitlet.__all__:
        thing, home = getattr(vitlet, name), importlib.import_module(vitlet._HOMES[name])
        assert inspect.unwrap(thing) is inspect.unwrap(getattr(home, name))
        assert inspect.getdoc(thing)
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        vitlet.pretrian  # noqa: B018


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many images as an export is judged on."""
    return write_images(tmp_path_factory.mktemp("many"), train=0, test=128)


@pytest.fixture(scope="module")
def chain(data: Path, many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything a user would do one after the other, in one folder: each function takes the run of another."""
    out = tmp_path_factory.mktemp("chain")
    run = vitlet.pretrain("debug", data=data, out=out / "mae", options=QUIET, set=SHORT)
    fine = vitlet.finetune("debug_supervised", init=run, data=data, out=out / "fine", options=QUIET, set=SMALLER)
    for protocol in ("knn", "logistic"):
        vitlet.probe(run, data=data, protocol=protocol, options=QUIET)
    vitlet.embed(run, data=data, out=out / "features.parquet", options=QUIET)
    vitlet.predict(fine, data=data, out=out / "classes.csv", options=QUIET)
    vitlet.export(run, out=out / "encoder", images=many)
    vitlet.export(fine, out=out / "classifier", images=many)
    vitlet.report([run, str(fine.path)], out=out / "report.html")
    return out


def test_the_chain_leaves_what_it_names(chain: Path) -> None:
    assert sorted(p.name for p in chain.iterdir()) == sorted(
        ["mae", "fine", "features.parquet", "classes.csv", "encoder", "classifier", "report.html"]
    )
    assert sorted(p.stem for p in (chain / "mae/results").iterdir()) == ["export-timm", "knn-mean", "logistic-mean"]
    page = (chain / "report.html").read_text()
    for file in (*(chain / "mae/results").iterdir(), *(chain / "fine/results").iterdir()):
        result = json.loads(file.read_text())
        shown = f"{100 * result['value']:.1f}" if result["metric"] == "top1" else result["metric"]
        assert shown in page, "what was measured is on the page"


def test_timm_alone_gives_the_features_that_embed_wrote(chain: Path, data: Path) -> None:
    """The exported folder and its config.json are all that is used; the mean of the patch tokens by hand."""
    config = json.loads((chain / "encoder/config.json").read_text())["pretrained_cfg"]
    mean, std = (torch.tensor(config[key])[:, None, None] for key in ("mean", "std"))
    rows = pq.read_table(chain / "features.parquet").to_pylist()
    pixels = np.stack([np.array(Image.open(data / row["path"])) for row in rows])
    images = (torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255 - mean) / std
    model = timm.create_model(f"local-dir:{chain / 'encoder'}", pretrained=True).eval()
    with torch.inference_mode():
        tokens = model.forward_features(images)
    written = torch.tensor([row["feature"] for row in rows])
    assert float((tokens[:, 1:].mean(dim=1) - written).abs().max()) <= 1e-5


def test_resuming_changes_nothing_in_it(chain: Path) -> None:
    before = stands(chain)
    for name in ("mae", "fine"):
        for given in (chain / name, Run(chain / name)):
            assert vitlet.resume(given, options=QUIET) == Run(chain / name)
    assert stands(chain) == before


def without_network() -> list[str]:
    """The words that start a program without a network, where this machine allows that."""
    for words in (["unshare", "-n"], ["unshare", "-rn"]):
        if shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words
    pytest.skip("a network namespace of its own is not permitted here (unshare -n)")


SUITE = """
recipe = "debug_supervised"
grid = {{ lr = [1e-3], epochs = [[1, 0]], layer_decay = [1.0] }}
data = [{{ name = "ours", title = "Our images", data = "{data}" }}]
"""


@pytest.fixture
def commands(annotated: Path, tmp_path: Path) -> list[list[str]]:
    """Every verb once or more, each on what those before it left."""
    out, data = str(tmp_path), str(write_images(tmp_path / "images", train=72, test=128))
    four = str(write_four_classes(tmp_path / "four"))
    write_images(tmp_path / "demo/digits", train=16, test=6)  # where the demo would write its own
    network = VisionTransformer(img_size=32, patch_size=8, embed_dim=24, depth=1, num_heads=2, num_classes=3)
    save_file(network.state_dict(), tmp_path / "foreign.safetensors")
    (tmp_path / "suite.toml").write_text(SUITE.format(data=data))

    def changes(values: dict) -> list[str]:
        return [f"--set={key}={json.dumps(value)}" for key, value in values.items()]

    tuning = ["--recipe", "debug_supervised", "--seeds", "1", *changes(SMALLER)]
    return [
        ["recipes"],
        ["check", data, "--out", f"{out}/check"],
        ["pack", data, "--out", f"{out}/shards"],
        ["pretrain", "debug", "--data", f"{out}/shards", "--out", f"{out}/mae", *changes(SHORT)],
        ["finetune", "debug_supervised", "--init", f"{out}/mae", "--data", data, "--out", f"{out}/fine",
         "--num-labels", "12", *changes(SMALLER)],
        ["resume", f"{out}/fine"],
        ["probe", f"{out}/mae", "--data", data, "--protocol", "knn"],
        ["evaluate", f"{out}/fine", "--data", data],
        ["embed", f"{out}/mae", "--data", data, "--out", f"{out}/features.parquet"],
        ["predict", f"{out}/fine", "--data", data, "--out", f"{out}/classes.csv"],
        ["analyse", f"{out}/mae", "--data", data, "--out", f"{out}/inside", "--images", "16"],
        ["compare", f"{out}/mae", "--data", data, "--out", f"{out}/compared", "--label-fractions", "0.1", *tuning],
        ["sweep", "keep-blocks", f"{out}/mae", "--data", data, "--out", f"{out}/swept", "--blocks", "1", *tuning],
        ["study", f"{out}/mae", f"{out}/fine", "--data", data, "--out", f"{out}/studied", "--labels", "8",
         "--seeds", "1"],
        ["transfer", f"{out}/mae", "--suite", f"{out}/suite.toml", "--out", f"{out}/transferred", "--seeds", "1"],
        ["report", f"{out}/mae", f"{out}/fine", "--out", f"{out}/report.html"],
        ["export", f"{out}/fine", "--out", f"{out}/model", "--images", data],
        ["export", f"{out}/fine", "--out", f"{out}/openvino", "--images", data, "--to", "openvino"],
        ["export", f"{out}/fine", "--out", f"{out}/int8", "--images", data, "--to", "openvino", "--int8"],
        ["export", f"{out}/fine", "--out", f"{out}/onnx", "--images", data, "--to", "onnx"],
        ["export", f"{out}/fine", "--out", f"{out}/traced", "--images", data, "--to", "torch-export"],
        ["pretrain", "debug", "--data", data, "--out", f"{out}/logged", "--log", "mlflow", "--log", "wandb",
         *changes(SHORT)],
        ["import", f"{out}/foreign.safetensors", "--out", f"{out}/imported", "--heads", "2", "--pixels", "half"],
        ["finetune", "debug_detection", "--init", "none", "--data", f"{annotated}", "--out", f"{out}/detector",
         *changes(DETECTING)],
        ["detect", f"{out}/detector", "--data", f"{annotated}", "--out", f"{out}/found.json"],
        ["overfit", "--data", f"{annotated}", "--out", f"{out}/by-heart", "--images", "2", "--steps", "2"],
        ["demo", "--out", f"{out}/demo", "--seeds", "1", "--num-labels", "8"],
        ["learn", "--data", data, "--out", f"{out}/learned", "--views", "64", "--num-labels", "8", "--seeds", "1",
         "--methods", "mae_micro"],
        ["bench", "models", f"{out}/fine", "--batch-size", "2"],
        ["reproduce", "table-1", "--data", four, "--out", f"{out}/replicated", "--scale", "smoke", "--plan"],
        ["slurm", "debug", "--data", data, "--run", f"{out}/far", "--out", f"{out}/job.sbatch"],
        ["export", f"{out}/nothing", "--out", f"{out}/model"],
        ["push", f"{out}/fine", "hf://someone/digits", "--images", data],
    ]  # fmt: skip


def test_every_verb_is_among_them(commands: list[list[str]]) -> None:
    assert {words[0] for words in commands} == {name for name in app if not name.startswith("-")}


WATCHED = Path(__file__).with_name("watched")
SWALLOWS = """
import contextlib, multiprocessing, socket, subprocess, sys

def attempt(host):
    with contextlib.suppress(OSError), socket.socket() as probe:
        probe.settimeout(0.1)
        probe.connect((host, 9))

if __name__ == "__main__":
    attempt("127.0.0.1")
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as probe:
        probe.connect("/nowhere")
    for number, method in enumerate(("fork", "spawn")):
        child = multiprocessing.get_context(method).Process(target=attempt, args=(f"192.0.2.{number}",))
        child.start()
        child.join()
    with contextlib.suppress(OSError):
        socket.getaddrinfo("name.invalid", 80)
"""


def watched(record: Path) -> dict[str, str]:
    """The environment in which every attempt to connect is written to `record`."""
    places = [str(WATCHED), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"CONNECTIONS": str(record), "PYTHONPATH": os.pathsep.join(places)}


def test_a_connection_that_someone_swallows_is_seen(tmp_path: Path) -> None:
    """Also of a child; not those to this machine. The control is the exit code, which tells nothing."""
    (tmp_path / "swallows.py").write_text(SWALLOWS)
    done = subprocess.run([sys.executable, tmp_path / "swallows.py"], env=watched(tmp_path / "record"), timeout=60)
    assert done.returncode == 0
    assert (tmp_path / "record").read_text().splitlines() == [
        "socket.connect 192.0.2.0", "socket.connect 192.0.2.1", "socket.getaddrinfo name.invalid",
    ]  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(300)  # a minute by itself; another matter beside busy neighbours
def test_the_command_line_needs_no_network(commands: list[list[str]], tmp_path: Path) -> None:
    """All of it but `push`, which says that it needs one. Nothing else tries: no failure is swallowed."""
    done = subprocess.run(
        [*without_network(), sys.executable, Path(__file__).with_name("offline.py")],
        input=json.dumps(commands), env=watched(tmp_path / "connections") | {"VITLET_CACHE": f"{tmp_path}/cache"},
        capture_output=True, text=True, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [0] * (len(commands) - 2) + [2, 2], done.stdout + done.stderr
    before, _, pushing = (tmp_path / "connections").read_text().rpartition("push:\n")
    assert before.splitlines() == [f"{words[0]}:" for words in commands[:-1]], "nobody tries to connect"
    assert pushing.startswith("socket."), "the control: it is seen when someone does"
    nothing, refused = done.stderr.splitlines()[-2:]
    assert nothing.startswith("error: no file or folder"), nothing
    assert re.match(r"error: hf://someone/digits was not uploaded\. .* Fix: check the network", refused), refused
    for name in ("check/data_check.json", "mae/results/knn-mean.json", "fine/results/top1.json", "model/config.json",
                 "demo/report.html", "learned/learning.json", "found.json", "imported/config.json"):  # fmt: skip
        assert (tmp_path / name).is_file(), name
    for tracker in ("mlflow", "wandb"):  # one that fails costs no more than a warning
        assert any((tmp_path / "logged" / tracker).iterdir()), tracker

"""The main job from end to end: by the public names of Python, and by the command line without a network.

The parts have tests of their own beside this file; here they are links of one chain.
"""

import importlib
import inspect
import json
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
from small_runs import QUIET, SHORT, SMALLER, stands, write_images

import vitlet
from vitlet.run import Run


def test_every_public_name_is_a_function_or_a_class_with_its_words() -> None:
    assert sorted(vitlet.__all__) == sorted(vitlet._HOMES)
    for name in vitlet.__all__:
        thing = getattr(vitlet, name)
        assert thing is getattr(importlib.import_module(vitlet._HOMES[name]), name)
        assert inspect.getdoc(thing)
    with pytest.raises(AttributeError, match="no attribute 'pretrian'"):
        vitlet.pretrian  # noqa: B018


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As many images as an export is judged on."""
    return write_images(tmp_path_factory.mktemp("many"), train=0, test=128)


@pytest.fixture(scope="module")
def chain(data: Path, many: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Everything a user would do one after the other, in one folder."""
    out = tmp_path_factory.mktemp("chain")
    run = vitlet.pretrain("debug", data=data, out=out / "mae", options=QUIET, set=SHORT)
    fine = vitlet.finetune("debug_supervised", init=run.path, data=data, out=out / "fine", options=QUIET, set=SMALLER)
    for protocol in ("knn", "logistic"):
        vitlet.probe(run.path, data=data, protocol=protocol, options=QUIET)
    vitlet.embed(run.path, data=data, out=out / "features.parquet", options=QUIET)
    vitlet.predict(fine.path, data=data, out=out / "classes.csv", options=QUIET)
    vitlet.export(run.path, out=out / "encoder", images=many)
    vitlet.export(fine.path, out=out / "classifier", images=many)
    vitlet.write_page([run, fine], out=out / "report.html")
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
        assert vitlet.resume(chain / name, options=QUIET) == Run(chain / name)
    assert stands(chain) == before


_OFFLINE = """
import json, socket, sys
try:
    socket.create_connection(("127.0.0.1", 9), timeout=5)
except OSError as error:
    assert error.errno == 101, error  # not even this machine itself can be reached
else:
    raise AssertionError("there is a network")
from vitlet.cli import main
print(json.dumps([main(words) for words in json.loads(sys.argv[1])]))
"""


def without_network() -> list[str]:
    """The words that start a program without a network, where this machine allows that."""
    for words in (["unshare", "-n"], ["unshare", "-rn"]):
        if shutil.which("unshare") and subprocess.run([*words, "true"], capture_output=True).returncode == 0:
            return words
    pytest.skip("a network namespace of its own is not permitted here (unshare -n)")


@pytest.mark.timeout(300)  # half a minute by itself; another matter beside busy neighbours
def test_the_command_line_needs_no_network(data: Path, many: Path, tmp_path: Path) -> None:
    out = str(tmp_path)

    def changes(values: dict) -> list[str]:
        return [f"--set={key}={json.dumps(value)}" for key, value in values.items()]

    commands = [
        ["check", f"{data}", "--out", f"{out}/check"],
        ["pretrain", "debug", "--data", f"{data}", "--out", f"{out}/mae", *changes(SHORT)],
        ["finetune", "debug_supervised", "--init", f"{out}/mae", "--data", f"{data}", "--out", f"{out}/fine",
         "--num-labels", "12", *changes(SMALLER)],
        ["resume", f"{out}/fine"],
        ["probe", f"{out}/mae", "--data", f"{data}", "--protocol", "knn"],
        ["embed", f"{out}/mae", "--data", f"{data}", "--out", f"{out}/features.parquet"],
        ["predict", f"{out}/fine", "--data", f"{data}", "--out", f"{out}/classes.csv"],
        ["report", f"{out}/mae", f"{out}/fine", "--out", f"{out}/report.html"],
        ["export", f"{out}/fine", "--out", f"{out}/model", "--images", f"{many}"],
        ["export", f"{out}/fine", "--out", f"{out}/openvino", "--images", f"{many}", "--to", "openvino"],
        ["analyse", f"{out}/mae", "--data", f"{data}", "--out", f"{out}/inside", "--images", "16"],
        ["recipes"],
        ["export", f"{out}/nothing", "--out", f"{out}/model"],
    ]  # fmt: skip
    done = subprocess.run(
        [*without_network(), sys.executable, "-c", _OFFLINE, json.dumps(commands)],
        capture_output=True, text=True, timeout=290,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [0] * 12 + [2], done.stdout + done.stderr
    assert done.stdout.count("next: vitlet report") == 3
    for name in ("check/data_check.json", "mae/results/knn-mean.json", "fine/results/top1.json", "model/config.json"):
        assert (tmp_path / name).is_file()

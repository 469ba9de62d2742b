"""Files of other runtimes: no pickle in them, nothing sent by them, and a clear word where a package is missing."""

import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from vitlet.augmentation import Centre, View
from vitlet.errors import UsageError
from vitlet.evaluation.agreement import relative_error
from vitlet.nn.encoder import Encoder
from vitlet.recipe import EncoderConfig
from vitlet.weights.card import OPENING
from vitlet.weights.files import TORCH
from vitlet.weights.folder import Saved
from vitlet.weights.form import Form
from vitlet.weights.formats import open_graph, optional, quiet, require_packages, write_graph
from vitlet.weights.portable import PortableEncoder

SMALL = EncoderConfig(image_size=16, patch_size=8, width=24, depth=1, heads=4)


@pytest.fixture(scope="module")
def model() -> PortableEncoder:
    view = View(size=16, crop=Centre(), flip=0)
    return PortableEncoder(Saved(Encoder(SMALL).eval(), None, (), view, "", {}))


def test_the_archive_of_torch_export_holds_no_pickle(model: PortableEncoder, tmp_path: Path) -> None:
    write_graph(model, tmp_path, Form("torch-export"))
    with zipfile.ZipFile(tmp_path / TORCH) as archive:
        for name in archive.namelist():
            content = archive.read(name)
            assert not content.startswith((b"\x80\x02", b"\x80\x04", b"\x80\x05")), name
            assert not content.startswith(b"PK"), f"{name} is an archive of torch.save"
    run = open_graph(model, tmp_path, Form("torch-export"))
    images = model.input_of(torch.zeros(3, 3, 16, 16, dtype=torch.uint8))
    assert run(images)["tokens"].shape == (3, 5, 24)


def test_torch_would_have_pickled_the_sample_inputs(model: PortableEncoder, tmp_path: Path) -> None:
    """The control: saved as it comes from the tracer, the archive holds one."""
    with quiet():
        torch.export.save(model.program(), tmp_path / TORCH)
    with zipfile.ZipFile(tmp_path / TORCH) as archive:
        assert any(archive.read(name).startswith(b"PK") for name in archive.namelist())


_IMPORTS = """
import sys
from vitlet.weights.formats import optional
openvino = optional("openvino")
print([name for name, module in sys.modules.items() if name.startswith("openvino_telemetry") and module])
"""


@pytest.mark.long
def test_openvino_cannot_report_home() -> None:
    done = subprocess.run([sys.executable, "-c", _IMPORTS], capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]", done.stderr


_THEN_SAVE = """
import numpy as np
np.save("found.npy", model(np.load("images.npy"))["features"])
"""


def test_the_card_s_lines_for_openvino_compute_what_the_proof_is_of(model: PortableEncoder, tmp_path: Path) -> None:
    """In a process of its own, as it makes a core. On CPUs with bf16 the lines without the hint would not."""
    write_graph(model, tmp_path, Form("openvino"))
    images = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    np.save(tmp_path / "images.npy", images.numpy())
    program = [sys.executable, "-c", OPENING["openvino"] + _THEN_SAVE]
    done = subprocess.run(program, cwd=tmp_path, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr
    with torch.inference_mode():
        _, features = model(images)
    assert relative_error(features.numpy(), np.load(tmp_path / "found.npy")) < 1e-4


_SIGNAL_AFTER_GRAPHS = """
import os, signal, sys
from pathlib import Path
import numpy as np
from vitlet.nn.encoder import Encoder
from vitlet.augmentation import Centre, View
from vitlet.recipe import EncoderConfig
from vitlet.weights import formats, int8
from vitlet.weights.folder import Saved
from vitlet.weights.form import Form
from vitlet.weights.portable import PortableEncoder

is_control = sys.argv[1] == "a core for each graph"
if is_control:
    formats.openvino_core = formats.openvino_core.__wrapped__
folder, form = Path(sys.argv[2]), Form("openvino")
encoder = Encoder(EncoderConfig(image_size=16, patch_size=8, width=24, depth=1, heads=4)).eval()
model = PortableEncoder(Saved(encoder, None, (), View(size=16, crop=Centre(), flip=0), "", {}))
formats.write_graph(model, folder, form)
graphs = [formats.open_graph(model, folder, form) for _ in range(2)]
while graphs:
    del graphs[0]
if not is_control:
    int8.quantise(folder, Form("openvino", int8=True), np.zeros((20, 3, 16, 16), dtype=np.float32))
signal.signal(signal.SIGCHLD, lambda *_: None)
os.kill(os.getpid(), signal.SIGCHLD)
print("alive")
"""


@pytest.mark.long
@pytest.mark.parametrize("cores", ["one", "a core for each graph"])
def test_signals_are_survived_after_graphs_of_openvino(cores: str, tmp_path: Path) -> None:
    """The second case is the control; a loader's worker that ends sends the same signal."""
    command = [sys.executable, "-c", _SIGNAL_AFTER_GRAPHS, cores, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    if cores == "one":
        assert done.stdout.endswith("alive\n"), done.stderr
    elif done.returncode == 0:
        pytest.skip("this OpenVINO keeps signal stacks in order: openvino_core could make a new one each time")
    else:
        assert done.returncode == -signal.SIGSEGV, done.stderr


def test_a_missing_package_is_named_with_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(UsageError, match=r"onnxscript is not installed.*vitlet\[export\]"):
        require_packages(Form("onnx"))
    require_packages(Form("timm"))
    require_packages(Form("torch-export"))


def test_notes_of_converters_are_kept_from_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with quiet():
        print("converting")
    assert capsys.readouterr().out == ""
    assert optional("onnx").__name__ == "onnx"

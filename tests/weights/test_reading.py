import argparse
import collections
import functools
import os
import pickle
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from vitlet.errors import CheckpointError
from vitlet.weights.reading import read_weights

TENSORS = {"a.weight": torch.arange(6.0).view(2, 3)}


class Call:
    """Pickles as a call, which the unpickler is asked to make."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> Any:
        return self.call


def payloads(flag: Path) -> dict[str, Any]:
    shell, python = f"touch {flag}", f"open({str(flag)!r}, 'w')"
    hidden = pickle.dumps(Call(os.system, shell))
    return {
        "shell": Call(os.system, shell),
        "exec": Call(exec, python),
        "process": Call(subprocess.Popen, ["touch", str(flag)]),
        "nested": {"list": [{"deep": Call(eval, python)}]},
        "partial": Call(functools.partial, os.system, shell),
        "pickle in a pickle": Call(pickle.loads, hidden),
        "torch storage": Call(torch.storage._load_from_bytes, hidden),
        "ordered": collections.OrderedDict(model=Call(os.mkdir, str(flag))),
        "namespace": argparse.Namespace(hook=Call(os.system, shell)),
    }


@pytest.mark.parametrize("form", ["zip", "old", "bare"])
@pytest.mark.parametrize("name", payloads(Path("flag")))
def test_code_in_a_pickle_is_named_refused_and_not_run(name: str, form: str, tmp_path: Path) -> None:
    flag, file = tmp_path / "flag", tmp_path / "model.pth"
    content = {"model": TENSORS, "extra": payloads(flag)[name]}
    if form == "bare":
        file.write_bytes(pickle.dumps(payloads(flag)[name], protocol=2))
    else:
        torch.save(content, file, _use_new_zipfile_serialization=form == "zip")
    with pytest.raises(CheckpointError, match=r"would import [\w.]+") as caught:
        read_weights(file)
    assert not flag.exists()
    message = str(caught.value)
    assert "weights_only" not in message
    assert "safe_globals" not in message
    # The control: an unpickler without protection does run it.
    if name == "shell" and form == "bare":
        pickle.loads(file.read_bytes())
        assert flag.exists()


def test_containers_and_what_lies_beside_the_weights(tmp_path: Path) -> None:
    file = tmp_path / "checkpoint.pth.tar"
    for wrapper in ("model", "state_dict", "teacher"):
        torch.save({wrapper: TENSORS, "epoch": 3, "args": argparse.Namespace(lr=0.1)}, file)
        found = read_weights(file)
        assert (found.wrapper, found.beside) == (wrapper, ("epoch", "args"))
        assert torch.equal(found.tensors["a.weight"], TENSORS["a.weight"])
    torch.save({"student": {"a": torch.zeros(1)}, "teacher": {"a": torch.ones(1)}}, file)
    assert read_weights(file).tensors["a"].item() == 1
    torch.save(TENSORS, file, _use_new_zipfile_serialization=False)
    assert read_weights(file).wrapper == ""


def test_the_content_decides_what_a_file_is(tmp_path: Path) -> None:
    disguised = tmp_path / "model.safetensors"
    torch.save(TENSORS, disguised)
    with pytest.raises(CheckpointError, match="is a pickle and not safetensors"):
        read_weights(disguised)
    honest = tmp_path / "model.bin"
    safetensors.torch.save_file(TENSORS, honest)
    assert torch.equal(read_weights(honest).tensors["a.weight"], TENSORS["a.weight"])
    for content in (b"", b"GIF89a" + bytes(50), b"\xff\xd8\xff" + bytes(50), b"{}"):
        (tmp_path / "x.pth").write_bytes(content)
        with pytest.raises(CheckpointError, match="not a weights file"):
            read_weights(tmp_path / "x.pth")


@pytest.mark.parametrize("form", ["zip", "old", "safetensors"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9, 0.99])
def test_a_file_that_was_cut_short_is_refused(form: str, share: float, tmp_path: Path) -> None:
    noise = torch.randn(400, generator=torch.Generator().manual_seed(0))
    file, tensors = tmp_path / "model.pth", {"w": noise}
    if form == "safetensors":
        safetensors.torch.save_file(tensors, file)
    else:
        torch.save(tensors, file, _use_new_zipfile_serialization=form == "zip")
    content = file.read_bytes()
    file.write_bytes(content[: int(share * len(content))])
    with pytest.raises(CheckpointError, match="damaged or cut short"):
        read_weights(file)


def test_a_file_without_tensors_and_one_that_is_not_there(tmp_path: Path) -> None:
    torch.save({"epoch": 3, "best": [1]}, tmp_path / "a.pth")
    with pytest.raises(CheckpointError, match="2 entries: epoch, best"):
        read_weights(tmp_path / "a.pth")
    torch.save([1, 2], tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="not a table of tensors"):
        read_weights(tmp_path / "b.pth")
    with pytest.raises(CheckpointError, match="No such file"):
        read_weights(tmp_path / "c.pth")
    with pytest.raises(CheckpointError, match="cannot read"):
        read_weights(tmp_path)

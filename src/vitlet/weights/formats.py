"""Model files for other runtimes: written from a graph, and run by that runtime alone on one thread.

No pickle is written: the sample inputs that torch.export would pickle are left out. No telemetry is sent: OpenVINO
reports each import unless the user opts out, so its telemetry package is hidden here.
"""

import contextlib
import functools
import importlib
import io
import logging
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor

from vitlet.errors import UsageError
from vitlet.nn.convnet import ConvEncoder
from vitlet.weights.files import ONNX, OPENVINO, TORCH
from vitlet.weights.form import Form
from vitlet.weights.portable import INPUT, Portable, PortableEncoder

OPSET = 20
"""Readable by ONNX Runtime 1.17 and OpenVINO 2024."""
Runner = Callable[[Tensor], dict[str, NDArray[np.float32]]]
Precision = Literal["f32", "bf16"]


def require_packages(form: Form) -> None:
    """Check that the packages of a format are installed, before anything is computed.

    Raises:
        UsageError: naming the extra to install.
    """
    needed = {"onnx": ("onnx", "onnxscript", "onnxruntime"), "openvino": ("onnx", "onnxscript", "openvino")}
    quantiser = ("nncf",) if form.int8 and form.target == "openvino" else ()
    for name in (*needed.get(form.target, ()), *quantiser):
        optional(name)


def optional(name: str) -> Any:
    """Import a package of the extra `export`.

    Raises:
        UsageError: if it is not installed.
    """
    if name in ("openvino", "nncf"):
        sys.modules.setdefault("openvino_telemetry", cast(Any, None))  # makes its import fail, which both tolerate
    try:
        with quiet():
            return importlib.import_module(name)
    except ImportError as error:
        raise UsageError(
            f"the package {name} is not installed", why=str(error), fix="pip install 'vitlet[export]'"
        ) from error


@functools.cache
def openvino_core() -> Any:
    """Return the process-wide OpenVINO core, which is never released.

    Each core's plug-in registers a signal stack for the thread and restores the previous one when released. If two are
    released in the order of their creation, the second restores freed memory, and the next signal (such as the end of
    a loader's worker) causes a segmentation fault.

    Raises:
        UsageError: if OpenVINO is not installed.
    """
    return optional("openvino").Core()


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the log messages and warnings of converters, which are meant for their developers."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def write_graph(model: Portable, folder: Path, form: Form) -> None:
    """Write the files of `form` (before int8 quantisation) into the existing `folder`.

    Raises:
        UsageError: if a package is not installed.
    """
    if form.target == "torch-export":
        with quiet():
            program = model.program()
            program._example_inputs = None
            torch.export.save(program, folder / TORCH)
        return
    if form.target == "openvino":
        graph = openvino_core().read_model(_onnx_of(model))
        optional("openvino").save_model(graph, folder / OPENVINO, compress_to_fp16=False)
        return
    assert form.target == "onnx"
    (folder / ONNX).write_bytes(_onnx_of(model))


def _onnx_of(model: Portable) -> bytes:
    optional("onnxscript")
    with quiet():
        found = torch.onnx.export(
            model.program(),
            dynamo=True,
            verbose=False,
            opset_version=OPSET,
            input_names=[INPUT],
            output_names=list(model.outputs),
        )
        assert found is not None
        return found.model_proto.SerializeToString()


def open_graph(model: Portable, folder: Path, form: Form, *, precision: Precision = "f32") -> Runner:
    """Open the files in `folder` in the runtime of `form`, on one thread.

    Args:
        model: Gives the names of the outputs; its weights are not used.
        folder: A folder written with `form`.
        form: The format, which determines the runtime.
        precision: Precision that OpenVINO may compute in.

    Returns:
        A function from the exported model's input to its outputs by name.
    """
    if form.target == "timm":
        return _open_timm(model, folder)
    if form.target == "torch-export":
        with quiet():
            network = torch.export.load(folder / TORCH).module()
        return lambda images: model.named(tuple(value.numpy() for value in network(images)))
    if form.target == "openvino":
        settings = {
            "INFERENCE_NUM_THREADS": 1,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": precision,
            "ENABLE_CPU_PINNING": False,
        }
        compiled = openvino_core().compile_model(folder / OPENVINO, "CPU", settings)
        return lambda images: model.named(cast(Any, compiled([images.numpy()])))
    runtime = optional("onnxruntime")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    session = runtime.InferenceSession(folder / ONNX, options, providers=["CPUExecutionProvider"])
    return lambda images: model.named(session.run(list(model.outputs), {INPUT: images.numpy()}))


def _open_timm(model: Portable, folder: Path) -> Runner:
    assert isinstance(model, PortableEncoder)
    network = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()

    def run(images: Tensor) -> dict[str, NDArray[np.float32]]:
        with torch.inference_mode():
            if model.classifier is not None or isinstance(model.encoder, ConvEncoder):
                return model.named((network(images).numpy(),))
            vit = cast(VisionTransformer, network)
            tokens = vit.forward_features(images)
            return model.named((tokens.numpy(), vit.forward_head(tokens).numpy()))

    return run

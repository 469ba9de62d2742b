"""Static int8 quantisation: activation ranges are calibrated on images, once, before the model is exported.

Only products with weights are quantised (linear layers and the patch embedding: nearly all of the arithmetic).
Attention products, softmax and norms stay in fp32: quantising them costs a transformer most of its accuracy.

Paper: Jacob et al. 2018 (integer-only inference from calibrated ranges); one scale for each output channel.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from vitlet.weights.files import ONNX, OPENVINO, OPENVINO_WEIGHTS
from vitlet.weights.form import Form
from vitlet.weights.formats import openvino_core, optional, quiet
from vitlet.weights.portable import INPUT

_BATCH = 16


def quantise(folder: Path, form: Form, calibration: NDArray[Any]) -> None:
    """Replace the fp32 graph in `folder` with a quantised one.

    Args:
        folder: A folder written by `write_graph`.
        form: `onnx` or `openvino`.
        calibration: Inputs of the exported model, disjoint from those that it is evaluated on.

    Raises:
        UsageError: if a package is not installed.
    """
    batches = [calibration[i : i + _BATCH] for i in range(0, len(calibration), _BATCH)]
    if form.target == "onnx":
        _by_onnxruntime(folder / ONNX, batches)
    else:
        _by_nncf(folder / OPENVINO, batches)


def _by_onnxruntime(path: Path, batches: Sequence[NDArray[Any]]) -> None:
    optional("onnxruntime")
    with quiet():
        from onnxruntime import quantization
        from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        """Returns the batches one by one, then None."""

        def __init__(self) -> None:
            self._left: Iterator[NDArray[Any]] = iter(batches)

        def get_next(self) -> dict[str, NDArray[Any]] | None:  # pyright: ignore[reportIncompatibleMethodOverride]
            batch = next(self._left, None)
            return None if batch is None else {INPUT: batch}

    with tempfile.TemporaryDirectory() as scratch, quiet():
        prepared = Path(scratch) / "prepared.onnx"
        quant_pre_process(path, prepared, skip_symbolic_shape=True)
        quantization.quantize_static(
            prepared,
            path,
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            op_types_to_quantize=["MatMul", "Gemm", "Conv"],
            nodes_to_exclude=_products_of_activations(prepared),
            per_channel=True,
            activation_type=quantization.QuantType.QUInt8,
            weight_type=quantization.QuantType.QInt8,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )


def _products_of_activations(path: Path) -> list[str]:
    """Return the names of products without weights: queries with keys, and attention with values."""
    graph = optional("onnx").load(path).graph
    constant = {tensor.name for tensor in graph.initializer}
    return [n.name for n in graph.node if n.op_type == "MatMul" and not constant & set(n.input)]


def _by_nncf(path: Path, batches: Sequence[NDArray[Any]]) -> None:
    openvino, nncf = optional("openvino"), optional("nncf")
    with tempfile.TemporaryDirectory() as scratch, quiet():
        small = nncf.quantize(
            openvino_core().read_model(path),
            nncf.Dataset(batches),
            subset_size=len(batches),
            preset=nncf.QuantizationPreset.MIXED,
            model_type=nncf.ModelType.TRANSFORMER,
        )
        # Not over the old files: the graph still maps its constants from them and would crash if they changed.
        openvino.save_model(small, Path(scratch) / OPENVINO, compress_to_fp16=False)
        for name in (OPENVINO, OPENVINO_WEIGHTS):
            shutil.copyfile(Path(scratch) / name, path.with_name(f"{name}.new"))
            os.replace(path.with_name(f"{name}.new"), path.with_name(name))

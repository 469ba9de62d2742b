"""Which products become 8 bits: those with weights. The whole way stands in tests/jobs/test_exporting.py."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from vitlet.weights.int8 import _products_of_activations


@pytest.mark.long
def test_only_products_of_two_activations_are_left_out(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.eye(4, dtype=np.float32), "weight")
    nodes = [
        helper.make_node("MatMul", ["x", "weight"], ["y"], name="linear"),
        helper.make_node("MatMul", ["y", "x"], ["z"], name="queries with keys"),
        helper.make_node("Add", ["z", "x"], ["out"], name="sum"),
    ]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [4, 4]) for name in ("x", "out")]
    graph = helper.make_graph(nodes, "graph", values[:1], values[1:], initializer=[weight])
    onnx.save(helper.make_model(graph), tmp_path / "model.onnx")
    assert _products_of_activations(tmp_path / "model.onnx") == ["queries with keys"]

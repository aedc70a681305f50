"""Operands that an operation does without."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from cgptc.backends.registry import backend
from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import f32
from cgptc.ir.graph import Graph
from cgptc.ir.ops.norm import LayerNorm
from cgptc.ir.types import TensorType


def test_a_norm_without_a_bias_names_no_empty_input_and_loads(tmp_path: Path) -> None:
    """onnxruntime crashes, not raises, on a LayerNormalization whose last input has an empty name."""
    graph = Graph()
    x = graph.add_input("x", TensorType(f32, (2, 4)))
    build = Builder(graph)
    graph.add_output("y", build(LayerNorm(), x, build.constant(np.ones(4, np.float32)), None))
    onnx_backend = backend("onnx")
    onnx_backend.emit(graph, tmp_path, onnx_backend.options())
    nodes = onnx.load(tmp_path / "model.onnx").graph.node
    assert [len(node.input) for node in nodes if node.op_type == "LayerNormalization"] == [2]
    y = onnx_backend.load(tmp_path, onnx_backend.options()).run({"x": np.arange(8, dtype=np.float32).reshape(2, 4)})["y"]
    assert y[0].tolist() == y[1].tolist()

"""Where a model would run: checked without a device, from a table and from what onnxruntime says of its placement."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from tests.backends.onnx.execution import ORT, model_of, session_of
from tests.backends.onnx.tiny_gpt import TinyGpt

from cgptc.backends.onnx.backend import BACKEND
from cgptc.backends.onnx.cuda_kernels import without_kernel
from cgptc.backends.onnx.lowering import lower
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.backends.onnx.session import OnnxSession, require_on_device
from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.dtypes import f32, u8
from cgptc.ir.graph import Graph
from cgptc.ir.ops.binary import Maximum
from cgptc.ir.ops.elementwise import Tan
from cgptc.ir.types import TensorType

CUDA = OnnxOptions(ep="cuda")


def graph_with_tan() -> Graph:
    graph = Graph("tan")
    graph.add_output("y", Builder(graph)(Tan(), graph.add_input("x", TensorType(f32, (3,)))))
    return graph


@pytest.mark.parametrize("model", [TinyGpt(), TinyGpt(rotary=True, window=3), TinyGpt(cached=False)], ids=str)
def test_a_gpt_compiled_for_cuda_has_a_kernel_for_every_node(model: TinyGpt) -> None:
    assert without_kernel(lower(model.graph(), CUDA).model) == ()


def test_a_gpt_compiled_for_the_cpu_holds_a_node_that_cuda_lacks() -> None:
    """GroupQueryAttention in f32: the reason why a compile says which provider it is for."""
    found = without_kernel(lower(TinyGpt().graph(), ORT).model)
    assert {(each.operator, each.dtype) for each in found} == {("GroupQueryAttention", f32)}
    assert len(found) == 2


def test_a_compile_for_cuda_lists_what_has_no_kernel(tmp_path: Path) -> None:
    facts = BACKEND.emit(graph_with_tan(), tmp_path, CUDA).facts
    (line,) = facts["nodes_without_cuda_kernel"]  # type: ignore[misc]
    assert "Tan of f32" in line
    assert "nodes_without_cuda_kernel" not in BACKEND.emit(graph_with_tan(), tmp_path, ORT).facts


def test_an_element_type_without_kernel_is_found() -> None:
    graph = Graph("bytes")
    x = graph.add_input("x", TensorType(u8, (3,)))
    graph.add_output("y", Builder(graph)(Maximum(), x, x))
    (found,) = without_kernel(lower(graph, CUDA).model)
    assert (found.operator, found.dtype) == ("Max", u8)


def test_a_computing_node_on_the_cpu_is_an_error_and_shapes_are_not() -> None:
    cuda, cpu = "CUDAExecutionProvider", "CPUExecutionProvider"
    require_on_device({cuda: Counter(MatMul=3), cpu: Counter(Shape=2, Add=1)}, cuda)
    with pytest.raises(UsageError, match="2 LayerNormalization"):
        require_on_device({cuda: Counter(MatMul=3), cpu: Counter(Shape=2, LayerNormalization=2)}, cuda)
    with pytest.raises(UsageError, match="does not say"):
        require_on_device({}, cuda)


def test_a_missing_provider_is_never_replaced(tmp_path: Path) -> None:
    BACKEND.emit(graph_with_tan(), tmp_path, ORT)
    with pytest.raises(UsageError, match="CUDAExecutionProvider"):
        OnnxSession.open(tmp_path / "model.onnx", provider="cuda")


def test_a_session_says_where_its_nodes_are(tmp_path: Path) -> None:
    BACKEND.emit(graph_with_tan(), tmp_path, ORT)
    session = OnnxSession.open(tmp_path / "model.onnx")
    assert session.placement() == {"CPUExecutionProvider": 1}
    assert session.placed_operators()["CPUExecutionProvider"]["Tan"] == 1
    assert session.notes() == ("placement: 1 nodes on CPUExecutionProvider",)
    assert np.isfinite(session.run({"x": np.zeros(3, np.float32)})["y"]).all()
    assert session_of(model_of(graph_with_tan(), ORT)).output_names == ("y",)

"""Lowering a graph and running it, on onnxruntime or on the ONNX reference evaluator, with everything in memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir
import onnxruntime
from onnx.reference import ReferenceEvaluator

from cgptc.backends.onnx.external_data import attach
from cgptc.backends.onnx.lowering import lower
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.backends.onnx.session import OnnxSession
from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import boolean, i4, i8
from cgptc.ir.graph import Graph, Value
from cgptc.ir.op import Array, Op
from cgptc.ir.ops.binary import Maximum, Or
from cgptc.ir.ops.elementwise import Cast
from cgptc.ir.types import TensorType

STANDARD = OnnxOptions(ops="standard")
ORT = OnnxOptions(ops="ort")


def model_of(graph: Graph, options: OnnxOptions) -> onnx.ModelProto:
    """The graph's model with all weights inside, checked by onnx."""
    lowered = lower(graph, options)
    assert not lowered.refusals, lowered.refusals
    attach(lowered.initializers.weights.items(), {}, "", graph.store)
    model = onnx_ir.to_proto(lowered.model)
    onnx.checker.check_model(model, full_check=options.ops == "standard")
    return model


def session_of(model: onnx.ModelProto) -> OnnxSession:
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    return OnnxSession(onnxruntime.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"]))


def run(session: OnnxSession, inputs: Mapping[str, Array]) -> list[Array]:
    return list(session.run(inputs).values())


def run_reference(model: onnx.ModelProto, inputs: Mapping[str, Array]) -> list[Array]:
    outputs: list[Array] = ReferenceEvaluator(model).run(None, dict(inputs))
    return outputs


def graph_of(op: Op, types: Sequence[TensorType | None], inside: bool = False) -> Graph:
    """A graph of one node whose operands are inputs ``x0``, ``x1``, … and whose results are outputs ``y0``, …

    4-bit integers come and go as i8: onnxruntime's Python has no such arrays. With ``inside`` every operand and result passes another node,
    which changes nothing: onnxruntime rewrites what stands between nodes in more ways.
    """
    graph = Graph("one_node")
    build = Builder(graph)

    def passed(value: Value) -> Value:
        return build(Or() if value.type.dtype is boolean else Maximum(), value, value) if inside else value

    operands: list[Value | None] = []
    for i, type_ in enumerate(types):
        if type_ is None:
            operands.append(None)
        elif type_.dtype == i4:
            operands.append(build(Cast(i4), passed(graph.add_input(f"x{i}", type_.with_dtype(i8)))))
        else:
            operands.append(passed(graph.add_input(f"x{i}", type_)))
    for i, value in enumerate(build.all(op, *operands)):
        graph.add_output(f"y{i}", passed(build(Cast(i8), value) if value.type.dtype == i4 else value))
    return graph


def without_four_bits(array: Array) -> Array:
    """The array as it enters and leaves a graph of `graph_of`."""
    return array.astype(np.int8) if array.dtype == i4.numpy else array

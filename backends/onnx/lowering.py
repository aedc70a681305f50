"""The lowering table, and the walk that applies it.

A lowering is a function ``(emit, op, *operands) -> value or values`` registered for an operation's class with `lowers`. Legality is the
table's keys. Mode "ort" has everything that mode "standard" has, and may replace it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np
import onnx_ir

from cgptc.backends.onnx.cached_length import padding_mask, up_to_last_token
from cgptc.backends.onnx.element_types import TO_ONNX
from cgptc.backends.onnx.emit import CONTRIB, Emit, OnnxValue
from cgptc.backends.onnx.initializers import Initializers
from cgptc.backends.onnx.interface_names import CACHED_FORMS, IDS, LOGITS_TO_KEEP
from cgptc.backends.onnx.kept_logits import ALL, with_kept_logits
from cgptc.backends.onnx.kernels import UnlowerableError
from cgptc.backends.onnx.naming import Namer
from cgptc.backends.onnx.options import IR_VERSIONS, MODES, OnnxOptions
from cgptc.backends.onnx.shapes import onnx_shape
from cgptc.backends.registry import Refusal
from cgptc.ir.dims import Shape
from cgptc.ir.dtypes import i4
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.loc import UNKNOWN
from cgptc.ir.op import Op
from cgptc.ir.ops.constant import Constant
from cgptc.version import __version__

Lowering: TypeAlias = Callable[..., OnnxValue | tuple[OnnxValue, ...]]
LoweringT = TypeVar("LoweringT", bound=Callable[..., Any])

_TABLES: dict[str, dict[type[Op], Lowering]] = {mode: {} for mode in MODES}


def lowers(*ops: type[Op], mode: str = "standard") -> Callable[[LoweringT], LoweringT]:
    """Register a lowering for operations; TypeError where one has a lowering in that mode already."""

    def register(function: LoweringT) -> LoweringT:
        for op in ops:
            if op in _TABLES[mode]:
                raise TypeError(f"'{op.name}' already has a lowering in mode '{mode}'")
            _TABLES[mode][op] = function
        return function

    return register


def legal_ops(mode: str) -> frozenset[type[Op]]:
    """The operations that mode lowers; all others must be decomposed first."""
    _fill_tables()
    return frozenset(_TABLES["standard"]) | frozenset(_TABLES[mode])


def lowering_of(op: type[Op], mode: str) -> Lowering | None:
    """The lowering that mode uses for an operation, None where there is none."""
    _fill_tables()
    return _TABLES[mode].get(op) or _TABLES["standard"].get(op)


def _fill_tables() -> None:
    import cgptc.backends.onnx.lowerings.all  # noqa: F401  (registers by being imported)


@dataclass(frozen=True)
class Lowered:
    """An ONNX model whose weights are not read yet, and the nodes that could not be lowered (then the model lacks them)."""

    model: onnx_ir.Model
    initializers: Initializers
    refusals: tuple[Refusal, ...]


def lower(graph: Graph, options: OnnxOptions) -> Lowered:
    """Lower every node, the last ones for the tokens only whose logits are asked for. Reads no weight bytes.

    A node whose operand could not be lowered is left out in silence: its cause is reported.
    """
    whole, sliced = graph, with_kept_logits(graph)
    if sliced is not None:
        graph = sliced[0]
    namer = Namer({LOGITS_TO_KEEP} | {value.name for value in graph.inputs} | {name for name, _ in graph.outputs})
    initializers = Initializers(namer, frozenset(node.op.weight.key for node in graph.nodes if isinstance(node.op, Constant)))
    emit = Emit(graph, options, initializers, namer)
    values: dict[Value, OnnxValue] = {}
    for value in graph.inputs:
        element_type = onnx_ir.TensorType(TO_ONNX[value.type.dtype])
        values[value] = onnx_ir.Value(name=value.name, type=element_type, shape=onnx_shape(value.type.shape))
        emit.declare(values[value], value.type)
    inputs = [values[value] for value in graph.inputs]
    if (mask := padding_mask(graph)) is not None:
        values[mask] = up_to_last_token(emit, values[mask])
        emit.declare(values[mask], mask.type)
    emit.shapes.set_inputs([(value, values[value]) for value in graph.inputs])
    if sliced is not None:
        inputs.append(emit.initializers.default_input(LOGITS_TO_KEEP, np.array([ALL], np.int64)))
        (length,) = (value.type.shape[1] for value in graph.inputs if value.name == IDS)
        emit.shapes.give(sliced[1], emit.Min(inputs[-1], emit.shapes.size(length)))

    refusals = [
        Refusal(UNKNOWN, f"{kind} '{name}' : {value.type}", "onnxruntime takes and gives no 4-bit tensors")
        for kind, values_of_kind in (("input", [(value.name, value) for value in graph.inputs]), ("output", graph.outputs))
        for name, value in values_of_kind
        if value.type.dtype == i4
    ]
    for node in graph.nodes:
        if any(operand not in values for operand in node.inputs):
            continue
        emit.at(node)
        try:
            results = _lower_node(emit, node, [values[operand] if operand is not None else None for operand in node.operands])
        except UnlowerableError as error:
            refusals.append(Refusal(node.location, repr(node), str(error)))
            continue
        for value, result in zip(node.results, results, strict=True):
            values[value] = result
            emit.declare(result, value.type)
    emit.at(None)
    declared = [value.type.shape for _, value in whole.outputs]
    outputs = _outputs(
        emit, [(name, shape, values[value]) for (name, value), shape in zip(graph.outputs, declared, strict=True) if value in values]
    )
    return Lowered(_model(emit, inputs, outputs), initializers, tuple(refusals))


def _lower_node(emit: Emit, node: Node, operands: list[OnnxValue | None]) -> tuple[OnnxValue, ...]:
    lowering = lowering_of(type(node.op), emit.options.ops)
    if lowering is None:
        raise UnlowerableError(f"'{node.op.name}' has no lowering")
    if not any(parameter.variadic for parameter in node.op.parameters):
        operands = operands + [None] * (len(node.op.parameters) - len(operands))
    lowered = lowering(emit, node.op, *operands)
    return lowered if isinstance(lowered, tuple) else (lowered,)


def _outputs(emit: Emit, outputs: list[tuple[str, Shape, OnnxValue]]) -> list[OnnxValue]:
    """Give outputs their names and the shapes that they have by default, which runtimes compute from the sizes of inputs by name.

    What is an input, an initializer or an output already is passed through a node of its own.
    """
    named: list[OnnxValue] = []
    for name, shape, value in outputs:
        if value.producer() is None or value in named:
            copy = emit.Identity(value)
            emit.declare(copy, emit.type_of(value))
            value = copy
        value.name, value.shape = name, onnx_shape(shape)
        named.append(value)
    return named


def _live(nodes: list[onnx_ir.Node], outputs: list[OnnxValue]) -> list[onnx_ir.Node]:
    """The nodes that outputs depend on, in order."""
    needed = set(outputs)
    kept: list[onnx_ir.Node] = []
    for node in reversed(nodes):
        if any(output in needed for output in node.outputs):
            needed.update(value for value in node.inputs if value is not None)
            kept.append(node)
    return kept[::-1]


def _model(emit: Emit, inputs: list[OnnxValue], outputs: list[OnnxValue]) -> onnx_ir.Model:
    nodes = _live(emit.nodes, outputs)
    used = {value for node in nodes for value in node.inputs}
    emit.initializers.keep(used)
    opsets = {"": emit.options.opset}
    if any(node.domain == CONTRIB for node in nodes):
        opsets[CONTRIB] = 1
    graph = onnx_ir.Graph(inputs, outputs, nodes=nodes, initializers=emit.initializers.values, opset_imports=opsets, name=emit.graph.name)
    facts = {CACHED_FORMS: ",".join(sorted(emit.cached_forms))} if emit.cached_forms else {}
    return onnx_ir.Model(
        graph,
        ir_version=IR_VERSIONS[emit.options.opset],
        producer_name="cgptc",
        producer_version=__version__,
        metadata_props=facts,
    )

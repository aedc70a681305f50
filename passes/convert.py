"""Another floating-point type for the whole model."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import CompileError, UsageError
from cgptc.ir.dtypes import DTYPES, DType, bf16, f16, f32
from cgptc.ir.graph import Graph, Node, Use
from cgptc.ir.ops.binary import Binary
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Cast, Cos, Sin, Unary
from cgptc.ir.ops.matmul import MatMul
from cgptc.ir.ops.quantized import QuantizedLinear
from cgptc.ir.ops.shape import Concat, Expand, Reshape, Slice, Transpose
from cgptc.ir.weight_expressions import Converted, Reshaped, Transposed, converted
from cgptc.ir.weight_ranges import limits_moved, overflow
from cgptc.ir.weights import Weight
from cgptc.passes.manager import Pass, PassContext

CONVERTED = (f32, f16, bf16)
SCALES = 2
"""The operand of a quantised layer that holds the scales of its weight."""

ANGLES = (Cast, Constant, Unary, Binary, Concat, Expand, Reshape, Slice, Transpose, MatMul)
"""What computes angles from positions."""


@dataclass(frozen=True)
class Convert(Pass, name="convert", optional=False, lossy=True):
    """Compute in ``dtype`` (f32, f16, bf16): weights, inputs and outputs. Sums and statistics stay in at least f32, as every operation
    promises; so do the angles of rotary embeddings, up to their sine and cosine. A constant at the end of its type's range, which masks
    mean as the lowest number there is, becomes that of ``dtype``. Raises `CompileError` naming a weight that does not fit.
    """

    dtype: str = "f16"

    def __post_init__(self) -> None:
        names = [dtype.name for dtype in CONVERTED]
        if self.dtype not in names:
            raise UsageError("bad-option", f"'dtype' of 'convert' is '{self.dtype}'", fix=f"choose one of {', '.join(names)}")

    def run(self, graph: Graph, context: PassContext) -> bool:
        to = DTYPES[self.dtype]
        changed = False
        for value in graph.inputs:
            if self._is_other(value.type.dtype):
                graph.set_input_type(value, value.type.with_dtype(to))
                changed = True
        angles = _angle_nodes(graph)
        for node in list(graph.nodes):
            context.count("nodes visited")
            if node in angles:
                changed |= self._convert_angles(graph, node, angles)
                continue
            changed |= self._convert(graph, node)
            if changed:
                graph.reinfer(node)
        return changed

    def _is_other(self, dtype: DType) -> bool:
        return dtype in CONVERTED and dtype.name != self.dtype

    def _convert(self, graph: Graph, node: Node) -> bool:
        to = DTYPES[self.dtype]
        op = node.op
        if isinstance(op, Constant):
            if not self._is_other(op.weight.dtype) or _is_scales(node):
                return False
            weight = limits_moved(op.weight, to)
            if fault := overflow(weight, to, graph.store):
                raise CompileError(
                    "overflow", fault, details=[f"  --> {node.location}", f"      {node!r}"], fix="choose --dtype bf16 or f32"
                )
            graph.set_op(node, Constant(_in_type(weight, to)))
            return True
        if isinstance(op, QuantizedLinear):
            _widen_scales(graph, node)
        fields = {field.name: getattr(op, field.name) for field in dataclasses.fields(op)}
        other = {name: to for name, value in fields.items() if isinstance(value, DType) and self._is_other(value)}
        if other:
            graph.set_op(node, dataclasses.replace(op, **other))
        return bool(other)

    def _convert_angles(self, graph: Graph, node: Node, angles: set[Node]) -> bool:
        """Leave the node in its type, and convert what goes out of it."""
        to = DTYPES[self.dtype]
        value = node.result

        def leaves_angles(use: Use) -> bool:
            return use.user is None or use.user not in angles

        if not self._is_other(value.type.dtype) or not any(map(leaves_angles, value.uses)):
            return False
        narrow = Builder(graph, before=node._next, location=node.location, stage=node.stage).node(Cast(to), value)
        angles.add(narrow)
        graph.replace_uses(value, narrow.result, leaves_angles)
        return True


def _angle_nodes(graph: Graph) -> set[Node]:
    """Sines and cosines, and what computes their angles from integers and constants alone."""
    made: set[Node] = set()
    for node in graph.nodes:
        if isinstance(node.op, ANGLES) and all(value.producer in made or not value.type.dtype.is_float for value in node.inputs):
            made.add(node)
    found: set[Node] = set()
    for node in graph.reversed_nodes:
        ends = isinstance(node.op, Sin | Cos) or any(user in found for value in node.results for user in value.users)
        if node in made and ends and node.result.type.dtype.is_float:
            found.add(node)
    return found


def _is_scales(node: Node) -> bool:
    """Whether a constant is the scales of quantised weights and nothing else: these stay in f32."""
    uses = list(node.result.uses)
    return bool(uses) and all(use.user is not None and isinstance(use.user.op, QuantizedLinear) and use.index == SCALES for use in uses)


def _widen_scales(graph: Graph, node: Node) -> None:
    """Scales that something else computes, or reads too, became narrow with it; the layer takes them in f32."""
    scales = node.inputs[SCALES]
    if scales.type.dtype in (f16, bf16):
        wide = Builder(graph, before=node, location=node.location, stage=node.stage)(Cast(f32), scales)
        graph.set_operand(node, SCALES, wide)


def _in_type(weight: Weight, to: DType) -> Weight:
    """The weight in another type, rounded once where it is a wider number that was converted. What only turns a weight stays outside, so
    that tied weights stay tied.
    """
    if isinstance(weight, Transposed | Reshaped):
        return dataclasses.replace(weight, base=_in_type(weight.base, to))
    if isinstance(weight, Converted) and weight.base.dtype.is_float and weight.base.dtype.bits > weight.to.bits:
        return converted(weight.base, to)
    return converted(weight, to)

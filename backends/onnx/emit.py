"""Building ONNX nodes: what lowering functions call.

``emit.Mul(a, b)`` appends a standard node and gives its value; attributes are keywords: ``emit.Softmax(x, axis=-1)``.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
import onnx_ir

from cgptc.backends.onnx.element_types import FROM_ONNX, TO_ONNX
from cgptc.backends.onnx.initializers import Initializers
from cgptc.backends.onnx.kernels import computed_in
from cgptc.backends.onnx.naming import Namer, metadata
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.backends.onnx.shapes import ShapeComputer, onnx_shape
from cgptc.ir.dims import Shape
from cgptc.ir.dtypes import DType, boolean, i64
from cgptc.ir.graph import Graph, Node
from cgptc.ir.op import Array
from cgptc.ir.types import TensorType

OnnxValue: TypeAlias = onnx_ir.Value

CONTRIB = "com.microsoft"
"""The domain of onnxruntime's own operators."""

_BOOLEAN_RESULTS = frozenset({"Equal", "Less", "LessOrEqual", "Greater", "GreaterOrEqual", "IsNaN", "IsInf"})
_INDEX_RESULTS = frozenset({"Shape", "Size", "ArgMax", "ArgMin"})


class Emit:
    """Appends nodes to an ONNX graph on behalf of one IR node at a time.

    ``at`` sets that node: names and metadata of what is emitted come from its location.
    """

    def __init__(self, graph: Graph, options: OnnxOptions, initializers: Initializers, namer: Namer) -> None:
        self.graph = graph
        self.options = options
        self.initializers = initializers
        self.namer = namer
        self.nodes: list[onnx_ir.Node] = []
        self.shapes = ShapeComputer(self)
        self.cached_forms: set[str] = set()
        """The operators that attend over a past: they decide how the model may be called."""
        self._at: Node | None = None
        self._types: dict[OnnxValue, TensorType] = {}
        self._casts: dict[tuple[OnnxValue, DType], OnnxValue] = {}
        self._shared: dict[Hashable, tuple[OnnxValue, ...]] = {}

    def at(self, node: Node | None) -> None:
        """Emit for this IR node from now on; None for the model as a whole."""
        self._at = node

    def once(self, key: Hashable, build: Callable[[], OnnxValue]) -> OnnxValue:
        """What ``build`` gives, emitted the first time this key is asked for. It belongs to the model, not to the node at hand."""
        return self.once_all(key, lambda: (build(),))[0]

    def once_all(self, key: Hashable, build: Callable[[], tuple[OnnxValue, ...]]) -> tuple[OnnxValue, ...]:
        """The same for several values."""
        if key not in self._shared:
            node, self._at = self._at, None
            try:
                self._shared[key] = build()
            finally:
                self._at = node
        return self._shared[key]

    @property
    def source(self) -> Node:
        """The IR node that is being lowered."""
        assert self._at is not None
        return self._at

    # Types

    def declare(self, value: OnnxValue, type_: TensorType) -> None:
        """State that a value stands for an IR value of this type. A value may stand for several, such as a reshape that does nothing."""
        if self.dtype_of(value) != type_.dtype:
            raise AssertionError(f"'{value.name}' was emitted as {self.dtype_of(value)}, but is {type_}")
        self._types.setdefault(value, type_)
        if value.shape is None:
            value.shape = onnx_shape(type_.shape)

    def type_of(self, value: OnnxValue) -> TensorType:
        """The IR type of an operand; KeyError for a value that stands for none."""
        return self._types[value]

    def type_of_result(self) -> TensorType:
        """The type of the only result of the IR node that is being lowered."""
        return self.source.result.type

    def dtype_of(self, value: OnnxValue) -> DType:
        """The element type of any emitted value."""
        return FROM_ONNX[value.dtype]

    def source_of(self, value: OnnxValue, op_type: str) -> OnnxValue | None:
        """The first operand of the node that gives ``value``, where that is an ``op_type`` and the operand stands for an IR value."""
        node = value.producer()
        if node is None or node.op_type != op_type or node.inputs[0] not in self._types:
            return None
        return node.inputs[0]

    def transposed_initializer(self, value: OnnxValue) -> OnnxValue | None:
        """The matrix that ``value`` is the transpose of, where that is an initializer."""
        node = value.producer()
        if node is None or node.op_type != "Transpose" or node.inputs[0] not in self.initializers.weights:
            return None
        return node.inputs[0] if list(node.attributes["perm"].as_ints()) == [1, 0] else None

    # Constants

    def constant(self, array: Array) -> OnnxValue:
        """A small constant; equal ones are stored once."""
        return self.initializers.small(np.asarray(array))

    def scalar(self, number: float | int | bool, like: OnnxValue | DType) -> OnnxValue:
        """A rank-0 constant with the element type of ``like``."""
        dtype = like if isinstance(like, DType) else self.dtype_of(like)
        return self.constant(np.asarray(number, dtype.numpy))

    def ints(self, numbers: Sequence[int]) -> OnnxValue:
        """A vector of i64."""
        return self.constant(np.asarray(numbers, np.int64).reshape(len(numbers)))

    def shape(self, dims: Shape) -> OnnxValue:
        """A vector of i64 that holds these dimensions, computed from the model's inputs where they are symbolic."""
        return self.shapes.vector(dims)

    # Nodes

    def __getattr__(self, op_type: str) -> Callable[..., OnnxValue]:
        if not op_type[:1].isupper():
            raise AttributeError(op_type)

        def one(*inputs: OnnxValue | None, **attributes: Any) -> OnnxValue:
            return self.node(op_type, inputs, attributes)[0]

        return one

    def contrib(self, op_type: str, *inputs: OnnxValue | None, **attributes: Any) -> OnnxValue:
        """One of onnxruntime's own operators, with one result."""
        return self.node(op_type, inputs, attributes, domain=CONTRIB)[0]

    def contrib_all(self, op_type: str, inputs: Sequence[OnnxValue | None], result_count: int, **attributes: Any) -> tuple[OnnxValue, ...]:
        """One of onnxruntime's own operators, with several results of the first input's element type."""
        return self.node(op_type, inputs, attributes, domain=CONTRIB, result_count=result_count)

    def cast(self, value: OnnxValue, dtype: DType) -> OnnxValue:
        """``value`` with that element type: itself where it has it already; one node however often it is asked for."""
        if self.dtype_of(value) == dtype:
            return value
        key = (value, dtype)
        if key not in self._casts:
            self._casts[key] = self.node("Cast", (value,), {"to": TO_ONNX[dtype].value}, dtypes=(dtype,))[0]
        return self._casts[key]

    def node(
        self,
        op_type: str,
        inputs: Sequence[OnnxValue | None],
        attributes: Mapping[str, Any] | None = None,
        *,
        domain: str = "",
        dtypes: Sequence[DType] | None = None,
        result_count: int = 1,
    ) -> tuple[OnnxValue, ...]:
        """Append a node and give its results.

        ``dtypes`` are the results' element types; by default all have that of the first input, or what the operator always gives.
        An element type that the provider lacks a kernel for is computed in a wider one where that is exact or rounds once per node
        (bf16 in f32); else `UnlowerableError` is raised.
        """
        given = [value for value in inputs if value is not None]
        if dtypes is None:
            dtypes = [self._result_dtype(op_type, inputs)] * result_count
        wide = computed_in(op_type, [self.dtype_of(value) for value in given], self.options.ep)
        narrow = {old: new for old, new in wide.items() if old != new}
        if narrow:
            inputs = [self.cast(v, narrow.get(self.dtype_of(v), self.dtype_of(v))) if v is not None else None for v in inputs]
        while inputs and inputs[-1] is None:  # an empty name at the end is valid, and onnxruntime 1.31 crashes on it in LayerNormalization
            inputs = inputs[:-1]
        name, properties = self._identity(op_type)
        node = onnx_ir.Node(
            domain,
            op_type,
            inputs,
            attributes=[_attribute(key, value) for key, value in (attributes or {}).items() if value is not None],
            num_outputs=len(dtypes),
            name=name,
            metadata_props=properties,
        )
        self.nodes.append(node)
        results = []
        for index, (output, dtype) in enumerate(zip(node.outputs, dtypes, strict=True)):
            output.name = self.namer.unique(name if len(dtypes) == 1 else f"{name}.{index}")
            output.type = onnx_ir.TensorType(TO_ONNX[narrow.get(dtype, dtype)])
            results.append(self.cast(output, dtype))
        return tuple(results)

    def _identity(self, op_type: str) -> tuple[str, dict[str, str]]:
        if self._at is None:
            return self.namer.unique(f"/shared/{op_type}"), {}
        return self.namer.node(self._at.location, op_type), metadata(self._at.location, self._at.op.name)

    def _result_dtype(self, op_type: str, inputs: Sequence[OnnxValue | None]) -> DType:
        if op_type in _BOOLEAN_RESULTS:
            return boolean
        if op_type in _INDEX_RESULTS:
            return i64
        first = inputs[1] if op_type == "Where" else inputs[0]
        assert first is not None
        return self.dtype_of(first)


def _attribute(name: str, value: Any) -> onnx_ir.Attr:
    if isinstance(value, str):
        return onnx_ir.AttrString(name, value)
    if isinstance(value, float):
        return onnx_ir.AttrFloat32(name, value)
    if isinstance(value, (bool, int)):
        return onnx_ir.AttrInt64(name, int(value))
    if isinstance(value, onnx_ir.Tensor):
        return onnx_ir.AttrTensor(name, value)
    return onnx_ir.AttrInt64s(name, [int(item) for item in value])

"""What importer functions emit with: a builder that knows PyTorch's promotion, axes and broadcasting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cgptc.frontend.aten.exported import Unknown
from cgptc.frontend.aten.promotion import number_type, result_type
from cgptc.frontend.aten.table import Number, Operand, UnsupportedError
from cgptc.ir.builder import Builder
from cgptc.ir.dims import Dim, Expr, Shape, bounds, evaluate, floordiv, maximum, minimum, product, symbols
from cgptc.ir.dtypes import DType, f32
from cgptc.ir.graph import Value
from cgptc.ir.op import Array, Op
from cgptc.ir.ops.binary import Add
from cgptc.ir.ops.constant import Constant, DimSize, Iota
from cgptc.ir.ops.elementwise import Cast
from cgptc.ir.ops.shape import Expand, Reshape, Slice, Transpose
from cgptc.ir.weight_expressions import transposed
from cgptc.ir.whole_numbers import whole_number

UNBOUNDED = 2**62
"""Slice ends beyond it mean 'to the end'."""


class DomainError(Exception):
    """The model is defined only where ``size`` is at most ``limit``: a table of that many rows is indexed up to it."""

    def __init__(self, size: Dim, limit: int) -> None:
        super().__init__(f"{size} is at most {limit}")
        self.size = size
        self.limit = limit

    def fits(self, name: str, value: int) -> bool:
        """Whether the size is within the limit when its one symbol has that value."""
        return evaluate(self.size, {name: value}) <= self.limit


@dataclass
class Emit:
    """``emit(op, *values)`` inserts a node at the end of the graph, with the location of the exported node being imported."""

    build: Builder
    default_float: DType = f32

    def __call__(self, op: Op, *operands: Value | None) -> Value:
        return self.build(op, *operands)

    def all(self, op: Op, *operands: Value | None) -> tuple[Value, ...]:
        """Insert an op and give all its results."""
        return self.build.all(op, *operands)

    # Numbers and dtypes

    def number(self, number: Number, dtype: DType) -> Value:
        """A scalar of rank 0; a symbolic size is read from the dimension."""
        if isinstance(number, Expr):
            size = self(DimSize(number))
            return self.cast(size, dtype)
        return self.build.constant(number, dtype)

    def array(self, array: Array) -> Value:
        """A small constant of the array's own type."""
        return self.build.constant(array)

    def dtype(self, dtype: DType | Unknown | None, default: DType) -> DType:
        """A dtype argument, ``default`` where absent."""
        if isinstance(dtype, Unknown):
            raise UnsupportedError(f"uses {dtype.text}, which the IR lacks")
        return default if dtype is None else dtype

    def cast(self, value: Value, dtype: DType) -> Value:
        """The value in that type; itself where it has it."""
        return value if value.type.dtype == dtype else self(Cast(dtype), value)

    def operand(self, operand: Operand, dtype: DType | None = None) -> Value:
        """A tensor or number as a value of ``dtype``, or of its own type."""
        if isinstance(operand, Value):
            return operand if dtype is None else self.cast(operand, dtype)
        return self.number(operand, dtype or number_type(operand, self.default_float))

    def promoted(self, *operands: Operand, floating: bool = False) -> tuple[Value, ...]:
        """Operands cast to their common type, which is a float if ``floating``."""
        dtype = self.promotion(*operands, floating=floating)
        return tuple(self.operand(operand, dtype) for operand in operands)

    def promotion(self, *operands: Operand, floating: bool = False) -> DType:
        """The common type of operands."""
        dtype = result_type(operands, self.default_float)
        return self.default_float if floating and not dtype.is_float else dtype

    def floating(self, value: Value) -> Value:
        """The value, integers and bools as the default float."""
        return value if value.type.dtype.is_float else self.cast(value, self.default_float)

    # Shapes

    def axis(self, axis: int, rank: int) -> int:
        """A possibly negative axis counted from the front; rank 0 takes 0 and -1, as torch does."""
        limit = max(rank, 1)
        if not -limit <= axis < limit:
            raise UnsupportedError(f"names axis {axis} of a tensor of rank {rank}")
        return axis % limit

    def axes(self, axes: Sequence[int] | int | None, rank: int) -> tuple[int, ...]:
        """Sorted axes; None and () mean all."""
        if axes is None or axes == () or axes == []:
            return tuple(range(rank))
        if isinstance(axes, int):
            axes = (axes,)
        return tuple(sorted({self.axis(axis, rank) for axis in axes})) if rank else ()

    def reshape(self, value: Value, shape: Sequence[Dim]) -> Value:
        """A reshape, with -1 resolved; itself where the shape is the same."""
        shape = resolve_shape(value.type.shape, shape)
        return value if value.type.shape == shape else self(Reshape(shape), value)

    def transpose(self, value: Value, permutation: Sequence[int]) -> Value:
        """A transpose; itself for the identity, and another expression for a weight."""
        permutation = tuple(permutation)
        if isinstance(value.op, Constant) and permutation != tuple(range(value.type.rank)):
            turned = self.build.weight(transposed(value.op.weight, permutation))
            turned.name = value.name
            return turned
        return value if permutation == tuple(range(value.type.rank)) else self(Transpose(permutation), value)

    def expand(self, value: Value, shape: Sequence[Dim]) -> Value:
        """A broadcast; itself where the shape is the same."""
        shape = tuple(shape)
        return value if value.type.shape == shape else self(Expand(shape), value)

    def unsqueeze(self, value: Value, axis: int) -> Value:
        """A new axis of size 1 at ``axis``, which is not negative."""
        shape = value.type.shape
        return self.reshape(value, (*shape[:axis], 1, *shape[axis:]))

    def squeeze(self, value: Value, axis: int) -> Value:
        """Without axis ``axis``, which has size 1 and is not negative."""
        shape = value.type.shape
        return self.reshape(value, (*shape[:axis], *shape[axis + 1 :]))

    def slice(self, value: Value, axis: int, start: Dim, stop: Dim, step: int = 1) -> Value:
        """A slice with bounds within the axis; itself where it takes everything."""
        if start == 0 and stop == value.type.shape[axis] and step == 1:
            return value
        return self(Slice(axis, start, stop, step), value)

    def size(self, values: Sequence[Dim | Value]) -> Shape:
        """A shape argument; sizes computed from data are not supported."""
        if any(isinstance(value, Value) for value in values):
            raise UnsupportedError("has a size that depends on data")
        return tuple(value for value in values if not isinstance(value, Value))


def resolve_shape(old: Shape, new: Sequence[Dim]) -> Shape:
    """``new`` with a -1 replaced by what is left of ``old``.

    Dimensions that occur in both cancel before the division, so that sums such as ``seq + 1`` divide exactly.
    """
    shape = tuple(new)
    if -1 not in shape:
        return shape
    hole = shape.index(-1)
    numerator = list(old)
    denominator: list[Dim] = []
    for dim in shape[:hole] + shape[hole + 1 :]:
        if dim in numerator:
            numerator.remove(dim)
        else:
            denominator.append(dim)
    return (*shape[:hole], floordiv(product(numerator), product(denominator)), *shape[hole + 1 :])


def clamp_index(index: Dim, size: Dim) -> Dim:
    """A slice bound as Python reads it: negative ones count from the end, and all are kept within ``0..size``.

    Raises `DomainError` where a fixed size is indexed up to a symbolic bound that may exceed it.
    """
    if isinstance(index, int) and index >= UNBOUNDED:
        return size
    low, high = bounds(index)
    if high < 0:
        index = index + size
    elif low < 0:
        raise UnsupportedError(f"has a bound '{index}' that may have either sign")
    if isinstance(size, int) and isinstance(index, Expr) and bounds(index)[1] > size >= bounds(index)[0]:
        raise DomainError(index, size)
    return maximum(0, minimum(index, size))


def require_rows(indices: Value, rows: Dim) -> None:
    """Raise `DomainError` where an arange over a symbolic size, as positions are, may run past a table of so many rows."""
    start, value = 0, indices
    while (node := value.producer) is not None:
        match node.op:
            case Iota(size):
                end = size + start
                if isinstance(rows, int) and isinstance(end, Expr) and len(symbols([end])) == 1 and bounds(end)[1] > rows:
                    raise DomainError(end, rows)
                return
            case Cast() | Reshape() | Expand():
                value = node.inputs[0]
            case Add():
                left, right = node.inputs
                more = whole_number(right)
                if more is None:
                    return
                start, value = start + more, left
            case _:
                return

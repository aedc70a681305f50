"""Broadcasting as numpy does it, over symbolic shapes."""

from __future__ import annotations

from collections.abc import Sequence

from cgptc.ir.diagnostics import OpTypeError
from cgptc.ir.dims import Dim, Shape
from cgptc.ir.op import Axis, Role
from cgptc.ir.ops.operands import show
from cgptc.ir.types import TensorType


def broadcast_dims(left: Dim, right: Dim) -> Dim | None:
    """The dimension that two broadcast to; None where they do not. Equality is structural."""
    if left == right or right == 1:
        return left
    return right if left == 1 else None


def broadcast_shapes(left: Shape, right: Shape, names: tuple[str, str] = ("x", "y")) -> Shape:
    """The shape that two broadcast to. Raises `OpTypeError` naming both dimensions where they do not."""
    rank = max(len(left), len(right))
    padded_left, padded_right = (1,) * (rank - len(left)) + left, (1,) * (rank - len(right)) + right
    dims: list[Dim] = []
    for a, b in zip(padded_left, padded_right, strict=True):
        dim = broadcast_dims(a, b)
        if dim is None:
            shapes = f"'{names[0]}' {show(left)} and '{names[1]}' {show(right)}"
            raise OpTypeError(f"{shapes} must broadcast, but axis {len(dims) - rank} is {a} in one and {b} in the other")
        dims.append(dim)
    return tuple(dims)


def lined_up(axis: int, type: TensorType | None, shape: Shape) -> int | None:
    """The axis of ``type`` that lies along ``axis`` of the broadcast ``shape``; None where it lacks it or is stretched."""
    if type is None:
        return None
    position = axis - (len(shape) - type.rank)
    return position if position >= 0 and type.shape[position] == shape[axis] else None


def parallel_axes(types: Sequence[TensorType | None], shape: Shape) -> tuple[Axis, ...]:
    """Every axis of a broadcast result, parallel."""
    return tuple(Axis(Role.PARALLEL, tuple(lined_up(axis, operand, shape) for operand in types), (axis,)) for axis in range(len(shape)))

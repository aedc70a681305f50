"""Functions of two tensors, element by element, broadcast as numpy does. f16 and bf16 are computed in f32 and rounded once."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cgptc.ir.dtypes import boolean
from cgptc.ir.op import Array, Axis, Cost, Op, moved_bytes
from cgptc.ir.ops.broadcast import broadcast_shapes, parallel_axes
from cgptc.ir.ops.operands import ANY, BITS, BOOL, FLOAT, NUMBER, require_dtype, require_kind
from cgptc.ir.ops.precision import rounded, widened
from cgptc.ir.types import TensorType


@dataclass(frozen=True)
class Binary(Op):
    """Base of the functions of two tensors of one element type: ``compute`` is the function, in a type that holds its precision."""

    accepts: ClassVar[frozenset[str]] = NUMBER

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        require_kind("x", x, self.accepts)
        require_dtype("y", y, x.dtype)
        return TensorType(x.dtype, broadcast_shapes(x.shape, y.shape))

    @np.errstate(all="ignore")
    def evaluate(self, x: Array, y: Array) -> Array:
        return rounded(self.compute(widened(x), widened(y)), x)

    @abstractmethod
    def compute(self, x: Array, y: Array) -> Array:
        """The function of two arrays of f32, f64, an integer type or bool, without regard to numpy's warnings."""

    def cost(self, x: TensorType, y: TensorType) -> Cost:
        result = self.infer(x, y)
        return Cost(result.size, moved_bytes(x, y, result))

    def axis_roles(self, x: TensorType, y: TensorType) -> tuple[Axis, ...]:
        return parallel_axes([x, y], self.infer(x, y).shape)


@dataclass(frozen=True)
class Add(Binary, name="add", commutative=True):
    """``x + y``; integers wrap."""

    def compute(self, x: Array, y: Array) -> Array:
        return np.add(x, y)


@dataclass(frozen=True)
class Sub(Binary, name="sub"):
    """``x - y``; integers wrap."""

    def compute(self, x: Array, y: Array) -> Array:
        return np.subtract(x, y)


@dataclass(frozen=True)
class Mul(Binary, name="mul", commutative=True):
    """``x * y``; integers wrap."""

    def compute(self, x: Array, y: Array) -> Array:
        return np.multiply(x, y)


@dataclass(frozen=True)
class Div(Binary, name="div"):
    """``x / y``."""

    accepts = FLOAT

    def compute(self, x: Array, y: Array) -> Array:
        return np.divide(x, y)


@dataclass(frozen=True)
class FloorDiv(Binary, name="floor_div"):
    """``x // y`` as Python has it, rounded down. An integer divided by 0 gives an unspecified integer."""

    def compute(self, x: Array, y: Array) -> Array:
        return np.floor_divide(x, y)


@dataclass(frozen=True)
class Mod(Binary, name="mod"):
    """``x % y`` as Python has it, with the sign of ``y``. An integer modulo 0 gives an unspecified integer."""

    def compute(self, x: Array, y: Array) -> Array:
        return np.mod(x, y)


@dataclass(frozen=True)
class Pow(Binary, name="pow"):
    """``x ** y``. A negative power of an integer is cut towards 0: 1 or -1 for those two, 0 for any other."""

    def compute(self, x: Array, y: Array) -> Array:
        if x.dtype.kind != "i":
            return np.power(x, y)
        power = np.power(x, np.maximum(y, 0))
        cut = np.where(x == 1, 1, np.where(x == -1, 1 - 2 * (y % 2), 0))
        return np.where(y < 0, cut, power)


@dataclass(frozen=True)
class Maximum(Binary, name="maximum", commutative=True):
    """The larger element; NaN where either is NaN."""

    def compute(self, x: Array, y: Array) -> Array:
        return np.maximum(x, y)


@dataclass(frozen=True)
class Minimum(Binary, name="minimum", commutative=True):
    """The smaller element; NaN where either is NaN."""

    def compute(self, x: Array, y: Array) -> Array:
        return np.minimum(x, y)


@dataclass(frozen=True)
class Atan2(Binary, name="atan2"):
    """The angle in radians of the point (y, x): ``x`` is the ordinate, ``y`` the abscissa, as in numpy's ``arctan2(x, y)``."""

    accepts = FLOAT

    def compute(self, x: Array, y: Array) -> Array:
        return np.arctan2(x, y)


@dataclass(frozen=True)
class And(Binary, name="and", commutative=True):
    """Logical and; bit by bit on integers."""

    accepts = BITS

    def compute(self, x: Array, y: Array) -> Array:
        return np.bitwise_and(x, y)


@dataclass(frozen=True)
class Or(Binary, name="or", commutative=True):
    """Logical or; bit by bit on integers."""

    accepts = BITS

    def compute(self, x: Array, y: Array) -> Array:
        return np.bitwise_or(x, y)


@dataclass(frozen=True)
class Xor(Binary, name="xor", commutative=True):
    """Logical exclusive or; bit by bit on integers."""

    accepts = BITS

    def compute(self, x: Array, y: Array) -> Array:
        return np.bitwise_xor(x, y)


@dataclass(frozen=True)
class Comparison(Op):
    """Base of the comparisons of two tensors of one element type, which give bool."""

    accepts: ClassVar[frozenset[str]] = NUMBER

    def infer(self, x: TensorType, y: TensorType) -> TensorType:
        require_kind("x", x, self.accepts)
        require_dtype("y", y, x.dtype)
        return TensorType(boolean, broadcast_shapes(x.shape, y.shape))

    @np.errstate(all="ignore")
    def evaluate(self, x: Array, y: Array) -> Array:
        return np.asarray(self.compute(x, y), np.bool_)

    @abstractmethod
    def compute(self, x: Array, y: Array) -> Array:
        """The comparison, exact in any element type, without regard to numpy's warnings."""

    def axis_roles(self, x: TensorType, y: TensorType) -> tuple[Axis, ...]:
        return parallel_axes([x, y], self.infer(x, y).shape)


@dataclass(frozen=True)
class Equal(Comparison, name="equal", commutative=True):
    """``x == y``; NaN equals nothing."""

    accepts = ANY

    def compute(self, x: Array, y: Array) -> Array:
        return np.equal(x, y)


@dataclass(frozen=True)
class NotEqual(Comparison, name="not_equal", commutative=True):
    """``x != y``; NaN is unequal to everything."""

    accepts = ANY

    def compute(self, x: Array, y: Array) -> Array:
        return np.not_equal(x, y)


@dataclass(frozen=True)
class Less(Comparison, name="less"):
    """``x < y``."""

    def compute(self, x: Array, y: Array) -> Array:
        return np.less(x, y)


@dataclass(frozen=True)
class LessEqual(Comparison, name="less_equal"):
    """``x <= y``."""

    def compute(self, x: Array, y: Array) -> Array:
        return np.less_equal(x, y)


@dataclass(frozen=True)
class Greater(Comparison, name="greater"):
    """``x > y``."""

    def compute(self, x: Array, y: Array) -> Array:
        return np.greater(x, y)


@dataclass(frozen=True)
class GreaterEqual(Comparison, name="greater_equal"):
    """``x >= y``."""

    def compute(self, x: Array, y: Array) -> Array:
        return np.greater_equal(x, y)


@dataclass(frozen=True)
class Select(Op, name="select"):
    """``x`` where ``condition`` holds, else ``y``; all three broadcast."""

    def infer(self, condition: TensorType, x: TensorType, y: TensorType) -> TensorType:
        require_kind("condition", condition, BOOL)
        require_dtype("y", y, x.dtype)
        both = broadcast_shapes(x.shape, y.shape)
        return TensorType(x.dtype, broadcast_shapes(condition.shape, both, ("condition", "x and y")))

    def evaluate(self, condition: Array, x: Array, y: Array) -> Array:
        return rounded(np.where(condition, x, y), x)

    def axis_roles(self, condition: TensorType, x: TensorType, y: TensorType) -> tuple[Axis, ...]:
        return parallel_axes([condition, x, y], self.infer(condition, x, y).shape)

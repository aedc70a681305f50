"""Functions of one tensor, element by element. f16 and bf16 are computed in f32 and rounded once; decomposed, at every step."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.dtypes import DType, boolean
from cgptc.ir.erf import erf
from cgptc.ir.graph import Value
from cgptc.ir.op import Array, Axis, Cost, Op
from cgptc.ir.ops.binary import Add, Mul
from cgptc.ir.ops.broadcast import parallel_axes
from cgptc.ir.ops.operands import BOOL, FLOAT, NUMBER, SIGNED, require_choice, require_kind
from cgptc.ir.ops.precision import rounded, widened
from cgptc.ir.types import TensorType


@dataclass(frozen=True)
class Unary(Op):
    """Base of the functions of one tensor: ``compute`` is the function, in a type that holds its precision."""

    accepts: ClassVar[frozenset[str]] = FLOAT
    flops: ClassVar[int] = 1

    def infer(self, x: TensorType) -> TensorType:
        require_kind("x", x, self.accepts)
        return x

    @np.errstate(all="ignore")
    def evaluate(self, x: Array) -> Array:
        return rounded(self.compute(widened(x)), x)

    @abstractmethod
    def compute(self, x: Array) -> Array:
        """The function of an array of f32, f64, an integer type or bool, without regard to numpy's warnings."""

    def cost(self, x: TensorType) -> Cost:
        return Cost(self.flops * x.size, 2 * x.bytes)

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return parallel_axes([x], x.shape)


@dataclass(frozen=True)
class Neg(Unary, name="neg"):
    """``-x``."""

    accepts = SIGNED

    def compute(self, x: Array) -> Array:
        return np.negative(x)


@dataclass(frozen=True)
class Abs(Unary, name="abs"):
    """``|x|``."""

    accepts = NUMBER

    def compute(self, x: Array) -> Array:
        return np.abs(x)


@dataclass(frozen=True)
class Exp(Unary, name="exp"):
    """``e ** x``."""

    def compute(self, x: Array) -> Array:
        return np.exp(x)


@dataclass(frozen=True)
class Log(Unary, name="log"):
    """The natural logarithm; NaN below 0, -inf at 0."""

    def compute(self, x: Array) -> Array:
        return np.log(x)


@dataclass(frozen=True)
class Log1p(Unary, name="log1p"):
    """``log(1 + x)``, exact near 0."""

    def compute(self, x: Array) -> Array:
        return np.log1p(x)


@dataclass(frozen=True)
class Expm1(Unary, name="expm1"):
    """``e ** x - 1``, exact near 0."""

    def compute(self, x: Array) -> Array:
        return np.expm1(x)


@dataclass(frozen=True)
class Sqrt(Unary, name="sqrt"):
    """The square root; NaN below 0."""

    def compute(self, x: Array) -> Array:
        return np.sqrt(x)


@dataclass(frozen=True)
class Rsqrt(Unary, name="rsqrt"):
    """``1 / sqrt(x)``."""

    def compute(self, x: Array) -> Array:
        return np.reciprocal(np.sqrt(x))


@dataclass(frozen=True)
class Reciprocal(Unary, name="reciprocal"):
    """``1 / x``."""

    def compute(self, x: Array) -> Array:
        return np.reciprocal(x)


@dataclass(frozen=True)
class Sin(Unary, name="sin"):
    """The sine of radians."""

    def compute(self, x: Array) -> Array:
        return np.sin(x)


@dataclass(frozen=True)
class Cos(Unary, name="cos"):
    """The cosine of radians."""

    def compute(self, x: Array) -> Array:
        return np.cos(x)


@dataclass(frozen=True)
class Tan(Unary, name="tan"):
    """The tangent of radians."""

    def compute(self, x: Array) -> Array:
        return np.tan(x)


@dataclass(frozen=True)
class Tanh(Unary, name="tanh"):
    """The hyperbolic tangent."""

    def compute(self, x: Array) -> Array:
        return np.tanh(x)


@dataclass(frozen=True)
class Sigmoid(Unary, name="sigmoid"):
    """``1 / (1 + exp(-x))``."""

    flops = 3

    def compute(self, x: Array) -> Array:
        return sigmoid(x)


@dataclass(frozen=True)
class Erf(Unary, name="erf"):
    """The error function (`cgptc.ir.erf`)."""

    def compute(self, x: Array) -> Array:
        return erf(x)


@dataclass(frozen=True)
class Floor(Unary, name="floor"):
    """The largest integer that is not above ``x``."""

    def compute(self, x: Array) -> Array:
        return np.floor(x)


@dataclass(frozen=True)
class Ceil(Unary, name="ceil"):
    """The smallest integer that is not below ``x``."""

    def compute(self, x: Array) -> Array:
        return np.ceil(x)


@dataclass(frozen=True)
class Round(Unary, name="round"):
    """The nearest integer; halves go to the even one."""

    def compute(self, x: Array) -> Array:
        return np.rint(x)


@dataclass(frozen=True)
class Sign(Unary, name="sign"):
    """-1, 0 or 1 by the sign; NaN stays NaN, as in ONNX."""

    accepts = SIGNED

    def compute(self, x: Array) -> Array:
        return np.sign(x)


@dataclass(frozen=True)
class Relu(Unary, name="relu"):
    """``max(x, 0)``; NaN stays NaN."""

    accepts = SIGNED

    def compute(self, x: Array) -> Array:
        return np.maximum(x, 0)


@dataclass(frozen=True)
class Silu(Unary, name="silu"):
    """``x * sigmoid(x)``."""

    flops = 4

    def compute(self, x: Array) -> Array:
        return x * sigmoid(x)

    def decompose(self, build: Builder, x: Value) -> Value:
        return build(Mul(), x, build(Sigmoid(), x))


@dataclass(frozen=True)
class Softplus(Unary, name="softplus"):
    """``log(1 + exp(x))``, as ``max(x, 0) + log1p(exp(-|x|))``: no threshold above which it is the identity."""

    flops = 5

    def compute(self, x: Array) -> Array:
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))

    def decompose(self, build: Builder, x: Value) -> Value:
        return build(Add(), build(Relu(), x), build(Log1p(), build(Exp(), build(Neg(), build(Abs(), x)))))


@dataclass(frozen=True)
class Gelu(Unary, name="gelu"):
    """The Gaussian error linear unit.

    ``approximate`` "none": ``x/2 * (1 + erf(x / sqrt(2)))``; "tanh": ``x/2 * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x**3)))``.
    """

    approximate: str = "none"

    flops = 9

    def infer(self, x: TensorType) -> TensorType:
        require_choice("approximate", self.approximate, ("none", "tanh"))
        require_kind("x", x, FLOAT)
        return x

    def compute(self, x: Array) -> Array:
        if self.approximate == "none":
            return np.asarray(0.5 * x * (1 + erf(x * math.sqrt(0.5))))
        return np.asarray(0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * (x * x * x)))))

    def decompose(self, build: Builder, x: Value) -> Value:
        dtype = x.type.dtype
        if self.approximate == "none":
            curve = build(Erf(), build(Mul(), x, build.constant(math.sqrt(0.5), dtype)))
        else:
            cube = build(Mul(), build(Mul(), build(Mul(), x, x), x), build.constant(0.044715, dtype))
            curve = build(Tanh(), build(Mul(), build(Add(), x, cube), build.constant(math.sqrt(2 / math.pi), dtype)))
        return build(Mul(), build(Mul(), x, build.constant(0.5, dtype)), build(Add(), curve, build.constant(1.0, dtype)))


@dataclass(frozen=True)
class Not(Unary, name="not"):
    """Logical negation."""

    accepts = BOOL
    flops = 0

    def compute(self, x: Array) -> Array:
        return np.logical_not(x)


@dataclass(frozen=True)
class Predicate(Op):
    """Base of the functions of one floating-point tensor that give bool."""

    def infer(self, x: TensorType) -> TensorType:
        require_kind("x", x, FLOAT)
        return x.with_dtype(boolean)

    def cost(self, x: TensorType) -> Cost:
        return Cost(0, x.bytes + x.with_dtype(boolean).bytes)

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return parallel_axes([x], x.shape)


@dataclass(frozen=True)
class IsNan(Predicate, name="is_nan"):
    """Whether an element is NaN."""

    def evaluate(self, x: Array) -> Array:
        return np.asarray(np.isnan(x))


@dataclass(frozen=True)
class IsInf(Predicate, name="is_inf"):
    """Whether an element is +inf or -inf."""

    def evaluate(self, x: Array) -> Array:
        return np.asarray(np.isinf(x))


@dataclass(frozen=True)
class Cast(Op, name="cast"):
    """``x`` in another element type: rounded to nearest even, cut towards 0 to integers, unequal to 0 for bool.

    A float that an integer type cannot hold gives an unspecified integer; integers wrap.
    """

    dtype: DType

    def infer(self, x: TensorType) -> TensorType:
        return x.with_dtype(self.dtype)

    @np.errstate(all="ignore")
    def evaluate(self, x: Array) -> Array:
        return x.astype(self.dtype.numpy, copy=False)

    def axis_roles(self, x: TensorType) -> tuple[Axis, ...]:
        return parallel_axes([x], x.shape)


def sigmoid(x: Array) -> Array:
    """``1 / (1 + exp(-x))`` without overflow on either side."""
    small = np.exp(-np.abs(x))
    return np.asarray(np.where(x >= 0, 1, small) / (1 + small)).astype(x.dtype, copy=False)

"""Arithmetic, comparisons, casts, activations: each ATen op against PyTorch."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.frontend.torch_equivalence import assert_imports
from torch.nn import functional

X = torch.linspace(-2.5, 3.0, 12).reshape(3, 4)
Y = torch.linspace(0.3, 2.0, 4)
POSITIVE = torch.linspace(0.1, 4.0, 6)
INTEGERS = torch.tensor([-7, -3, 0, 2, 5, 9])
DIVISORS = torch.tensor([2, -2, 3, -4, 5, 1])
BOOLS = torch.tensor([True, False, True, False])
SPECIAL = torch.tensor([float("nan"), float("inf"), -float("inf"), 0.0, -1.5])
HUGE = torch.tensor([1e200, 1e-200, 0.0, -3e300, float("inf"), float("nan"), 2.0], dtype=torch.float64)
ZEROS = torch.tensor([0.0, -0.0, 1.5, -1.5, float("inf"), -float("inf")])

UNARY = [
    torch.neg, torch.abs, torch.exp, torch.sin, torch.cos, torch.tan, torch.tanh, torch.sigmoid, torch.erf, torch.floor,
    torch.ceil, torch.round, torch.trunc, torch.sign, torch.expm1, torch.square, torch.sinh, torch.cosh, torch.exp2,
    functional.relu, functional.relu6, functional.silu, functional.mish, functional.softplus, functional.logsigmoid,
    functional.leaky_relu, functional.elu, functional.selu, functional.hardtanh, functional.hardsigmoid, functional.hardswish,
    functional.softsign, functional.gelu,
]  # fmt: skip


@pytest.mark.parametrize("function", UNARY, ids=lambda function: function.__name__)
def test_a_function_of_one_tensor_is_what_torch_computes(function: Callable[..., Any]) -> None:
    assert_imports(function, X)


@pytest.mark.parametrize("function", [torch.log, torch.log1p, torch.log2, torch.log10, torch.sqrt, torch.rsqrt, torch.reciprocal])
def test_a_function_of_positive_numbers_is_what_torch_computes(function: Callable[..., Any]) -> None:
    assert_imports(function, POSITIVE)


@pytest.mark.parametrize("function", [torch.exp, torch.sqrt, torch.floor, torch.sigmoid, torch.neg, torch.abs])
def test_integers_are_promoted_as_torch_does(function: Callable[..., Any]) -> None:
    graph = assert_imports(lambda x: function(x.abs()), INTEGERS)
    expected = function(INTEGERS.abs()).dtype
    assert str(graph.output("output").type.dtype) == {torch.float32: "f32", torch.int64: "i64"}[expected]


CASES: dict[str, tuple[Callable[..., Any], tuple[torch.Tensor, ...]]] = {
    "add broadcasts": (torch.add, (X, Y)),
    "add with alpha": (lambda x, y: torch.add(x, y, alpha=3), (X, Y)),
    "add of a fraction": (lambda x: x + 0.1, (X,)),
    "add of an integer tensor": (torch.add, (X, torch.arange(4))),
    "add of bools": (torch.add, (BOOLS, ~BOOLS)),
    "integer plus fraction": (lambda x: x + 0.5, (INTEGERS,)),
    "sub": (torch.sub, (X, Y)),
    "reversed sub": (lambda x: 1.5 - x, (X,)),
    "reversed sub with alpha": (lambda x, y: torch.rsub(x, y, alpha=2), (X, Y)),
    "mul": (torch.mul, (X, Y)),
    "mul of bools": (torch.mul, (BOOLS, ~BOOLS)),
    "mul of a bool and a float": (torch.mul, (Y, BOOLS)),
    "div": (torch.div, (X, Y)),
    "div of integers": (torch.div, (INTEGERS, DIVISORS)),
    "div rounding down": (lambda x, y: torch.div(x, y, rounding_mode="floor"), (INTEGERS, DIVISORS)),
    "div rounding to zero": (lambda x, y: torch.div(x, y, rounding_mode="trunc"), (INTEGERS, DIVISORS)),
    "div of floats rounding to zero": (lambda x, y: torch.div(x, y, rounding_mode="trunc"), (X, Y)),
    "floor divide": (lambda x, y: x // y, (INTEGERS, DIVISORS)),
    "remainder": (torch.remainder, (INTEGERS, DIVISORS)),
    "remainder of floats": (torch.remainder, (X, Y)),
    "fmod": (torch.fmod, (INTEGERS, DIVISORS)),
    "pow 2": (lambda x: x**2, (X,)),
    "pow 3": (lambda x: x**3.0, (X,)),
    "pow half": (lambda x: x**0.5, (POSITIVE,)),
    "pow minus half": (lambda x: x**-0.5, (POSITIVE,)),
    "pow of tensors": (torch.pow, (POSITIVE, POSITIVE)),
    "pow of a number": (lambda x: 10000.0**x, (X,)),
    "maximum": (torch.maximum, (X, Y)),
    "fmax of what is no number": (lambda x, y: torch.fmax(torch.where(x > 0, x, math.nan), y), (X, Y)),
    "fmin of what is no number": (lambda x, y: torch.fmin(x, torch.where(y > 0, y, math.nan)), (X, Y)),
    "minimum": (torch.minimum, (X, Y)),
    "clamp": (lambda x: x.clamp(-1, 1.5), (X,)),
    "clamp from below": (lambda x: x.clamp(min=0), (INTEGERS,)),
    "clamp by tensors": (lambda x, y: torch.clamp(x, min=-y, max=y), (X, Y)),
    "addcmul": (lambda x, y: torch.addcmul(x, y, y, value=0.5), (X, Y)),
    "addcdiv": (lambda x, y: torch.addcdiv(x, y, y + 1, value=0.5), (X, Y)),
    "lerp": (lambda x, y: torch.lerp(x, y, 0.3), (X, Y)),
    "atan2": (torch.atan2, (X, Y)),
    "atan": (torch.atan, (X,)),
    "asin and acos": (lambda x: (torch.asin(x), torch.acos(x)), (torch.linspace(-1, 1, 9),)),
    "hypot": (torch.hypot, (X, Y)),
    "hypot of what has no square": (torch.hypot, (HUGE, HUGE.flip(0))),
    "signbit": (torch.signbit, (ZEROS,)),
    "signbit of integers and bools": (lambda x: (torch.signbit(x), torch.signbit(x > 0)), (INTEGERS,)),
    "copysign": (torch.copysign, (ZEROS.abs() + 1, ZEROS)),
    "copysign of integers": (lambda x: torch.copysign(x, -2.0), (INTEGERS,)),
    "round to decimals": (lambda x: torch.round(x, decimals=1), (X,)),
    "round to tens": (lambda x: torch.round(x * 100, decimals=-1), (X,)),
    "atanh": (torch.atanh, (torch.linspace(-0.95, 0.95, 9),)),
    "extremes of bools": (lambda x: (*x.view(2, 2).max(1), x.amin()), (BOOLS,)),
    "bitwise and of integers": (lambda x: x & 6, (INTEGERS,)),
    "bitwise or": (torch.bitwise_or, (BOOLS, ~BOOLS)),
    "xor": (lambda x, y: x ^ y, (BOOLS, BOOLS)),
    "not of integers": (torch.bitwise_not, (INTEGERS,)),
    "eq": (lambda x: x == 2, (INTEGERS,)),
    "ne of tensors": (lambda x, y: x != y, (INTEGERS, DIVISORS)),
    "lt": (lambda x, y: x < y, (X, Y)),
    "le of an integer and a float": (lambda x, y: x <= y, (INTEGERS, torch.linspace(-3, 3, 6))),
    "gt of bools": (lambda x, y: x > y, (BOOLS, ~BOOLS)),
    "ge": (lambda x: x >= 0.5, (X,)),
    "logical not": (torch.logical_not, (INTEGERS,)),
    "logical and": (lambda x, y: torch.logical_and(x, y > 0), (INTEGERS, DIVISORS)),
    "logical or": (lambda x, y: torch.logical_or(x > 0, y > 3), (INTEGERS, DIVISORS)),
    "logical xor": (lambda x, y: torch.logical_xor(x > 0, y > 0), (INTEGERS, DIVISORS)),
    "isnan": (torch.isnan, (SPECIAL,)),
    "isinf": (torch.isinf, (SPECIAL,)),
    "isfinite": (torch.isfinite, (SPECIAL,)),
    "where": (lambda x, y: torch.where(x > 0, x, y), (X, Y)),
    "where with a number": (lambda x: torch.where(x > 0, x, -1.0), (X,)),
    "nan_to_num": (lambda x: torch.nan_to_num(x, nan=1.0, posinf=2.0, neginf=-2.0), (SPECIAL,)),
    "masked fill": (lambda x: x.masked_fill(x > 1, float("-inf")), (X,)),
    "tril": (torch.tril, (X,)),
    "triu above the diagonal": (lambda x: torch.triu(x, 1), (X,)),
    "tril below the diagonal": (lambda x: torch.tril(x, -1), (X,)),
    "softmax": (lambda x: torch.softmax(x, -1), (X,)),
    "log softmax": (lambda x: torch.log_softmax(x, 0), (X,)),
    "softmax of integers to double": (lambda x: torch.softmax(x, 0, dtype=torch.float64), (INTEGERS,)),
    "gelu with tanh": (lambda x: functional.gelu(x, approximate="tanh"), (X,)),
    "gelu spelled out": (lambda x: 0.5 * x * (1 + torch.tanh(0.7978845608028654 * (x + 0.044715 * torch.pow(x, 3)))), (X,)),
    "softplus with beta": (lambda x: functional.softplus(x, beta=2.0, threshold=3.0), (X,)),
    "glu": (functional.glu, (X,)),
    "prelu": (functional.prelu, (X, torch.linspace(0.1, 0.4, 4))),
    "dropout at inference": (lambda x: functional.dropout(x, 0.5, training=False), (X,)),
    "cast to integers": (lambda x: x.long(), (X,)),
    "cast to bool and back": (lambda x: x.bool().to(torch.int32), (INTEGERS,)),
    "cast as another": (lambda x, y: x.type_as(y), (INTEGERS, X)),
    "clone, detach and contiguous": (lambda x: x.clone().detach().t().contiguous(), (X,)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_an_element_wise_op_is_what_torch_computes(name: str) -> None:
    function, inputs = CASES[name]
    assert_imports(function, *inputs)

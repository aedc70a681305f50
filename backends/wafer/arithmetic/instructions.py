"""Instructions of local steps. One declaration is the meaning (both engines run the body), the price, and the emitted name.

A body sees arrays whose leading axes are the PEs (none in the `pe` engine, ``[rows, columns]`` in the `fast` one) and whose trailing axes
are those of the step's views. It gives the new content of the step's output in the carrier of ``call.target``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cgptc.backends.wafer.affine import Affine
from cgptc.backends.wafer.arithmetic import formats
from cgptc.backends.wafer.arithmetic.formats import Array, Format
from cgptc.backends.wafer.arithmetic.functions import OPERATIONS, scalar_function
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.machine import Machine

Parameter = int | float | bool | str | Affine | tuple[Affine, ...]
Shape = tuple[int, ...]
ShapeRule = Callable[[Shape, tuple[Shape, ...]], str | None]
"""Why shapes of the output and the inputs do not fit together; None where they do."""


@dataclass(frozen=True)
class Call:
    """One instruction at work: inputs as carriers of ``target``, the output's shape, and what the mask expressions may name."""

    target: Format
    inputs: tuple[Array, ...]
    shape: Shape
    environment: Mapping[str, Any]
    parameters: Mapping[str, Parameter]

    def evaluate(self, expression: Affine) -> Array:
        """An affine expression over scalars, ``row``, ``column`` and ``i0``, ``i1``, … at every output element."""
        return np.asarray(expression.value(self.environment))


@dataclass(frozen=True)
class Price:
    """What a price may depend on: machine, computing format, and the shapes of output and inputs."""

    machine: Machine
    dtype: str
    shape: Shape
    inputs: tuple[Shape, ...]
    parameters: Mapping[str, Parameter]

    @property
    def size(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class Instruction:
    """A declared instruction: number of inputs, parameter names, body, cycles and CSL name.

    ``accumulates`` means that the first input is the output's old content; ``integers`` are the inputs that are indices and keep their
    integer type; ``macs`` counts useful multiply-accumulates.
    """

    name: str
    inputs: int
    parameters: tuple[str, ...]
    body: Callable[[Call], Array]
    cycles: Callable[[Price], int]
    csl: str
    accumulates: bool = False
    integers: tuple[int, ...] = ()
    macs: Callable[[Price], int] = lambda price: 0

    def check(self, shape: Shape, inputs: tuple[Shape, ...], parameters: Mapping[str, Parameter]) -> str | None:
        """Why these operands do not fit this instruction; None where they do."""
        if len(inputs) != self.inputs:
            return f"'{self.name}' takes {self.inputs} inputs, got {len(inputs)}"
        if set(parameters) != set(self.parameters):
            return f"'{self.name}' takes parameters {sorted(self.parameters)}, got {sorted(parameters)}"
        return _SHAPE_RULES.get(self.name, _elementwise_rule)(shape, inputs)


INSTRUCTIONS: dict[str, Instruction] = {}


def instruction_of(name: str) -> Instruction:
    """The instruction of that name. Raises ProgramError."""
    if name not in INSTRUCTIONS:
        raise ProgramError("instruction", f"unknown instruction {name!r}")
    return INSTRUCTIONS[name]


def instruction(
    name: str,
    *,
    inputs: int,
    cycles: Callable[[Price], int],
    csl: str,
    parameters: tuple[str, ...] = (),
    accumulates: bool = False,
    integers: tuple[int, ...] = (),
    macs: Callable[[Price], int] = lambda price: 0,
) -> Callable[[Callable[[Call], Array]], Callable[[Call], Array]]:
    """Declare an instruction around its body. A second of the same name is an error."""

    def declare(body: Callable[[Call], Array]) -> Callable[[Call], Array]:
        if name in INSTRUCTIONS:
            raise ValueError(f"instruction '{name}' is declared twice")
        INSTRUCTIONS[name] = Instruction(name, inputs, parameters, body, cycles, csl, accumulates, integers, macs)
        return body

    return declare


def vector(operations: float = 1.0) -> Callable[[Price], int]:
    """The price of a plain vector operation over the output's elements."""
    return lambda price: price.machine.vector_cycles(price.dtype, price.size, operations)


def reduced(operations: float = 1.0) -> Callable[[Price], int]:
    """The price of a vector operation over the first input's elements."""
    return lambda price: price.machine.vector_cycles(price.dtype, math.prod(price.inputs[0]), operations)


@instruction("mov", inputs=1, cycles=vector(), csl="@fmov")
def _mov(call: Call) -> Array:
    return call.inputs[0]


@instruction("add", inputs=2, cycles=vector(), csl="@fadd")
def _add(call: Call) -> Array:
    return formats.add(call.target, *call.inputs)


@instruction("sub", inputs=2, cycles=vector(), csl="@fsub")
def _sub(call: Call) -> Array:
    return formats.subtract(call.target, *call.inputs)


@instruction("mul", inputs=2, cycles=vector(), csl="@fmul")
def _mul(call: Call) -> Array:
    return formats.multiply(call.target, *call.inputs)


@instruction("mac", inputs=3, cycles=vector(1.5), csl="@fmac", macs=lambda price: price.size)
def _mac(call: Call) -> Array:
    """``x0 + x1 · x2``; three operands where a PE's memory gives two at full rate."""
    return formats.multiply_add(call.target, *call.inputs)


@instruction("max", inputs=2, cycles=vector(), csl="@fmax")
def _max(call: Call) -> Array:
    return formats.maximum(call.target, *call.inputs)


@instruction("min", inputs=2, cycles=vector(), csl="@fneg @fmax @fneg")
def _min(call: Call) -> Array:
    return formats.minimum(call.target, *call.inputs)


@instruction("neg", inputs=1, cycles=vector(), csl="@fneg")
def _neg(call: Call) -> Array:
    return -call.inputs[0]


@instruction("abs", inputs=1, cycles=vector(), csl="@fabs")
def _abs(call: Call) -> Array:
    return np.where(call.inputs[0] < 0, -call.inputs[0], call.inputs[0] + call.inputs[0].dtype.type(0))


@instruction("less", inputs=2, cycles=vector(), csl="@map less")
def _less(call: Call) -> Array:
    """1 where x0 < x1, else 0."""
    return (call.inputs[0] < call.inputs[1]).astype(call.target.carrier)


@instruction("select", inputs=3, cycles=vector(2.0), csl="@map select")
def _select(call: Call) -> Array:
    """``x1`` where x0 is not 0, else ``x2``."""
    return np.where(call.inputs[0] != 0, call.inputs[1], call.inputs[2])


@instruction("fill", inputs=1, cycles=vector(), csl="@fmov")
def _fill(call: Call) -> Array:
    """One number everywhere."""
    return call.inputs[0]


@instruction("keep", inputs=2, parameters=("where",), cycles=vector(2.0), csl="@fmov extent")
def _keep(call: Call) -> Array:
    """``x0`` where every expression of ``where`` is at least 0, else ``x1``."""
    conditions = call.parameters["where"]
    assert isinstance(conditions, tuple)
    kept: Array = np.ones((), np.bool_)
    for condition in conditions:
        kept = kept & (call.evaluate(condition) >= 0)
    return np.where(kept, call.inputs[0], call.inputs[1])


@instruction("index", inputs=0, parameters=("value",), cycles=vector(), csl="@map index")
def _index(call: Call) -> Array:
    """The value of an affine expression at every element."""
    value = call.parameters["value"]
    assert isinstance(value, Affine)
    return call.evaluate(value).astype(call.target.carrier)


@instruction("sum", inputs=1, cycles=reduced(), csl="@fadd scalar")
def _sum(call: Call) -> Array:
    """Sum over the input's last axis, from the first element upward; 0 for none."""
    x = call.inputs[0]
    if x.shape[-1] == 0:
        return np.zeros(x.shape[:-1], x.dtype)
    total = x[..., 0]
    for i in range(1, x.shape[-1]):
        total = formats.add(call.target, total, x[..., i])
    return total


@instruction("largest", inputs=1, cycles=reduced(), csl="@fmax scalar")
def _largest(call: Call) -> Array:
    """Maximum over the input's last axis; minus infinity for none."""
    x = call.inputs[0]
    if x.shape[-1] == 0:
        return np.full(x.shape[:-1], -np.inf, x.dtype)
    best = x[..., 0]
    for i in range(1, x.shape[-1]):
        best = formats.maximum(call.target, best, x[..., i])
    return best


@instruction("dot", inputs=2, cycles=reduced(), csl="@fmac scalar", macs=lambda price: math.prod(price.inputs[0]))
def _dot(call: Call) -> Array:
    """Sum of products over the last axis, from 0 upward."""
    x, y = call.inputs
    total = np.zeros(np.broadcast_shapes(x.shape, y.shape)[:-1], call.target.carrier)
    for i in range(x.shape[-1]):
        total = formats.multiply_add(call.target, total, x[..., i], y[..., i])
    return total


def _gemm_cycles(price: Price) -> int:
    (m, n), k = price.shape, price.inputs[1][-1]
    aligned = bool(price.parameters["aligned"])
    across = price.machine.mac_cycles(price.dtype, m * k, n, aligned=aligned)
    return min(across, price.machine.mac_cycles(price.dtype, k * n, m, aligned=aligned))


@instruction(
    "gemm",
    inputs=3,
    parameters=("aligned",),
    cycles=_gemm_cycles,
    csl="@map @fmac",
    accumulates=True,
    macs=lambda price: price.size * price.inputs[1][-1],
)
def gemm(call: Call) -> Array:
    """``total + left @ right``, k by k; ``aligned`` declares the streaming form and its price."""
    total, left, right = call.inputs
    for k in range(left.shape[-1]):
        total = formats.multiply_add(call.target, total, left[..., :, k, None], right[..., k, None, :])
    return total


@instruction("lookup", inputs=2, parameters=("first",), cycles=vector(), csl="@fmov indexed", integers=(1,))
def _lookup(call: Call) -> Array:
    """Row ``id - first`` of the table [v, d] for each of the ids [m]: 0 where the table does not hold that row."""
    table, ids = call.inputs
    first = call.parameters["first"]
    assert isinstance(first, Affine)
    start = call.evaluate(first)
    rows = ids.astype(np.int64) - (start[..., 0] if start.ndim else start)
    held = (rows >= 0) & (rows < table.shape[-2])
    taken = np.take_along_axis(table, np.where(held, rows, 0)[..., None], axis=-2)
    return np.where(held[..., None], taken, np.zeros((), table.dtype))


def _scalar(name: str) -> None:
    @instruction(name, inputs=1, cycles=lambda price: price.machine.scalar_map_cycles(price.size, OPERATIONS[name]), csl=f"@map {name}")
    def body(call: Call) -> Array:
        return scalar_function(name, call.target, call.inputs[0])


for _name in OPERATIONS:
    _scalar(_name)


def _broadcasts(shape: Shape, inputs: tuple[Shape, ...]) -> bool:
    try:
        return np.broadcast_shapes(shape, *inputs) == shape
    except ValueError:
        return False


def _elementwise_rule(shape: Shape, inputs: tuple[Shape, ...]) -> str | None:
    return None if _broadcasts(shape, inputs) else f"inputs {inputs} do not broadcast to {shape}"


def _reduction_rule(shape: Shape, inputs: tuple[Shape, ...]) -> str | None:
    whole = np.broadcast_shapes(*inputs)
    return None if whole[:-1] == shape and whole else f"inputs {inputs} do not reduce to {shape}"


def _gemm_rule(shape: Shape, inputs: tuple[Shape, ...]) -> str | None:
    if any(len(one) != 2 for one in (shape, *inputs)):
        return "matrices must have two axes"
    (m, n), k = shape, inputs[1][1]
    return None if inputs == ((m, n), (m, k), (k, n)) else f"{inputs[1]} @ {inputs[2]} does not add to {shape} from {inputs[0]}"


def _lookup_rule(shape: Shape, inputs: tuple[Shape, ...]) -> str | None:
    table, ids = inputs
    fits = len(table) == 2 and len(ids) == 1 and shape == (ids[0], table[1])
    return None if fits else f"rows {ids} of a table {table} are not {shape}"


_SHAPE_RULES: dict[str, ShapeRule] = {
    "sum": _reduction_rule,
    "largest": _reduction_rule,
    "dot": _reduction_rule,
    "gemm": _gemm_rule,
    "lookup": _lookup_rule,
}


def shape_rule(name: str) -> Callable[[ShapeRule], ShapeRule]:
    """Declare the rule of an instruction whose operands do not simply broadcast."""

    def declare(rule: ShapeRule) -> ShapeRule:
        _SHAPE_RULES[name] = rule
        return rule

    return declare

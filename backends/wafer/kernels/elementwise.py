"""Element-wise kernels: every PE works on its own tile; operands of one layout need no communication."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cgptc.backends.wafer.affine import Affine
from cgptc.backends.wafer.arithmetic.functions import OPERATIONS
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.fragment import Fragment, OfRows, Slot, all_of, buffer, first, inside, masked, run
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine

UNARY = ("neg", "abs", "exp", "log", "sqrt", "rsqrt", "reciprocal", "erf", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh")
BINARY = ("add", "sub", "mul", "max", "min", "less")
INFINITE = ("log", "rsqrt", "reciprocal")
"""What makes infinity of the zeros behind a tensor's end: times a weight's zeros there it would be no number, so it is zeros again."""


@dataclass(frozen=True)
class Elementwise(OfRows):
    """``y = op(x)`` or ``y = op(x, z)``, tile by tile; ``relu`` is a maximum with 0.

    ``less`` gives 1 where x < z, else 0; ``select`` has a third input and gives x where ``condition`` is not 0, else z.
    """

    op: str
    layout: Layout
    dtype: str = "f32"

    name: ClassVar[str] = "elementwise"

    def __post_init__(self) -> None:
        if self.op not in (*UNARY, *BINARY, "relu", "select"):
            raise ProgramError("kernel", f"no element-wise kernel for {self.op!r}")

    def fragment(self, prefix: str) -> Fragment:
        roles: tuple[str, ...] = ("x", "z") if self.op in BINARY else ("x",)
        if self.op == "select":
            roles = ("condition", "x", "z")
        inputs = [buffer(f"{prefix}.{role}", self.dtype, *self.layout.local_shape) for role in roles]
        y = buffer(f"{prefix}.y", self.dtype, *self.layout.local_shape)
        result, *operands = (all_of(one) if self.rows is None else first(one, self.rows) for one in (y, *inputs))
        if self.op == "relu":
            step = run("max", result, *operands, 0.0, form=self.dtype)
        else:
            step = run(self.op, result, *operands, form=self.dtype)
        ends = self._ends
        return Fragment(
            self.name,
            tuple(Slot(role, one.name, self.layout) for role, one in zip(roles, inputs, strict=True)),
            (Slot("y", y.name, self.layout, rows=self.rows),),
            (),
            (),
            (*inputs, y),
            (step, masked(result, result, 0.0, ends, self.dtype)) if ends else (step,),
        )

    @property
    def _ends(self) -> tuple[Affine, ...]:
        """Where a value is no padding, for operations that must not leave theirs behind."""
        last = len(self.layout.shape) - 1
        return inside(self.layout, last) if self.op in INFINITE and last >= 0 else ()

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        shape = self.layout.local_shape
        size = math.prod(shape) if self.rows is None else self.row_count(shape[0], scalars) * math.prod(shape[1:])
        ends = machine.vector_cycles(self.dtype, size, 2.0) + machine.step_cycles if self._ends else 0
        if self.op in OPERATIONS:
            return machine.scalar_map_cycles(size, OPERATIONS[self.op]) + machine.step_cycles + ends
        return machine.vector_cycles(self.dtype, size, 2.0 if self.op == "select" else 1.0) + machine.step_cycles

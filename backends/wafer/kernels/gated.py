"""Gated activations: ``activation(x) · z``, tile by tile, with the activation rounded once in at least f32 before the product."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.arithmetic.functions import OPERATIONS
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.fragment import Fragment, OfRows, Slot, buffer, first, run
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "sigmoid", "tanh", "relu")


@dataclass(frozen=True)
class Gated(OfRows):
    """``y = activation(x) · z``, all three in one layout: SwiGLU with ``silu``, GeGLU with ``gelu``, GLU with ``sigmoid``."""

    activation: str
    layout: Layout
    dtype: str = "f32"

    name: ClassVar[str] = "gated"

    def __post_init__(self) -> None:
        if self.activation not in ACTIVATIONS:
            raise ProgramError("kernel", f"no gate by {self.activation!r}", fix=f"one of {', '.join(ACTIVATIONS)}")

    def fragment(self, prefix: str) -> Fragment:
        form = format_of(self.dtype).wide.name
        x, z, y = (buffer(f"{prefix}.{role}", self.dtype, *self.layout.local_shape) for role in ("x", "z", "y"))
        gate = buffer(f"{prefix}.gate", form, *self.layout.local_shape)
        rows = self.rows_of(self.layout.local_shape[0])
        given, other, opened, result = (first(one, rows) for one in (x, z, gate, y))
        operands = (given, 0.0) if self.activation == "relu" else (given,)
        steps = (
            run("max" if self.activation == "relu" else self.activation, opened, *operands, form=form),
            run("mul", result, opened, other, form=form),
        )
        inputs = (Slot("x", x.name, self.layout), Slot("z", z.name, self.layout))
        return Fragment(self.name, inputs, (Slot("y", y.name, self.layout, rows=self.rows),), (), (), (x, z, y, gate), steps)

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """The mapped function, and one product."""
        m, *rest = self.layout.local_shape
        size, form = self.row_count(m, scalars) * math.prod(rest), format_of(self.dtype).wide.name
        product = machine.vector_cycles(form, size)
        gate = product if self.activation == "relu" else machine.scalar_map_cycles(size, OPERATIONS[self.activation])
        return gate + product + 2 * machine.step_cycles

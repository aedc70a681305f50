"""Element-wise kernels with a constant: a number, or a weight with one number per feature."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.elementwise import BINARY
from cgptc.backends.wafer.kernels.fragment import Fragment, OfRows, Slot, all_of, buffer, first, repeated, run
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import View


@dataclass(frozen=True)
class WithConstant(OfRows):
    """``y = op(x, c)`` for ``x [m, d]``, or ``op(c, x)`` where ``reverse``; c is ``value``, or a weight ``[d]`` where that is None."""

    op: str
    layout: Layout
    value: float | None
    dtype: str = "f32"
    reverse: bool = False

    name: ClassVar[str] = "elementwise-constant"

    def __post_init__(self) -> None:
        if self.op not in BINARY:
            raise ProgramError("kernel", f"no element-wise kernel for {self.op!r}")

    @property
    def weight_layout(self) -> Layout:
        """One number per feature, on the lines of the features."""
        return Layout(self.layout.height, self.layout.width, self.layout.shape[1:], self.layout.cuts[1:])

    def fragment(self, prefix: str) -> Fragment:
        m, local = self.layout.local_shape
        x, y = buffer(f"{prefix}.x", self.dtype, m, local), buffer(f"{prefix}.y", self.dtype, m, local)
        weight = buffer(f"{prefix}.weight", self.dtype, local)
        rows = self.rows_of(m)
        constant: View | float = repeated(all_of(weight), 0, rows) if self.value is None else self.value
        operands = (constant, first(x, rows)) if self.reverse else (first(x, rows), constant)
        own = self.value is None
        return Fragment(
            self.name,
            (Slot("x", x.name, self.layout),),
            (Slot("y", y.name, self.layout, rows=self.rows),),
            (Slot("weight", weight.name, self.weight_layout),) if own else (),
            (),
            (x, y, weight) if own else (x, y),
            (run(self.op, first(y, rows), *operands, form=self.dtype),),
        )

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """One vector operation."""
        m, local = self.layout.local_shape
        return machine.vector_cycles(self.dtype, self.row_count(m, scalars) * local) + machine.step_cycles

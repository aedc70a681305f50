"""The register of how each op is drawn: its attributes, then operands of types that it takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from cgptc.ir.graph import Value
from cgptc.ir.op import Op
from cgptc.testing.pool import Pool

Call: TypeAlias = tuple[Op, tuple[Value | None, ...]]
Sample: TypeAlias = Callable[[Pool, type[Any]], Call]

OP_SAMPLES: dict[type[Op], Sample] = {}
"""The function that draws an op and its operands, by op class. `graph_strategies` fills it by importing the samples of all ops."""

STABLE: set[type[Op]] = set()
"""Ops that are continuous and do not magnify small differences much: two right ways to compute a graph of them agree under T1."""


def samples(*classes: type[Op], stable: bool = True) -> Callable[[Sample], Sample]:
    """Register a function that draws these ops; it is given the class that is wanted."""

    def register(sample: Sample) -> Sample:
        for cls in classes:
            OP_SAMPLES[cls] = sample
            if stable:
                STABLE.add(cls)
        return sample

    return register

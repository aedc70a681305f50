"""The values that a graph under construction has so far, and how operands are drawn from them.

An operand is a live value that fits, or a fresh input or weight of a type that does: every draw succeeds, so nothing is ever rejected.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from hypothesis import strategies as st

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import OpTypeError
from cgptc.ir.dims import Dim, Shape, bounds
from cgptc.ir.dtypes import FLOATS, DType, boolean, f32, i8, i32, i64, u8
from cgptc.ir.graph import Graph, Value
from cgptc.ir.op import Op
from cgptc.ir.types import TensorType
from cgptc.ir.weights import MemoryStore, dense
from cgptc.testing.arrays import random_integers
from cgptc.testing.type_strategies import BATCH, MAX_ELEMENTS, PAST, SEQ, SIZES, shapes
from cgptc.testing.weight_strategies import draw_weight

INTEGERS = (i64, i32, i8, u8)
LARGEST = 4 * MAX_ELEMENTS
"""Elements above which a live value is no longer drawn as an operand."""


@dataclass
class Pool:
    """A graph under construction. ``symbols`` are the dimensions beside static sizes that fresh types may have."""

    draw: st.DrawFn
    build: Builder
    store: MemoryStore
    generator: np.random.Generator
    kind: str
    floats: tuple[DType, ...] = FLOATS
    symbols: tuple[Dim, ...] = ()
    live: list[Value] = field(default_factory=list)

    @property
    def graph(self) -> Graph:
        return self.build.graph

    def insert(self, op: Op, *operands: Value | None) -> None:
        """Add a node; its results become operands of later ones."""
        self.live += self.build.all(op, *operands)

    # What is drawn beside operands

    def integer(self, low: int, high: int) -> int:
        """A whole number between bounds, both included; shrinks to ``low``."""
        return self.draw(st.integers(low, high))

    def flag(self) -> bool:
        return self.draw(st.booleans())

    def size(self) -> int:
        return self.draw(st.sampled_from(SIZES))

    def axis(self, type: TensorType, *, least: int = 1) -> int:
        """An axis of at least ``least`` elements whatever the symbols' sizes; the type must have one."""
        return self.draw(st.sampled_from(long_axes(type, least)))

    def axes(self, type: TensorType) -> tuple[int, ...]:
        """Ascending axes without repetition, at least one element long."""
        return tuple(axis for axis in long_axes(type, 1) if self.flag())

    def float_dtype(self) -> DType:
        return self.draw(st.sampled_from(self.floats))

    def any_dtype(self) -> DType:
        return self.draw(st.sampled_from([*self.floats, *INTEGERS, boolean]))

    def shape(self, min_rank: int = 0, max_rank: int = 4, *, static: bool = False) -> Shape:
        return self.draw(shapes(min_rank=min_rank, max_rank=max_rank, symbols=() if static else self.symbols))

    # Operands

    def pick(self, fits: Callable[[TensorType], bool], make: Callable[[], TensorType]) -> Value:
        """A live value whose type fits, the latest first, or a fresh one of the type that ``make`` draws."""
        fitting = [value for value in reversed(self.live) if size_of(value.type) <= LARGEST and fits(value.type)]
        choice = self.integer(0, len(fitting))  # drawn even where nothing fits: what follows keeps its place when a node goes
        # Built by a strategy, so that shrinking can leave out all of it at once where a live value does.
        return fitting[choice] if choice < len(fitting) else self.draw(st.builds(lambda: self.fresh(make())))

    def floating(self, min_rank: int = 0, max_rank: int = 4, fits: Callable[[TensorType], bool] = lambda found: True) -> Value:
        """A floating-point value of a rank between bounds. ``fits`` narrows the live ones; fresh shapes of such a rank must fit it."""
        return self.pick(
            lambda found: found.dtype in self.floats and min_rank <= found.rank <= max_rank and fits(found),
            lambda: TensorType(self.float_dtype(), self.shape(min_rank, max_rank)),
        )

    def accepted(self, op: Op, *others: TensorType, dtypes: tuple[DType, ...]) -> Value:
        """A value that ``op`` takes as its first operand before ``others``; fresh ones are of one of ``dtypes``."""
        kinds = {dtype.kind for dtype in dtypes}

        def fits(type: TensorType) -> bool:
            return type.dtype.kind in kinds and (not type.dtype.is_float or type.dtype in self.floats) and infers(op, type, *others)

        return self.pick(fits, lambda: TensorType(self.draw(st.sampled_from(dtypes)), self.shape()))

    def like(self, type: TensorType) -> Value:
        """A live value of exactly that type, or a fresh one."""
        return self.pick(lambda other: other == type, lambda: type)

    def fresh(self, type: TensorType) -> Value:
        """A new input, or a weight where the type is static; shrinks to an input, which is no node."""
        value = self.new_weight(type) if type.is_static and self.flag() else self.new_input(type)
        self.live.append(value)
        return value

    def new_input(self, type: TensorType) -> Value:
        return self.graph.add_input(f"x{len(self.graph.inputs)}", type)

    def new_weight(self, type: TensorType) -> Value:
        levels = self.draw(st.sampled_from([0, 0, 1, 2]))
        return self.build.weight(draw_weight(self.draw, type, self.store, self.generator, self.kind, levels))

    def optional(self, type: TensorType) -> Value | None:
        """A value of that type, or an absent operand."""
        return self.like(type) if self.flag() else None

    def scalar(self, dtype: DType, low: int, high: int) -> Value:
        """A constant whole number between bounds."""
        return self.build.weight(dense(random_integers((), dtype, self.generator, low, high)))

    def indices(self, shape: Shape, size: int, dtype: DType = i64) -> Value:
        """Indices below ``size``, which no other op may use as numbers: an input, or a constant where the shape is static."""
        type_ = TensorType(dtype, shape)
        if type_.is_static and self.flag():
            return self.build.weight(dense(random_integers(type_.static_shape, dtype, self.generator, 0, size - 1)))
        return self.new_input(type_)


def long_axes(type: TensorType, least: int) -> list[int]:
    """The axes of at least ``least`` elements whatever the symbols' sizes."""
    return [axis for axis, dim in enumerate(type.shape) if bounds(dim)[0] >= least]


def size_of(type: TensorType) -> int:
    """Elements with every symbol at its upper bound."""
    return bounds(type.size)[1]


def infers(op: Op, *types: TensorType) -> bool:
    """Whether an op takes operands of these types."""
    try:
        op.infer(*types)
    except OpTypeError:
        return False
    return True


def start(
    draw: st.DrawFn, build: Builder, store: MemoryStore, generator: np.random.Generator, kind: str, floats: tuple[DType, ...]
) -> Pool:
    """A pool with its first input, which determines the symbols where there are any."""
    pool = Pool(draw, build, store, generator, kind, floats)
    # All is drawn whatever the form, so that an example shrinks from a symbolic graph to a static one.
    form = draw(st.sampled_from(["static", "symbolic", "symbolic with past"]))
    leading, behind = pool.shape(0, 2), draw(shapes(max_rank=2, max_elements=16))
    if form != "static":
        pool.symbols = leading = (BATCH.dim, SEQ.dim)
    pool.live.append(pool.new_input(TensorType(pool.float_dtype(), (*leading, *behind))))
    if form == "symbolic with past":
        pool.symbols += (PAST.dim + SEQ.dim,)
        pool.live.append(pool.graph.add_input("mask", TensorType(boolean, (BATCH.dim, PAST.dim + SEQ.dim))))
    return pool


DEFAULT_FLOATS = (f32, *(dtype for dtype in FLOATS if dtype is not f32))

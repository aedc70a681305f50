"""Strategies for shapes and types. Nothing is filtered: what is drawn fits by construction, and shrinks to little of everything."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from cgptc.ir.dims import Dim, Shape, Symbol, bounds
from cgptc.ir.dtypes import DTYPES, FLOATS, DType, f32
from cgptc.ir.types import TensorType

SIZES = (1, 2, 3, 5, 7, 8, 13, 16)
"""Sizes of static dimensions: primes break tilings."""

MAX_ELEMENTS = 1024
"""Elements that a drawn type may have with every dimension at its upper bound."""

BATCH = Symbol("batch", 1, 3)
SEQ = Symbol("seq", 1, 5)
PAST = Symbol("past", 0, 5)
SYMBOLS = (BATCH.dim, SEQ.dim, PAST.dim + SEQ.dim)
"""Symbolic dimensions that drawn types may have."""


def dtypes() -> st.SearchStrategy[DType]:
    """Any element type, f32 first."""
    return st.sampled_from([f32, *(dtype for dtype in DTYPES.values() if dtype is not f32)])


def float_dtypes() -> st.SearchStrategy[DType]:
    """Any floating-point type, f32 first."""
    return st.sampled_from([f32, *(dtype for dtype in FLOATS if dtype is not f32)])


@st.composite
def shapes(
    draw: st.DrawFn,
    *,
    min_rank: int = 0,
    max_rank: int = 4,
    symbols: Sequence[Dim] = (),
    max_elements: int = MAX_ELEMENTS,
) -> Shape:
    """A shape of dimensions from `SIZES` and ``symbols``, small enough in all."""
    shape: list[Dim] = []
    room = max_elements
    for _ in range(draw(st.integers(min_rank, max_rank))):
        fitting = [dim for dim in (*SIZES, *symbols) if bounds(dim)[1] <= room]
        dim = draw(st.sampled_from(fitting))
        room //= bounds(dim)[1]
        shape.append(dim)
    return tuple(shape)


@st.composite
def tensor_types(
    draw: st.DrawFn,
    *,
    dtypes: st.SearchStrategy[DType] | None = None,
    min_rank: int = 0,
    max_rank: int = 4,
    symbols: Sequence[Dim] = (),
    max_elements: int = MAX_ELEMENTS,
) -> TensorType:
    """A type; static unless ``symbols`` are given to draw dimensions from."""
    dtype = draw(dtypes if dtypes is not None else float_dtypes())
    return TensorType(dtype, draw(shapes(min_rank=min_rank, max_rank=max_rank, symbols=symbols, max_elements=max_elements)))

"""Strategies for the wafer: machines, layouts, and placed programs with the data to run them on."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from cgptc.backends.wafer.kernels.assembly import Stage, pipeline, renamed
from cgptc.backends.wafer.kernels.elementwise import Elementwise
from cgptc.backends.wafer.kernels.fragment import Direction, Fragment, Grid, Reduction, other
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.kernels.norm import Norm
from cgptc.backends.wafer.kernels.rearrange import JoinFeatures, Piece
from cgptc.backends.wafer.kernels.softmax import Softmax
from cgptc.backends.wafer.layout import Cut, Layout
from cgptc.backends.wafer.machine import WSE2, Lanes, Machine, small_machine
from cgptc.backends.wafer.program import Program

Array = npt.NDArray[Any]

WIDTHS = (1, 2, 3, 5, 7, 8, 13, 17)
"""Widths of features: primes break tilings."""

EXACT = ("linear", "add", "relu", "neg", "slice")
"""Steps that are exact on small integers, in any order of summation."""

OTHERS = ("gelu", "tanh", "norm", "softmax")


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """A valid machine of at most 12 × 12 PEs, with lanes, latencies, memory and queues around those of a WSE-2. Shrinks to 1 × 1."""
    width, height = draw(st.integers(1, 12)), draw(st.integers(1, 12))

    def lanes(of: Lanes) -> Lanes:
        return tuple((dtype, draw(st.sampled_from([1.0, 0.5, 2.0])) * count) for dtype, count in of)

    return replace(
        WSE2,
        name="drawn",
        width=width,
        height=height,
        clock_hz=draw(st.sampled_from([0.85e9, 1.1e9])),
        sram_bytes=draw(st.sampled_from([49_152, 16_384, 98_304])),
        vector_lanes=lanes(WSE2.vector_lanes),
        mac_lanes=lanes(WSE2.mac_lanes),
        vector_start_cycles=draw(st.integers(0, 60)),
        stream_start_cycles=draw(st.integers(0, 12)),
        step_cycles=draw(st.integers(0, 40)),
        hop_cycles=draw(st.integers(0, 3)),
        ramp_cycles=draw(st.integers(0, 7)),
        link_words=draw(st.integers(1, 2)),
        input_queue_words=tuple(draw(st.lists(st.integers(1, 8), min_size=3, max_size=8))),
    )


@st.composite
def layouts(draw: st.DrawFn, height: int | None = None, width: int | None = None) -> Layout:
    """How a tensor of rank 0 to 3 lies on a grid: axes cut in blocks or cyclically or whole, replicated or on one line, ragged ends."""
    rows, columns = height or draw(st.integers(1, 5)), width or draw(st.integers(1, 5))
    shape = tuple(draw(st.lists(st.integers(1, 9), max_size=3)))
    cuts: list[Cut | None] = [None] * len(shape)
    for along, lines in (("rows", rows), ("columns", columns)):
        free = [axis for axis, cut in enumerate(cuts) if cut is None]
        cutting: bool = draw(st.booleans())
        if free and cutting:
            axis = draw(st.sampled_from(free))
            smallest = -(-shape[axis] // lines)
            block = draw(st.sampled_from([smallest, 0, smallest + 1]))
            cuts[axis] = Cut(cast(Any, along), block)
    cut_along = {cut.along for cut in cuts if cut is not None}
    row = draw(st.none() | st.integers(0, rows - 1)) if "rows" not in cut_along else None
    column = draw(st.none() | st.integers(0, columns - 1)) if "columns" not in cut_along else None
    return Layout(rows, columns, shape, tuple(cuts), row, column)


@dataclass(frozen=True)
class SpatialSample:
    """A placed program, its weights and inputs by name, and its one output. ``expected`` is that output where all steps are exact.

    ``kinds`` are the kernels in order, for a failing example to be read.
    """

    program: Program
    weights: dict[str, Array]
    inputs: dict[str, Array]
    output: str
    kinds: tuple[str, ...]
    expected: Array | None


@dataclass
class _Growing:
    """A program being drawn: the buffer that holds the value so far, its width and direction, and what it should be."""

    rows: int
    width: int
    along: Direction
    dtype: str
    buffer: str
    values: Array
    random: np.random.Generator
    exact: bool
    kinds: list[str] = field(default_factory=list)
    weights: dict[str, Array] = field(default_factory=dict)


@st.composite
def spatial_programs(draw: st.DrawFn, *, exact: bool = False, most_stages: int = 3) -> SpatialSample:
    """A chain of one to three regions on grids of their own, each with up to three kernels, through which one to three items stream.

    With ``exact`` all steps are exact on the drawn integers, in f32, and ``expected`` holds what numpy gives.
    """
    rows, width = draw(st.integers(1, 3)), draw(st.sampled_from(WIDTHS))
    items = draw(st.integers(1, 3))
    along: Direction = draw(st.sampled_from(("x", "y")))
    dtype = "f32" if exact else draw(st.sampled_from(("f32", "f16")))
    random = np.random.default_rng(draw(st.integers(0, 2**16 - 1)))
    shape = (items, rows, width) if items > 1 else (rows, width)
    x = random.integers(-3, 4, shape).astype(np.float64) if exact else random.normal(size=shape)
    growing = _Growing(rows, width, along, dtype, "x", x, random, exact)
    stages: list[Stage] = []
    left = top = 0
    for number in range(draw(st.integers(1, most_stages))):
        grid = Grid(draw(st.integers(1, 4)), draw(st.integers(1, 4)))
        count = draw(st.integers(1, 3))
        fragments = tuple(_kernel(draw, growing, f"s{number}.k{i}", grid) for i in range(count))
        stages.append(Stage(f"s{number}", (left, draw(st.integers(0, 2))), fragments))
        left += grid.width
        top = max(top, grid.height + 2)
    program = pipeline(small_machine(left, top), stages, items=items, depth=draw(st.integers(1, 3)))
    expected = growing.values.astype(np.float32) if exact else None
    return SpatialSample(program, growing.weights, {"x": x}, growing.buffer, tuple(growing.kinds), expected)


def _reduction(draw: st.DrawFn, size: int) -> Reduction:
    kinds = ["chain", "tree", *(["two-phase"] if size > 2 else [])]
    kind = draw(st.sampled_from(kinds))
    return Reduction("two-phase", draw(st.integers(2, size - 1))) if kind == "two-phase" else Reduction(cast(Any, kind))


def _kernel(draw: st.DrawFn, growing: _Growing, prefix: str, grid: Grid) -> Fragment:
    """One more kernel on the value so far."""
    # Three products of small integers at most stay below 2**24.
    exact = [one for one in EXACT if one != "linear" or growing.kinds.count("linear") < 3]
    kind = draw(st.sampled_from(exact if growing.exact else [*exact, *OTHERS]))
    growing.kinds.append(kind)
    m, width, along, dtype = growing.rows, growing.width, growing.along, growing.dtype
    reduction = _reduction(draw, grid.lines(along))
    layout = grid.spread((m, width), along)
    wired = {f"{prefix}.{role}": growing.buffer for role in ("x", "z", "x0")}
    growing.buffer = f"{prefix}.y"
    match kind:
        case "linear":
            outputs, bias = draw(st.sampled_from(WIDTHS)), draw(st.booleans())
            kernel = Linear(m, width, outputs, grid, along, dtype, "f32", reduction, bias)
            weight = _data(growing, (width, outputs))
            growing.weights[f"{prefix}.weight"] = weight
            growing.values = growing.values @ weight
            if bias:
                growing.weights[f"{prefix}.bias"] = _data(growing, (outputs,))
                growing.values = growing.values + growing.weights[f"{prefix}.bias"]
            growing.width, growing.along = outputs, other(along)
            return renamed(kernel.fragment(prefix), wired)
        case "slice":
            start = draw(st.integers(0, width - 1))
            count = draw(st.integers(1, width - start))
            growing.values, growing.width = growing.values[..., start : start + count], count
            return renamed(JoinFeatures(m, (width,), (Piece(0, start, count),), grid, along, dtype, reduction).fragment(prefix), wired)
        case "norm":
            statistics = draw(st.sampled_from(("packed", "two-pass", "rms")))
            norm = Norm(m, width, grid, along, dtype, cast(Any, statistics), reduction, bias=False)
            growing.weights[f"{prefix}.weight"] = _data(growing, (width,))
            return renamed(norm.fragment(prefix), wired)
        case "softmax":
            return renamed(Softmax(m, width, grid, along, dtype, reduction).fragment(prefix), wired)
        case _:
            meaning = {"add": lambda x: x + x, "relu": lambda x: np.maximum(x, 0), "neg": lambda x: -x}
            growing.values = meaning.get(kind, lambda x: x)(growing.values)
            return renamed(Elementwise(kind, layout, dtype).fragment(prefix), wired)


def _data(growing: _Growing, shape: tuple[int, ...]) -> Array:
    return growing.random.integers(-3, 4, shape).astype(np.float64) if growing.exact else growing.random.normal(size=shape)

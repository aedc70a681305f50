"""A linear layer that stores and multiplies its non-zeros only, by compressed rows, compressed columns, or dense blocks.

The same directions as `Linear`: k along one, n along the other, one allreduce. A PE keeps its non-zeros in the order in which a dense
product would add them. All PEs have room, and are charged, for as many as the fullest one; `balanced_order` makes it less full.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.arithmetic.instructions import Price
from cgptc.backends.wafer.arithmetic.sparse import block_cycles, sparse_cycles
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.fragment import Fragment, Slot, all_of, buffer, first, repeated, run
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.kernels.zeros import Array, counts, lines_of, stored, stored_layout, tiles
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.steps import Step

Form = Literal["rows", "columns", "blocks"]


@dataclass(frozen=True)
class SparseLinear:
    """The layer ``dense`` where every PE stores at most ``entries`` non-zeros, or non-zero blocks of ``block`` in the form ``blocks``.

    Rows (of outputs) suit many rows of x and few outputs, columns (of inputs) the other way round; blocks are products of their own and
    so pay for single vectors too. ``values`` and ``places`` come from `pack`.
    """

    dense: Linear
    entries: int
    form: Form = "rows"
    block: tuple[int, int] = (1, 1)

    name: ClassVar[str] = "linear-sparse"

    def __post_init__(self) -> None:
        deep, wide = self.block
        if self.entries < 1 or deep < 1 or wide < 1:
            raise ProgramError("kernel", f"{self.entries} entries of blocks {self.block}: all must be at least 1")
        if self.form != "blocks" and self.block != (1, 1):
            raise ProgramError("kernel", f"'{self.form}' stores single numbers, not blocks of {deep} × {wide}")

    @property
    def tile(self) -> tuple[int, int]:
        """Inputs and outputs of a PE."""
        return self.dense.x_layout.local_shape[1], self.dense.y_layout.local_shape[1]

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """What a PE stores."""
        return (self.entries, *self.block) if self.form == "blocks" else (self.entries,)

    def pack(self, weight: Array) -> tuple[Array, Array]:
        """``(values [height, width, entries, …], places [height, width, entries])`` of ``weight [k, n]``.

        Raises ProgramError where a PE would have to store more than there is room for.
        """
        lines, deep = lines_of(self.dense.grid, self.dense.along), self.tile[0]
        found: list[tuple[int, int, Array, Array]] = []
        cut = tiles(weight, lines, self.tile)
        for k_line, n_line in np.ndindex(*lines):
            if self.form == "blocks":
                blocks = _blocks(cut[k_line, n_line], self.block)
                outer, inner = np.nonzero(blocks.any(axis=(2, 3)).T)
                values, places = blocks[inner, outer], outer * blocks.shape[0] + inner
            elif self.form == "rows":
                outer, inner = np.nonzero(cut[k_line, n_line].T)
                values, places = cut[k_line, n_line][inner, outer], outer * deep + inner
            else:
                inner, outer = np.nonzero(cut[k_line, n_line])
                values, places = cut[k_line, n_line][inner, outer], outer * deep + inner
            if len(values) > self.entries:
                raise ProgramError("kernel", f"a PE would store {len(values)} of at most {self.entries} entries")
            found.append((k_line, n_line, values, places))
        return stored(found, self.dense.grid, self.dense.along, self.stored_shape, weight.dtype)

    def fragment(self, prefix: str) -> Fragment:
        dense, (deep, wide) = self.dense, self.tile
        x = buffer(f"{prefix}.x", dense.dtype, dense.m, deep)
        values, places = buffer(f"{prefix}.values", dense.dtype, *self.stored_shape), buffer(f"{prefix}.places", "i32", self.entries)
        y = buffer(f"{prefix}.y", dense.dtype, dense.m, wide)
        total = y if dense.accumulate == dense.dtype else buffer(f"{prefix}.total", dense.accumulate, *y.shape)
        buffers = [x, values, places, y] if total is y else [x, values, places, y, total]
        rows = dense.rows_of(dense.m)
        sums, result = first(total, rows), first(y, rows)
        operands = (sums, sums, first(x, rows), all_of(values), all_of(places))
        steps: list[Step] = [
            run("fill", sums, 0.0, form=dense.accumulate),
            run("block_gemm", *operands, form=dense.accumulate)
            if self.form == "blocks"
            else run("sparse_gemm", *operands, form=dense.accumulate, order=self.form),
            dense.reduction.step(dense.along, sums, sums, "add"),
        ]
        weights = [
            Slot("values", values.name, stored_layout(dense.grid, self.stored_shape)),
            Slot("places", places.name, stored_layout(dense.grid, (self.entries,))),
        ]
        if dense.bias:
            bias = buffer(f"{prefix}.bias", dense.dtype, *dense.bias_layout.local_shape)
            buffers.append(bias)
            weights.append(Slot("bias", bias.name, dense.bias_layout))
            steps.append(run("add", result, sums, repeated(all_of(bias), 0, rows), form=dense.accumulate))
        elif total is not y:
            steps.append(run("mov", result, sums, form=dense.accumulate))
        name = f"{self.name}-{self.form}"
        slots = (Slot("x", x.name, dense.x_layout),), (Slot("y", y.name, dense.y_layout, rows=dense.rows),)
        return Fragment(name, *slots, tuple(weights), (), tuple(buffers), tuple(steps))

    def product_cycles(self, machine: Machine, m: int) -> int:
        """Those of the tile product alone, with so many rows of x."""
        dense, (deep, wide) = self.dense, self.tile
        inputs = ((m, wide), (m, deep), self.stored_shape, (self.entries,))
        price = Price(machine, dense.accumulate, (m, wide), inputs, {"order": self.form})
        return block_cycles(price) if self.form == "blocks" else sparse_cycles(price)

    def cycles(self, machine: Machine, scalars: Mapping[str, int]) -> int:
        """The dense layer's, with the product of the fullest PE's entries in place of the whole tile's."""
        dense = self.dense
        m = dense.row_count(dense.m, scalars)
        size = m * self.tile[1]
        passes = 2 if dense.bias or dense.accumulate != dense.dtype else 1
        words = format_of(dense.accumulate).words(size)
        line = dense.reduction.pattern(dense.grid.lines(dense.along)).cycles(words, machine)
        local = passes * machine.vector_cycles(dense.accumulate, size) + self.product_cycles(machine, m)
        return local + line + (passes + 2) * machine.step_cycles


def _blocks(tile: Array, block: tuple[int, int]) -> Array:
    """A tile as ``[k blocks, n blocks, deep, wide]``, its ends padded with zeros."""
    lines = (math.ceil(tile.shape[0] / block[0]), math.ceil(tile.shape[1] / block[1]))
    return tiles(tile, lines, block)


def _block_counts(weight: Array, lines: tuple[int, int], tile: tuple[int, int], block: tuple[int, int]) -> Array:
    """Non-zero blocks of each tile ``[k lines, n lines]``."""
    cut = tiles(weight != 0, lines, tile)
    deep, wide = (math.ceil(size / part) for size, part in zip(tile, block, strict=True))
    padded = np.zeros((*lines, deep * block[0], wide * block[1]), np.bool_)
    padded[..., : tile[0], : tile[1]] = cut
    parts = padded.reshape(*lines, deep, block[0], wide, block[1])
    return np.asarray(parts.any(axis=(3, 5)).sum(axis=(2, 3)))


def sparse_linear(weight: Array, dense: Linear, form: Form, block: tuple[int, int] = (1, 1)) -> SparseLinear:
    """The sparse kernel that has room for just what the fullest PE stores of ``weight [k, n]``."""
    lines = lines_of(dense.grid, dense.along)
    tile = dense.x_layout.local_shape[1], dense.y_layout.local_shape[1]
    if form == "blocks":
        most = int(_block_counts(weight, lines, tile, block).max(initial=0))
    else:
        most = int(counts(weight, lines, tile).max(initial=0))
    return SparseLinear(dense, max(1, most), form, block)


BLOCKS = ((4, 4), (8, 8), (16, 16))


def forms(weight: Array, dense: Linear, blocks: tuple[tuple[int, int], ...] = BLOCKS) -> Iterator[Linear | SparseLinear]:
    """The dense layer and its sparse forms for this very weight, or its pattern of zeros; of blocks those that a tile holds."""
    yield dense
    for form in ("rows", "columns"):
        yield sparse_linear(weight, dense, form)
    deep, wide = dense.x_layout.local_shape[1], dense.y_layout.local_shape[1]
    for block in blocks:
        if block[0] <= deep and block[1] <= wide:
            yield sparse_linear(weight, dense, "blocks", block)


def best_form(weight: Array, dense: Linear, machine: Machine, blocks: tuple[tuple[int, int], ...] = BLOCKS) -> Linear | SparseLinear:
    """The cheapest of the dense layer and its sparse forms; the dense one where zeros do not pay."""
    return min(forms(weight, dense, blocks), key=lambda one: one.cycles(machine, {}))


def winning_densities(dense: Linear, machine: Machine) -> dict[str, float]:
    """For each sparse form the density below which it costs less than the dense layer, its entries spread evenly; 0 where none is.

    ``blocks 16x16`` and the like count whole blocks of zeros only, and are there where a tile holds such a block.
    """
    deep, wide = dense.x_layout.local_shape[1], dense.y_layout.local_shape[1]
    limit = dense.cycles(machine, {})
    found: dict[str, float] = {}
    kinds: list[tuple[str, Form, tuple[int, int]]] = [("rows", "rows", (1, 1)), ("columns", "columns", (1, 1))]
    kinds += [(f"blocks {block[0]}x{block[1]}", "blocks", block) for block in BLOCKS if block[0] <= deep and block[1] <= wide]
    for name, form, block in kinds:
        most = math.ceil(deep / block[0]) * math.ceil(wide / block[1])
        low, high = 0, most
        while low < high:
            middle = (low + high + 1) // 2
            low, high = (middle, high) if SparseLinear(dense, middle, form, block).cycles(machine, {}) < limit else (low, middle - 1)
        found[name] = low / most
    return found

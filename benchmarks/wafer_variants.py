"""What the ways to serve the parts of a layer cost on the wafer, by the closed forms that the planner chooses with; nothing is run.

Every line is one part of a layer on one grid: *spread* has all rows on every line of PEs, *dealt* the same with activations or queries
dealt out, *tiles* are tile products, of which the cheapest counts. An MLP of whole rows is planned in tiles where they win. No plan has
tiles for an attention block (three projections, attention, output projection) or for the MLP of a chunk of a prompt; the latter's
weights lie as decoding wants them, so that its first product is the one with a transposed right side.

    python benchmarks/wafer_variants.py
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.kernels.attention import full_attention
from cgptc.backends.wafer.kernels.cannon import Cannon
from cgptc.backends.wafer.kernels.constant import WithConstant
from cgptc.backends.wafer.kernels.elementwise import Elementwise
from cgptc.backends.wafer.kernels.fragment import Grid, Kernel, Reduction, best_reduction, reductions
from cgptc.backends.wafer.kernels.gemm import Summa, Transposed
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.kernels.mlp import SpreadMlp, in_tiles
from cgptc.backends.wafer.kernels.own_rows import Dealt, OwnRows
from cgptc.backends.wafer.kernels.tiled_attention import TiledAttention
from cgptc.backends.wafer.machine import WSE2

WIDTHS = {128: 4, 256: 8, 768: 12}
"""And heads."""

ROWS = (16, 32, 64, 128)
SIDES = (8, 16, 32, 64)


@dataclass(frozen=True)
class Variant:
    """One part of a layer of ``width`` on ``side × side`` PEs, and the cycles of its variants for an item of ``rows``."""

    part: str
    width: int
    rows: int
    side: int
    dtype: str
    spread: int
    dealt: int
    tiles: int

    @property
    def won(self) -> float:
        """Of the cycles of the better of the others, those that tiles take."""
        return self.tiles / min(self.spread, self.dealt)


@dataclass(frozen=True)
class Case:
    """Sizes of a layer, a grid and an element type."""

    width: int
    rows: int
    side: int
    dtype: str

    @property
    def grid(self) -> Grid:
        return Grid(self.side, self.side)

    def cycles(self, *kernels: Kernel) -> int:
        return sum(kernel.cycles(WSE2, {}) for kernel in kernels)

    def merge(self, words: int) -> Reduction:
        return best_reduction(self.side, words, WSE2)

    def linear(self, k: int, n: int, *, along_y: bool = False) -> Linear:
        """A linear layer with a bias that adds up as is cheapest."""
        kernel = Linear(self.rows, k, n, self.grid, "y" if along_y else "x", self.dtype, bias=True)
        return replace(kernel, reduction=self.merge(self.rows * kernel.y_layout.local_shape[1]))

    def product(self, k: int, n: int) -> Kernel:
        """The cheapest product of tiles."""
        size = self.rows, k, n, self.grid
        candidates: list[Kernel] = [Summa(*size, self.dtype), *(Cannon(*size, ring, self.dtype) for ring in ("neighbour", "interleaved"))]
        return min(candidates, key=self.cycles)

    def bias(self, n: int) -> Kernel:
        return WithConstant("add", self.grid.tiled((self.rows, n), 0, 1), None, self.dtype)

    def dealing(self, local: int) -> tuple[int, int]:
        """Cycles of taking rows of ``local`` elements on a PE apart, and of all else around a kernel on own rows."""
        dealt = Dealt(self.rows, self.side, "x", self.dtype)
        one, two = (Elementwise(op, self.grid.spread((dealt.rows, self.side * local), "x"), self.dtype) for op in ("relu", "add"))
        merge = self.merge(dealt.words(local))
        single, double = (self.cycles(OwnRows(each, self.rows, "x", self.dtype, merge)) - self.cycles(each) for each in (one, two))
        return double - single, 2 * single - double

    def mlp(self, *, chunk: bool) -> Variant:
        """Two layers with an erf GELU between; of a ``chunk`` the weights lie as they do for one token."""
        d, hidden = self.width, 4 * self.width
        every = SpreadMlp(self.linear(d, hidden), "gelu", self.linear(hidden, d, along_y=True))
        words = format_of(self.dtype).words(self.rows * every.up.y_layout.local_shape[1])
        spread, dealt = self.cycles(every), self.cycles(replace(every, dealt=self.merge(words)))
        if chunk:
            up, down = Transposed(self.rows, d, hidden, self.grid, self.dtype), Summa(self.rows, hidden, d, self.grid, self.dtype)
            between = Elementwise("gelu", self.grid.tiled((self.rows, hidden), 0, 1), self.dtype)
            tiles = sum(self.dealing(math.ceil(d / self.side))) + self.cycles(up, self.bias(hidden), between, down, self.bias(d))
        else:
            merge = self.merge(format_of(self.dtype).words(self.rows * math.ceil(d / self.side)))
            tiles = min(self.cycles(replace(one, reduction=merge)) for one in in_tiles(every))
        return Variant("mlp of a prompt" if chunk else "mlp", d, self.rows, self.side, self.dtype, spread, dealt, tiles)

    def attention(self) -> Variant:
        """Four projections and full attention."""
        d, heads = self.width, WIDTHS[self.width]
        size = self.rows, self.rows, heads, heads, d // heads, 1.0, self.grid
        along_y, along_x = (full_attention(*size, along=along, dtype=self.dtype, masked=True) for along in ("y", "x"))
        keys = min(self.cycles(replace(along_y, reduction=one)) for one in reductions(self.side))
        projections = self.cycles(*(3 * [self.linear(d, d)]), self.linear(d, d, along_y=True))
        merge = self.merge(format_of(self.dtype).words(self.rows * along_y.q_layout.local_shape[1]))
        dealt = self.cycles(TiledAttention(along_y, merge))
        # In tiles the queries are apart already, and so is what the output projection takes; keys and values must come together.
        local = along_x.q_layout.local_shape[1]
        alone = self.cycles(TiledAttention(along_x, self.merge(format_of(self.dtype).words(self.rows * local)))) - sum(self.dealing(local))
        apart, together = self.dealing(math.ceil(d / self.side))
        tiles = 4 * self.cycles(self.product(d, d), self.bias(d)) + apart + 3 * together + alone
        return Variant("attention", d, self.rows, self.side, self.dtype, projections + keys, projections + dealt, tiles)


def variants() -> Iterator[Variant]:
    """All of them: whole rows, and chunks of prompts."""
    for dtype in ("f32", "f16"):
        for width in WIDTHS:
            for rows in ROWS:
                for side in SIDES:
                    case = Case(width, rows, side, dtype)
                    yield case.mlp(chunk=False)
                    yield case.attention()
                    if rows <= 64:
                        yield case.mlp(chunk=True)


def main() -> None:
    found = list(variants())
    for part in dict.fromkeys(one.part for one in found):
        print(f"\n{part}: cycles spread, dealt, in tiles")
        mine = [one for one in found if one.part == part]
        for one in mine:
            shape = f"{one.dtype} {one.width:4} wide {one.rows:4} rows {one.side:3} x {one.side}"
            print(f"  {shape} {one.spread:11,} {one.dealt:11,} {one.tiles:11,}  {one.won:6.2f}")
        best = min(mine, key=lambda one: one.won)
        wins = sum(one.won < 1 for one in mine)
        print(f"  tiles are cheapest in {wins} of {len(mine)}, at best {best.won:.2f} of the others' cycles")


if __name__ == "__main__":
    main()

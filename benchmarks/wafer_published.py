"""Published figures of wafer-scale machines beside those of the model, misses included.

R1 to R4 are what the model's formulas were fitted to (``fit``). R5 to R8 were looked at only afterwards (``held out``). Nothing here ran on
hardware; the sources of the published figures are listed in ``docs/machine.md``.

    python benchmarks/wafer_published.py
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

from cgptc.backends.wafer.affine import Affine
from cgptc.backends.wafer.arithmetic.instructions import Price
from cgptc.backends.wafer.arithmetic.sparse import sparse_cycles
from cgptc.backends.wafer.collectives import Pattern
from cgptc.backends.wafer.kernels.attention import CachedAttention
from cgptc.backends.wafer.kernels.cannon import Cannon
from cgptc.backends.wafer.kernels.elementwise import Elementwise
from cgptc.backends.wafer.kernels.fragment import Grid, Kernel, best_reduction, reductions
from cgptc.backends.wafer.kernels.gated import Gated
from cgptc.backends.wafer.kernels.gemm import Summa, Transposed
from cgptc.backends.wafer.kernels.linear import Linear, candidates
from cgptc.backends.wafer.kernels.norm import Norm
from cgptc.backends.wafer.kernels.softmax import Softmax
from cgptc.backends.wafer.machine import WSE2, Machine

PUBLISHED_CLOCK = 1.1e9
"""The clock that R5 to R7 were published at; they are compared in cycles."""


@dataclass(frozen=True)
class Row:
    """One comparison. ``published`` and ``modelled`` are in ``unit``; ``note`` says what stands in the way of a fair one.

    What the model has no form for is NaN: it is shown, and in no mean.
    """

    name: str
    published: float
    modelled: float
    unit: str = "cycles"
    note: str = ""

    @property
    def error(self) -> float:
        return self.modelled / self.published - 1


def reductions_r1() -> Iterator[Row]:
    """Two-phase reduction of 4,096 f32 on 512 PEs by group size; one group of 512 is a chain."""
    published = {2: 10055, 4: 9421, 8: 9117, 16: 8989, 32: 8973, 64: 9061, 128: 9297, 256: 9800, 512: 7218}
    for group, cycles in published.items():
        pattern = Pattern("reduce", "chain", 512) if group == 512 else Pattern("reduce", "two-phase", 512, group=group)
        yield Row(f"512 PEs, 4096 f32, groups of {group}", cycles, pattern.cycles(4096, WSE2))


def vectors_r2() -> Iterator[Row]:
    """f32 products of vectors. The model has the aligned form only; conflicts of memory banks are not modelled."""
    yield Row("5124 products, aligned", 2597, WSE2.vector_cycles("f32", 5124))
    for count, cycles in ((5124, 5130), (5124, 10254), (1028, 1034), (1028, 2062)):
        yield Row(f"{count} products, other alignments", cycles, math.nan, note="not modelled: buffers are aligned")


def tiles_r3() -> Iterator[Row]:
    """Dense f32 tile products by strided columns."""
    for m, k, n, cycles in ((64, 48, 64, 476_866), (128, 8, 64, 150_760)):
        yield Row(f"({m}x{k})({k}x{n})", cycles, WSE2.mac_cycles("f32", k * n, m, aligned=False))


def sparse_r4() -> Iterator[Row]:
    """Sparse tiles R x K times dense K x M, average PE."""
    rows = (
        ("96x48,68,5", 34042), ("128x16,68,5", 20298), ("64x12,132,10", 19856), ("128x16,68,10", 32674), ("24x16,260,20", 29416),
        ("64x64,68,20", 101805), ("32x8,260,30", 29879),
    )  # fmt: skip
    columns = (
        ("128x24,68,5", 21216), ("128x16,68,5", 14649), ("64x12,132,10", 17205), ("128x16,68,10", 26935), ("24x16,260,20", 29092),
        ("128x16,68,20", 51512), ("32x8,260,30", 28669),
    )  # fmt: skip
    for order, runs in (("rows", rows), ("columns", columns)):
        for name, cycles in runs:
            tile, m, density = name.split(",")
            outputs, inputs = (int(size) for size in tile.split("x"))
            entries = round(outputs * inputs * int(density) / 100)
            price = Price(WSE2, "f32", (int(m), outputs), ((int(m), outputs), (int(m), inputs), (entries,), (entries,)), {"order": order})
            yield Row(f"by {order}, {tile} times {m}, {density} %", cycles, sparse_cycles(price))


@dataclass(frozen=True)
class Sizes:
    """A published model: width, width of the MLP, layers."""

    name: str
    width: int
    inner: int
    layers: int

    def padded(self, side: int) -> Sizes:
        """As the published runs padded it: to multiples of the grid's side."""
        return replace(self, width=math.ceil(self.width / side) * side, inner=math.ceil(self.inner / side) * side)


LLAMA_8B, LLAMA_13B = Sizes("LLaMA3-8B", 4096, 14336, 32), Sizes("LLaMA2-13B", 5120, 13824, 40)
LLAMA_34B, QWEN_72B = Sizes("CodeLLaMA-34B", 8192, 22016, 48), Sizes("Qwen2-72B", 8192, 29568, 80)


def decode_layer(sizes: Sizes, side: int, context: int, machine: Machine) -> list[Kernel]:
    """One token through one layer as it was timed: one head as wide as the model, no grouped heads, f16."""
    grid = Grid(side, side)
    model = sizes.padded(side)
    d, f = model.width, model.inner
    slots = math.ceil(context / side)

    def linear(k: int, n: int, along: str) -> Linear:
        return min(candidates(1, k, n, grid, along, "f16", "f16", bias=False), key=lambda one: one.cycles(machine, {}))  # type: ignore[arg-type]

    norm = min((Norm(1, d, grid, "x", "f16", "rms", one, bias=False) for one in reductions(side)), key=lambda one: one.cycles(machine, {}))
    attention = CachedAttention(1, 1, 1, d, slots * side, d**-0.5, grid, Affine(context - 1), "y", "f16")
    attention = replace(
        attention,
        reduction=best_reduction(side, attention.piece + 1, machine),
        head_reduction=best_reduction(attention.segment, slots, machine),
    )
    residual = Elementwise("add", grid.spread((1, d), "x"), "f16")
    gate = Gated("silu", grid.spread((1, f), "y"), "f16")
    return [
        norm,
        linear(d, 3 * d, "x"),
        attention,
        linear(d, d, "y"),
        residual,
        norm,
        linear(d, 2 * f, "x"),
        gate,
        linear(f, d, "y"),
        residual,
    ]


def decode_r5() -> Iterator[Row]:
    """Decoding at a context of 4,096: cycles of a layer."""
    published = {
        LLAMA_8B: {420: 12732, 540: 13742, 660: 15323},
        LLAMA_13B: {420: 13486, 540: 14478, 660: 15806},
        LLAMA_34B: {420: 15796, 540: 16280, 660: 16860},
        QWEN_72B: {420: 16375, 540: 16681, 660: 17469},
    }
    for sizes, sides in published.items():
        for side, cycles in sides.items():
            found = sum(kernel.cycles(WSE2, {}) for kernel in decode_layer(sizes, side, 4096, WSE2))
            note = "scaled from some layers" if sizes in (LLAMA_34B, QWEN_72B) else ""
            yield Row(f"decode, {sizes.name}, {side} x {side}", cycles, found, note=note)


def prefill_layer(sizes: Sizes, side: int, tokens: int) -> list[Kernel]:
    """A prompt through one layer: all matrices in tiles, products on the interleaved ring, f16."""
    grid, model, rows = Grid(side, side), sizes.padded(side), math.ceil(tokens / side)
    d, f = model.width, model.inner

    def product(k: int, n: int) -> Cannon:
        return Cannon(tokens, k, n, grid, "interleaved", "f16", "f16")

    norm = Norm(rows, d, Grid(1, side), "x", "f16", "rms", best_reduction(side, rows, WSE2), bias=False)
    softmax = Softmax(rows, tokens, Grid(1, side), "x", "f16", best_reduction(side, rows, WSE2))
    gate = Gated("silu", grid.tiled((tokens, f), 0, 1), "f16")
    residual = Elementwise("add", grid.tiled((tokens, d), 0, 1), "f16")
    scores = Transposed(tokens, d, tokens, grid, "f16", "f16")
    attend = [scores, softmax, product(tokens, d), product(d, d), residual]
    return [norm, *(product(d, d) for _ in "qkv"), *attend, norm, product(d, f), product(d, f), gate, product(f, d), residual]


def prefill_r6() -> Iterator[Row]:
    """A prompt of 4,096 tokens: cycles of a layer."""
    published = {
        LLAMA_8B: {480: 6.93e6, 600: 5.62e6, 720: 5.09e6},
        LLAMA_13B: {480: 8.23e6, 600: 6.68e6, 720: 6.44e6},
        LLAMA_34B: {480: 17.16e6, 600: 12.45e6, 720: 11.01e6},
        QWEN_72B: {480: 20.22e6, 600: 14.92e6, 720: 12.74e6},
    }
    for sizes, sides in published.items():
        for side, cycles in sides.items():
            found = sum(kernel.cycles(WSE2, {}) for kernel in prefill_layer(sizes, side, 4096))
            yield Row(f"prefill, {sizes.name}, {side} x {side}", cycles, found, note="full scores, no causal skipping")


def products_r7() -> Iterator[Row]:
    """Products of a vector at the best grid that holds the matrix, in f16."""
    for size, cycles in ((16384, 1320), (32768, 2233)):
        best: tuple[int, int] | None = None
        for side in range(100, 741, 20):
            kernels = candidates(1, size, size, Grid(side, side), "x", "f16", "f16", bias=False)
            fitting = [one.cycles(WSE2, {}) for one in kernels if one.fragment("g").bytes <= WSE2.usable_bytes]
            if fitting and (best is None or min(fitting) < best[0]):
                best = (min(fitting), side)
        assert best is not None
        yield Row(f"vector times {size} x {size}", cycles, best[0], note=f"grid not published; best here {best[1]} x {best[1]}")


def orders_r7() -> Iterator[str]:
    """Which matrix product is faster, as published and here."""
    for size in (2048, 4096, 8192):
        for side in (360, 720):
            grid = Grid(side, side)
            ring, plain = (Cannon(size, size, size, grid, kind, "f16", "f16").cycles(WSE2, {}) for kind in ("interleaved", "neighbour"))  # type: ignore[arg-type]
            panels = Summa(size, size, size, grid, "f16", "f16").cycles(WSE2, {})
            others = f"Cannon {plain:>10,} ({plain / ring:.2f} x)   SUMMA {panels:>10,} ({panels / ring:.2f} x)"
            yield f"{size:>6}  {side} x {side}   interleaved {ring:>10,}   {others}"


def products_r8() -> Iterator[Row]:
    """33,000 x 33,000 in f32 on 750 x 750 PEs, in TFLOP/s at 0.85 GHz, by both prices of a dense product."""
    for aligned, price in ((True, "streamed"), (False, "by strided columns")):
        kernel = Cannon(33000, 33000, 33000, Grid(750, 750), "interleaved", aligned=aligned)
        rate = 2 * 33000**3 / WSE2.seconds(kernel.cycles(WSE2, {})) / 1e12
        note = f"{kernel.fragment('g').bytes:,} B per PE, {WSE2.usable_bytes:,} usable: needs copies that share room"
        yield Row(f"SGEMM of 33,000, 750 x 750, {price}", 349.0, rate, "TFLOP/s", note)


def fitted(rows: list[Row], allreduces: int) -> tuple[float, list[Row]]:
    """The rows with the one overhead per allreduce that fits them best, in the sense of squared relative errors."""
    top = sum(allreduces * (row.published - row.modelled) / row.published**2 for row in rows)
    overhead = top / sum(allreduces**2 / row.published**2 for row in rows)
    return overhead, [replace(row, modelled=row.modelled + allreduces * overhead) for row in rows]


def show(title: str, rows: list[Row]) -> None:
    print(f"\n{title}")
    for row in rows:
        note = f"   {row.note}" if row.note else ""
        if math.isnan(row.modelled):
            print(f"  {row.name:<46}{row.published:>14,.0f}{'–':>14} {row.unit:<8}{'':>8}{note}")
        else:
            print(f"  {row.name:<46}{row.published:>14,.0f}{row.modelled:>14,.0f} {row.unit:<8}{row.error:>+8.1%}{note}")
    errors = [abs(row.error) for row in rows if not math.isnan(row.modelled)]
    print(f"  {'mean error':<46}{'':>28} {'':<8}{sum(errors) / len(errors):>8.1%}   worst {max(errors):.1%}")


def across(rows: list[Row]) -> None:
    """How cycles grow with the grid, published and modelled: what no single overhead can hide."""
    for first in range(0, len(rows), 3):
        group = rows[first : first + 3]
        for row in group[1:]:
            published, modelled = row.published / group[0].published, row.modelled / group[0].modelled
            print(f"  {row.name:<46}{published:>14.3f}{modelled:>14.3f} {'ratio':<8}{modelled / published - 1:>+8.1%}")


def main() -> None:
    print("Modelled machine, not run on hardware, not affiliated with Cerebras. Columns: published, modelled, error.")
    show("R1  fit: two-phase reduction", list(reductions_r1()))
    show("R2  fit: vector products", list(vectors_r2()))
    show("R3  fit: dense tiles", list(tiles_r3()))
    show("R4  fit: sparse tiles", list(sparse_r4()))
    decode = list(decode_r5())
    show("R5  held out: decoding, cycles of a layer", decode)
    overhead, adjusted = fitted(decode, 10)
    show(f"R5  held out, after one overhead of {overhead:,.0f} cycles per allreduce (ten in a layer)", adjusted)
    print("\nR5  held out: growth with the grid, against the smallest one, with that overhead")
    across(adjusted)
    show("R6  held out: prefill, cycles of a layer", list(prefill_r6()))
    show("R7  held out: vector times matrix", list(products_r7()))
    print("\nR7  held out: products of matrices. Published: the interleaved ring 2 to 3 times faster, the others slower at 720 for 2048")
    for line in orders_r7():
        print(f"  {line}")
    show("R8  held out: matrix product", list(products_r8()))
    print("\nNot compared: R7's end-to-end rates (chunks and mixes of requests), R8's TLR-MVM, FFT and 8 x 8 attention graph (no kernels).")


if __name__ == "__main__":
    main()

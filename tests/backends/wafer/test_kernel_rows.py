"""Kernels with room for m rows, of which an item has fewer: the bits of a kernel that has room for no more, and cycles of those rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from tests.backends.wafer.harness import check_cycles, run_both

from cgptc.backends.wafer.affine import Affine, var
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.interpret.fast import FastEngine
from cgptc.backends.wafer.kernels.assembly import single_region
from cgptc.backends.wafer.kernels.attention import CachedAttention, full_attention
from cgptc.backends.wafer.kernels.constant import WithConstant
from cgptc.backends.wafer.kernels.elementwise import Elementwise
from cgptc.backends.wafer.kernels.embedding import Embedding
from cgptc.backends.wafer.kernels.fragment import Fragment, Grid, Kernel
from cgptc.backends.wafer.kernels.gated import Gated
from cgptc.backends.wafer.kernels.head_norm import HeadNorm
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.kernels.loss import CrossEntropy, SquaredError
from cgptc.backends.wafer.kernels.mlp import Product, SpreadMlp, TiledMlp
from cgptc.backends.wafer.kernels.norm import Norm
from cgptc.backends.wafer.kernels.own_rows import Dealt, OwnRows
from cgptc.backends.wafer.kernels.pooling import Pool
from cgptc.backends.wafer.kernels.rearrange import JoinFeatures, Piece, ShiftRows
from cgptc.backends.wafer.kernels.rotary import Rotary
from cgptc.backends.wafer.kernels.softmax import Softmax
from cgptc.backends.wafer.kernels.sparse import SparseLinear
from cgptc.backends.wafer.kernels.tiled_attention import TiledAttention
from cgptc.backends.wafer.kernels.turn import Turn
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.program import Scalar
from cgptc.testing.tolerances import assert_t2

MACHINE = small_machine(4, 4)
GRID = Grid(2, 3)
MOST, TIME = 6, "time"

Rows = Affine | None
Made = Callable[[int, Rows], Kernel]


def _attention(m: int, rows: Rows, **more: object) -> CachedAttention:
    return full_attention(m, m, 2, 2, 2, 0.5, GRID, masked=True, query_rows=rows, key_rows=rows, **more)  # type: ignore[arg-type]


def _layer(m: int, rows: Rows) -> Linear:
    return Linear(m, 5, 4, GRID, "x", "f16", "f32", bias=True, rows=rows)


def _mlp(m: int, rows: Rows) -> SpreadMlp:
    return SpreadMlp(Linear(m, 5, 7, GRID, rows=rows), "gelu", Linear(m, 7, 5, GRID, "y", bias=True, rows=rows))


def _tiles(m: int, rows: Rows, product: Product) -> TiledMlp:
    return TiledMlp(m, 5, 7, 5, "silu", Grid(2, 2), product, gated=True, rows=rows)


def _own_norm(m: int, rows: Rows) -> OwnRows:
    dealt = Dealt(m, GRID.height, "x", "f32", rows)
    return OwnRows(Norm(dealt.rows, 5, GRID, rows=dealt.own), m, "x", "f32", rows=rows)


KERNELS: dict[str, Made] = {
    "linear": _layer,
    "sparse": lambda m, rows: SparseLinear(_layer(m, rows), 3),
    "spread": _mlp,
    "tiles": lambda m, rows: _tiles(m, rows, "summa"),
    "tiles on a ring": lambda m, rows: _tiles(m, rows, "interleaved"),
    "norm": lambda m, rows: Norm(m, 5, GRID, statistics="two-pass", rows=rows),
    "packed norm": lambda m, rows: Norm(m, 5, GRID, dtype="f16", rows=rows),
    "rms": lambda m, rows: Norm(m, 5, GRID, "y", statistics="rms", bias=False, rows=rows),
    "elementwise": lambda m, rows: Elementwise("reciprocal", GRID.spread((m, 5), "x"), rows=rows),
    "relu": lambda m, rows: Elementwise("relu", GRID.spread((m, 5), "y"), rows=rows),
    "constant": lambda m, rows: WithConstant("sub", GRID.spread((m, 5), "x"), None, reverse=True, rows=rows),
    "gate": lambda m, rows: Gated("silu", GRID.spread((m, 5), "x"), "f16", rows=rows),
    "turn": lambda m, rows: Turn(m, 5, GRID, rows=rows),
    "softmax": lambda m, rows: Softmax(m, 5, GRID, rows=rows),
    "log softmax": lambda m, rows: Softmax(m, 5, GRID, log=True, rows=rows),
    "embedding": lambda m, rows: Embedding(m, 9, 5, GRID, rows=rows),
    "positions": lambda m, rows: Embedding(m, 9, 5, GRID, position=Affine(2), rows=rows),
    "mean": lambda m, rows: Pool(m, 5, GRID, masked=True, rows=rows),
    "sum": lambda m, rows: Pool(m, 5, GRID, mode="sum", rows=rows),
    "largest": lambda m, rows: Pool(m, 5, GRID, mode="max", masked=True, rows=rows),
    "last": lambda m, rows: Pool(m, 5, GRID, mode="last", masked=True, rows=rows),
    "last of all": lambda m, rows: Pool(m, 5, GRID, mode="last", rows=rows),
    "row": lambda m, rows: Pool(m, 5, GRID, mode="row", at=0, rows=rows),
    "joined features": lambda m, rows: JoinFeatures(m, (5, 3), (Piece(1, 0, 3), Piece(0, 1, 2, 3)), GRID, rows=rows),
    "shifted rows": lambda m, rows: ShiftRows(m, 5, 1, GRID, rows=rows),
    "entropy": lambda m, rows: CrossEntropy(m, 5, GRID, smoothing=0.1, running=True, rows=rows),
    "squares": lambda m, rows: SquaredError(m, 5, GRID, running=True, masked=True, rows=rows),
    "a norm of own rows": lambda m, rows: _own_norm(m, rows),
    "attention": _attention,
    "causal attention": lambda m, rows: _attention(m, rows, causal=True, window=2, biased=1),
    "attention in tiles": lambda m, rows: TiledAttention(_attention(m, rows)),
    "causal attention in tiles": lambda m, rows: TiledAttention(_attention(m, rows, causal=True, biased=2)),
    "head norm": lambda m, rows: HeadNorm(_attention(m, rows), keys=True),
    "rotary": lambda m, rows: Rotary(_attention(m, rows, unit=2)),
}


def _tensors(fragment: Fragment, kinds: tuple[str, ...], seed: int) -> dict[str, np.ndarray]:
    """Small whole numbers for every slot of these kinds, alike for slots of one name; none where another slot gives it."""
    buffers = {one.name: one for one in fragment.buffers}
    found = {}
    for number, slot in enumerate(slot for kind in kinds for slot in getattr(fragment, kind)):
        random, kind = np.random.default_rng(seed + number), buffers[slot.buffer].dtype
        whole = random.integers(0, 4, slot.layout.shape)
        found[slot.buffer] = whole.astype(np.int32) if kind == "i32" else whole.astype(np.float16 if kind == "f16" else np.float32)
    return found


@pytest.mark.parametrize("name", KERNELS)
def test_of_a_few_rows_a_kernel_makes_what_one_without_room_for_more_makes(name: str) -> None:
    kernel = KERNELS[name](MOST, var(TIME))
    fragment = kernel.fragment("k")
    program = single_region(MACHINE, [fragment], scalars=[Scalar(TIME, 1, MOST)])
    weights, inputs = _tensors(fragment, ("weights",), 1), _tensors(fragment, ("inputs",), 2)
    for count in (1, 4, MOST):
        few = KERNELS[name](count, None)
        made = single_region(MACHINE, [few.fragment("k")])
        cut = {role: part for role, part in weights.items() if role != "k.bias" or part.ndim < 3}
        cut |= {role: part[:, :count, :count] for role, part in weights.items() if role not in cut}
        engine = FastEngine(made)
        engine.load(cut)
        expected = engine.run("run", {role: part[:count] for role, part in inputs.items()}, {}).outputs["k.y"]
        run = (
            run_both(program, weights, inputs, {TIME: count}, schedules=()) if count != 4 else run_both(program, weights, inputs, {TIME: 4})
        )
        np.testing.assert_array_equal(run.outputs["k.y"], expected, err_msg=f"{count} rows")
        check_cycles(kernel, run, {TIME: count})
    assert kernel.cycles(MACHINE, {TIME: 1}) <= kernel.cycles(MACHINE, {TIME: MOST})


def test_queries_and_keys_of_different_sequences_have_lengths_of_their_own() -> None:
    random = np.random.default_rng(4)
    kernel = full_attention(5, 7, 2, 2, 2, 0.5, GRID, masked=True, query_rows=var("to"), key_rows=var("from"))
    program = single_region(MACHINE, [kernel.fragment("a")], scalars=[Scalar("from", 1, 7), Scalar("to", 1, 5)])
    inputs = {f"a.{role}": random.standard_normal((size, 4)).astype(np.float32) for role, size in (("q", 5), ("k", 7), ("v", 7))}
    cycles = {}
    for queries, keys in ((2, 7), (5, 3), (2, 3)):
        mask = (np.arange(7) < keys - 1).astype(np.float32)
        run = run_both(program, {}, {**inputs, "a.mask": mask}, {"from": keys, "to": queries}, schedules=())
        check_cycles(kernel, run, {"from": keys, "to": queries})
        cycles[queries, keys] = run.account.timeline.cycles
        q, k, v = (inputs[f"a.{role}"].reshape(-1, 2, 2).astype(float) for role in "qkv")
        scores = np.exp(0.5 * np.einsum("qhd,khd->hqk", q[:queries], k[: keys - 1]))
        expected = np.einsum("hqk,khd->qhd", scores / scores.sum(axis=2, keepdims=True), v[: keys - 1]).reshape(queries, 4)
        # A score off by e makes a weight off by about e, relatively.
        terms = 1 + 0.5 * np.einsum("qhd,khd->qhk", abs(q[:queries]), abs(k[: keys - 1])).max(axis=2, keepdims=True)
        size = (terms * abs(v[: keys - 1]).max(axis=(0, 2))[:, None]).repeat(2, axis=2).reshape(queries, 4)
        assert_t2(expected, run.outputs["a.y"], magnitude=size, terms=keys + 2, function="exp")
    assert cycles[2, 3] < min(cycles[2, 7], cycles[5, 3])


def test_kernels_that_would_count_rows_that_are_not_there_are_refused() -> None:
    rows = var(TIME)
    with pytest.raises(ProgramError, match="told which are real"):
        Pool(MOST, 5, GRID, mode="mean", rows=rows)
    with pytest.raises(ProgramError, match="run on over items"):
        SquaredError(MOST, 5, GRID, rows=rows)
    with pytest.raises(ProgramError, match="no common numbering"):
        replace(_attention(MOST, rows, causal=True), keys=None)
    with pytest.raises(ProgramError, match="no place in a cache"):
        CachedAttention(1, 1, 1, 2, 4, 1.0, Grid(1, 1), var("past"), keys=rows)

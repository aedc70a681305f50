"""Softmax, attention with a cache, and embedding: one set of bits, close to float64, cycles of the actual length."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.backends.wafer.harness import check_cycles, run_both, same_counts

from cgptc.backends.wafer.affine import Affine, var
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.interpret.fast import FastEngine
from cgptc.backends.wafer.interpret.pe import PeEngine
from cgptc.backends.wafer.interpret.schedules import backwards
from cgptc.backends.wafer.kernels.assembly import single_region
from cgptc.backends.wafer.kernels.attention import CachedAttention
from cgptc.backends.wafer.kernels.embedding import Embedding
from cgptc.backends.wafer.kernels.fragment import Grid, Reduction
from cgptc.backends.wafer.kernels.softmax import Softmax
from cgptc.backends.wafer.machine import doubled_sram, small_machine
from cgptc.backends.wafer.program import Scalar
from cgptc.backends.wafer.verify import verify

MACHINE = small_machine(8, 8)


def _softmax(x: np.ndarray) -> np.ndarray:
    shifted = np.exp(x - x.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


@pytest.mark.parametrize("along", ["x", "y"])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_softmax_ignores_padding_and_gives_zeros_for_a_masked_row(along: str, dtype: str) -> None:
    kernel = Softmax(3, 7, Grid(3, 4), along, dtype, Reduction("two-phase", 2))  # type: ignore[arg-type]
    storage = np.float32 if dtype == "f32" else np.float16
    x = (np.random.default_rng(1).normal(size=(3, 7)) * 3 - 8).astype(storage)
    x[1] = -np.inf
    x[2, :6] = -np.inf
    run = run_both(single_region(MACHINE, [kernel.fragment("s")]), {}, {"s.x": x})
    check_cycles(kernel, run)
    found = run.outputs["s.y"].astype(float)
    unit = 2.0**-24 if dtype == "f32" else 2.0**-11
    assert np.abs(found[0] - _softmax(x[0].astype(float))).max() <= 16 * unit
    assert (found[1] == 0).all()
    assert found[2].tolist() == [0, 0, 0, 0, 0, 0, 1]
    logarithm = replace(kernel, log=True)
    run = run_both(single_region(MACHINE, [logarithm.fragment("s")]), {}, {"s.x": x})
    check_cycles(logarithm, run)
    expected = np.stack([np.log(_softmax(x[0].astype(float))), np.full(7, -np.inf), [*[-np.inf] * 6, 0]])
    np.testing.assert_array_equal(np.isinf(expected), np.isinf(run.outputs["s.y"]))
    assert np.abs(expected[0] - run.outputs["s.y"][0]).max() <= 16 * unit * np.abs(expected[0]).max()


@pytest.mark.parametrize("along", ["x", "y"])
def test_embedding_gives_table_rows_bit_by_bit(along: str) -> None:
    table = np.random.default_rng(2).normal(size=(11, 6)).astype(np.float32)
    table[3, 2] = -0.0
    kernel = Embedding(4, 11, 6, Grid(3, 4), along)  # type: ignore[arg-type]
    ids = np.array([3, 0, 10, 3], np.int32)
    run = run_both(single_region(MACHINE, [kernel.fragment("e")]), {"e.table": table}, {"e.ids": ids})
    np.testing.assert_array_equal(run.outputs["e.y"].view(np.uint32), table[ids].view(np.uint32))
    check_cycles(kernel, run)


def test_learned_positions_follow_the_scalar() -> None:
    table = np.random.default_rng(3).normal(size=(9, 5)).astype(np.float16)
    kernel = Embedding(2, 9, 5, Grid(2, 3), "y", "f16", Reduction("tree"), var("past"))
    program = single_region(MACHINE, [kernel.fragment("p")], scalars=[Scalar("past", 0, 7)])
    for past in (0, 7):
        run = run_both(program, {"p.table": table}, {}, {"past": past})
        np.testing.assert_array_equal(run.outputs["p.y"], table[past : past + 2])
    check_cycles(kernel, run, {"past": 7})


def _reference(
    kernel: CachedAttention, q: np.ndarray, k: np.ndarray, v: np.ndarray, bias: np.ndarray, start: int, first: int
) -> np.ndarray:
    """Float64 attention of queries at positions ``start …`` over all tokens given so far."""
    d, result = kernel.head_dim, np.zeros(q.shape)
    for head in range(kernel.heads):
        kv = head // kernel.group
        for i in range(len(q)):
            last = start + i if kernel.causal else len(k) - 1
            low = max(first, last - kernel.window + 1 if kernel.window else 0)
            seen = slice(low, last + 1)
            if low <= last:
                scores = k[seen, kv * d : kv * d + d] @ q[i, head * d : head * d + d] * kernel.scale
                weights = _softmax(scores + bias[head % len(bias), start + i, seen])
                result[i, head * d : head * d + d] = weights @ v[seen, kv * d : kv * d + d]
    return result


CASES = {
    "whole heads on a line": {"heads": 4, "kv_heads": 4, "head_dim": 3, "grid": Grid(2, 3)},
    "a head over several lines": {"heads": 2, "kv_heads": 2, "head_dim": 4, "grid": Grid(5, 3)},
    "grouped heads": {"heads": 4, "kv_heads": 2, "head_dim": 4, "grid": Grid(4, 2)},
    "features along x": {"heads": 2, "kv_heads": 1, "head_dim": 4, "grid": Grid(3, 4), "along": "x"},
    "a window": {"heads": 2, "kv_heads": 2, "head_dim": 2, "grid": Grid(2, 3), "window": 3},
    "padding": {"heads": 2, "kv_heads": 2, "head_dim": 2, "grid": Grid(2, 3), "first": var("first")},
    "no causality": {"heads": 2, "kv_heads": 2, "head_dim": 2, "grid": Grid(2, 3), "causal": False},
    "biases of each head": {"heads": 4, "kv_heads": 2, "head_dim": 4, "grid": Grid(5, 3), "biased": 4},
    "biases of all heads": {"heads": 2, "kv_heads": 1, "head_dim": 4, "grid": Grid(3, 2), "along": "x", "biased": 1},
}


def test_a_cache_that_shifts_sees_the_same_tokens_in_order_along_the_lines_for_more_cycles() -> None:
    random = np.random.default_rng(6)
    context, lines = 8, 3
    dealt = CachedAttention(1, 2, 2, 2, context, 0.5, Grid(2, lines), var("past"))
    shifted = replace(dealt, shifted=True)
    q, k, v = (random.normal(size=(context, 4)).astype(np.float32) for _ in range(3))
    program = single_region(MACHINE, [shifted.fragment("a")], scalars=[Scalar("past", 0, context - 1)])
    assert verify(program) == []
    fast, slow = FastEngine(program), PeEngine(program)
    for past in range(context):
        inputs = {f"a.{role}": one[past : past + 1] for role, one in (("q", q), ("k", k), ("v", v))}
        run, other = fast.run("run", inputs, {"past": past}), slow.run("run", inputs, {"past": past}, backwards)
        np.testing.assert_array_equal(run.outputs["a.y"], other.outputs["a.y"])
        same_counts(other, run)
        check_cycles(shifted, run, {"past": past})
        assert (dealt.cycles(MACHINE, {"past": past}) < run.account.timeline.cycles) is (past >= lines)
        wide = [one.astype(float) for one in (q[past : past + 1], k[: past + 1], v[: past + 1])]
        expected = _reference(shifted, *wide, np.zeros((1, context, context)), start=past, first=0)
        assert np.abs(run.outputs["a.y"] - expected).max() <= 64 * 2.0**-24 * np.abs(v).max()
        counts = [len(range(number, past + 1, lines)) for number in range(lines)]
        held = fast.tiles("region", "a.keys")[0].reshape(lines, -1, 2)
        along = np.concatenate([held[number, :count] for number, count in enumerate(counts)])
        np.testing.assert_array_equal(along, k[: past + 1, :2])


def test_a_cache_that_shifts_takes_one_token_and_no_window() -> None:
    for wrong in ({"m": 2}, {"window": 3}, {"kept": False, "position": Affine(), "context": 1}):
        given = {"m": 1, "context": 8, "position": var("past"), **wrong}
        with pytest.raises(ProgramError, match="shifts"):
            CachedAttention(heads=2, kv_heads=2, head_dim=2, scale=0.5, grid=Grid(2, 3), shifted=True, **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["f32", "f16", "f64"])
@pytest.mark.parametrize("name", CASES)
def test_attention_over_chunks_equals_attention_over_all_tokens(name: str, dtype: str) -> None:
    random = np.random.default_rng(5)
    m, context = 2, 8
    position = Affine(0, (("past", 1),))
    kernel = CachedAttention(m=m, context=context, scale=0.5, position=position, dtype=dtype, **CASES[name])  # type: ignore[arg-type]
    scalars = [Scalar("past", 0, context - m)] + ([Scalar("first", 0, 3)] if kernel.first is not None else [])
    machine = doubled_sram(MACHINE) if dtype == "f64" else MACHINE
    program = single_region(machine, [kernel.fragment("a")], scalars=scalars)
    assert verify(program) == []
    storage = {"f32": np.float32, "f16": np.float16, "f64": np.float64}[dtype]
    width, narrow = kernel.heads * kernel.head_dim, kernel.kv_heads * kernel.head_dim
    q, k, v = (random.normal(size=(context, size)).astype(storage) for size in (width, narrow, narrow))
    order = list(kernel.query_order())
    bias = random.normal(size=(max(1, kernel.biased), context, context)).astype(storage) * bool(kernel.biased)
    fast, slow = FastEngine(program), PeEngine(program)
    for engine in (fast, slow):
        engine.load({"a.bias": bias[list(kernel.bias_order())] if kernel.biased > 1 else bias} if kernel.biased else {})
    unit = {"f32": 2.0**-24, "f16": 2.0**-11, "f64": 2.0**-53}[dtype]
    spent = []
    for past in range(0, context, m):
        now = slice(past, past + m)
        values = {"past": past} | ({"first": 1} if kernel.first is not None else {})
        inputs = {"a.q": q[now][:, order], "a.k": k[now], "a.v": v[now]}
        run, other = fast.run("run", inputs, values), slow.run("run", inputs, values, backwards)
        np.testing.assert_array_equal(run.outputs["a.y"], other.outputs["a.y"])
        same_counts(other, run)
        check_cycles(kernel, run, values)
        spent.append(run.account.timeline.cycles)
        wide = [one.astype(float) for one in (q[now], k[: past + m], v[: past + m])]
        expected = _reference(kernel, *wide, bias.astype(float), start=past, first=values.get("first", 0))[:, order]
        assert np.abs(run.outputs["a.y"] - expected).max() <= 64 * unit * np.abs(v).max()
    assert spent == sorted(spent)
    assert spent[0] < spent[-1], "cycles are those of the tokens so far"
    np.testing.assert_array_equal(fast.tensor("a.keys"), k)

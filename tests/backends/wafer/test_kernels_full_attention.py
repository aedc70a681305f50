"""Attention over one item's own keys: encoders, whole prompts, cross attention, padding; keys dealt out, or queries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.backends.wafer.harness import check_cycles, run_both

from cgptc.backends.wafer.affine import var
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.assembly import single_region
from cgptc.backends.wafer.kernels.attention import CachedAttention, full_attention
from cgptc.backends.wafer.kernels.fragment import Grid, Reduction
from cgptc.backends.wafer.kernels.tiled_attention import TiledAttention
from cgptc.backends.wafer.machine import doubled_sram, small_machine
from cgptc.ir.dtypes import f32, f64
from cgptc.testing.tolerances import assert_t2

MACHINE = small_machine(8, 8)


def _reference(
    kernel: CachedAttention, q: np.ndarray, k: np.ndarray, v: np.ndarray, mask: np.ndarray, bias: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Float64 attention in the model's order of features, and the magnitude of its terms."""
    d, result, size = kernel.head_dim, np.zeros(q.shape), np.zeros(q.shape)
    for head in range(kernel.heads):
        part, kv = slice(head * d, head * d + d), slice(head // kernel.group * d, head // kernel.group * d + d)
        for i in range(len(q)):
            seen = [j for j in range(len(k)) if mask[j] and (not kernel.causal or j <= i) and (not kernel.window or j > i - kernel.window)]
            if seen:
                scores = k[seen, kv] @ q[i, part] * kernel.scale + bias[head % len(bias), i, seen]
                weights = np.exp(scores - scores.max())
                result[i, part] = weights / weights.sum() @ v[seen, kv]
                # A score off by e makes a weight off by about e, relatively.
                terms = np.abs(k[seen, kv]) @ np.abs(q[i, part]) * kernel.scale + np.abs(bias[head % len(bias), i, seen])
                size[i, part] = (1 + terms).max() * np.abs(v[seen, kv]).max()
    return result, size


CASES = {
    "an encoder": full_attention(5, 5, 4, 4, 3, 0.5, Grid(3, 2)),
    "an encoder with padding": full_attention(5, 5, 2, 2, 4, 0.5, Grid(5, 3), masked=True),
    "a whole prompt": full_attention(6, 6, 4, 2, 4, 0.4, Grid(2, 4), along="x", causal=True, reduction=Reduction("tree")),
    "a whole prompt with a window and padding": full_attention(6, 6, 2, 1, 2, 0.7, Grid(2, 3), causal=True, window=2, masked=True),
    "cross attention": full_attention(3, 7, 2, 2, 4, 0.5, Grid(4, 3)),
    "heads over many lines": replace(full_attention(2, 5, 2, 2, 4, 0.5, Grid(8, 2)), head_reduction=Reduction("two-phase", 2)),
    "cross attention to one key with padding": full_attention(4, 1, 2, 2, 4, 0.5, Grid(4, 3), masked=True),
    "more queries than keys": full_attention(7, 2, 4, 2, 2, 0.5, Grid(3, 5), along="x", masked=True),
    "biases of each head": full_attention(5, 7, 4, 2, 4, 0.5, Grid(8, 3), biased=4),
    "biases of three heads a line": full_attention(5, 5, 6, 6, 2, 0.5, Grid(3, 4), along="y", biased=6, masked=True),
    "biases of all heads": full_attention(5, 5, 4, 2, 4, 0.5, Grid(2, 5), along="x", biased=1),
}


@pytest.mark.parametrize("dtype", ["f32", "f16", "f64"])
@pytest.mark.parametrize("name", CASES)
def test_attention_without_a_cache_is_close_to_float64(name: str, dtype: str) -> None:
    kernel = replace(CASES[name], dtype=dtype)
    _check(kernel, kernel)


@pytest.mark.parametrize("name", CASES)
def test_attention_in_tiles_is_close_to_float64(name: str) -> None:
    kernel = replace(CASES[name], dtype={"biases of each head": "f16", "cross attention": "f64"}.get(name, "f32"))
    _check(kernel, TiledAttention(kernel, Reduction("tree")))


def _check(kernel: CachedAttention, served: CachedAttention | TiledAttention) -> None:
    """What serves ``kernel`` against its reference, on both engines."""
    random = np.random.default_rng(3)
    storage = format_of(kernel.dtype).storage
    wide, narrow = kernel.heads * kernel.head_dim, kernel.kv_heads * kernel.head_dim
    q, k, v = (random.normal(size=shape).astype(storage) for shape in ((kernel.m, wide), (kernel.new, narrow), (kernel.new, narrow)))
    mask = np.ones(kernel.new, storage)
    if kernel.masked:
        mask[random.integers(kernel.new)] = 0
    order = list(kernel.query_order())
    machine = doubled_sram(MACHINE) if kernel.dtype == "f64" else MACHINE
    bias = random.normal(size=(max(1, kernel.biased), kernel.m, kernel.new)).astype(storage) * bool(kernel.biased)
    weights = {"a.bias": bias[list(kernel.bias_order())] if kernel.biased > 1 else bias} if kernel.biased else {}
    run = run_both(single_region(machine, [served.fragment("a")]), weights, {"a.q": q[:, order], "a.k": k, "a.v": v, "a.mask": mask})
    check_cycles(served, run)
    expected, size = (one[:, order] for one in _reference(kernel, *(one.astype(float) for one in (q, k, v)), mask, bias.astype(float)))
    inner = f64 if kernel.dtype == "f64" else f32
    assert_t2(expected, run.outputs["a.y"], magnitude=size, terms=kernel.new + kernel.head_dim, accumulator=inner, function="exp")


@pytest.mark.parametrize("tiled", [False, True])
def test_where_all_keys_are_padding_the_result_is_zero(*, tiled: bool) -> None:
    case = CASES["an encoder with padding"]
    kernel = TiledAttention(case) if tiled else case
    random = np.random.default_rng(4)
    given = {f"a.{role}": random.normal(size=(5, 8)).astype(np.float32) for role in "qkv"}
    run = run_both(single_region(MACHINE, [kernel.fragment("a")]), {}, {**given, "a.mask": np.zeros(5, np.float32)})
    assert (run.outputs["a.y"] == 0).all()


@pytest.mark.parametrize("tiled", [False, True])
def test_padding_does_not_touch_what_others_see(*, tiled: bool) -> None:
    case = CASES["an encoder with padding"]
    kernel = TiledAttention(case) if tiled else case
    random = np.random.default_rng(5)
    program = single_region(MACHINE, [kernel.fragment("a")])
    given = {f"a.{role}": random.normal(size=(5, 8)).astype(np.float32) for role in "qkv"} | {
        "a.mask": np.array([0, 1, 1, 0, 1], np.float32)
    }
    changed = {name: one.copy() for name, one in given.items()}
    for role in "kv":
        changed[f"a.{role}"][[0, 3]] = 1e3
    first, second = (run_both(program, {}, one, schedules=()).outputs["a.y"] for one in (given, changed))
    np.testing.assert_array_equal(first, second)


def test_combinations_without_a_meaning_are_refused() -> None:
    with pytest.raises(ProgramError, match="no common numbering"):
        full_attention(3, 4, 1, 1, 2, 1.0, Grid(1, 1), causal=True)
    with pytest.raises(ProgramError, match="begins at position 0"):
        CachedAttention(1, 1, 1, 2, 4, 1.0, Grid(1, 1), var("past"), kept=False)
    with pytest.raises(ProgramError, match="biases of 2 of 4 heads"):
        full_attention(3, 3, 4, 2, 2, 1.0, Grid(1, 1), biased=2)
    with pytest.raises(ProgramError, match="keeps no keys"):
        TiledAttention(CachedAttention(1, 1, 1, 2, 4, 1.0, Grid(1, 1), var("past")))

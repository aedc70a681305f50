"""Rotary positions with heads cut over PEs: both conventions, one set of bits, and attention that sees the model's scores."""

from __future__ import annotations

import numpy as np
import pytest
from tests.backends.wafer.harness import check_cycles, run_both

from cgptc.backends.wafer.affine import var
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.interpret.fast import FastEngine
from cgptc.backends.wafer.kernels.assembly import renamed, single_region
from cgptc.backends.wafer.kernels.attention import CachedAttention
from cgptc.backends.wafer.kernels.fragment import Grid, Reduction
from cgptc.backends.wafer.kernels.rotary import Rotary, pair_order
from cgptc.backends.wafer.machine import doubled_sram, small_machine
from cgptc.backends.wafer.program import Program, Scalar
from cgptc.ir.dtypes import f32, f64
from cgptc.testing.tolerances import assert_t2

MACHINE = small_machine(8, 8)
POSITIONS = 9


def _rotated(x: np.ndarray, position: int, rotated: int, *, interleaved: bool) -> tuple[np.ndarray, np.ndarray]:
    """Float64 rotation of ``x [m, heads, d]`` from ``position`` on, and per element the magnitude of its terms."""
    half = rotated // 2
    first = slice(0, rotated, 2) if interleaved else slice(0, half)
    second = slice(1, rotated, 2) if interleaved else slice(half, rotated)
    cosine, sine = (part[position : position + len(x), None].astype(float) for part in _angles(half, x.dtype))
    wide = x.astype(float)
    a, b = wide[..., first], wide[..., second]
    result, size = wide.copy(), np.abs(wide)
    result[..., first], size[..., first] = a * cosine - b * sine, np.abs(a * cosine) + np.abs(b * sine)
    result[..., second], size[..., second] = b * cosine + a * sine, np.abs(b * cosine) + np.abs(a * sine)
    return result, size


def _angles(pairs: int, dtype: object) -> tuple[np.ndarray, np.ndarray]:
    turns = np.arange(POSITIONS)[:, None] * 100.0 ** -(np.arange(pairs) / max(pairs, 1))
    return np.cos(turns).astype(dtype), np.sin(turns).astype(dtype)


CASES = {
    "whole heads on a line": ({"heads": 4, "kv_heads": 4, "head_dim": 6, "grid": Grid(2, 3)}, 6),
    "a head over several lines": ({"heads": 2, "kv_heads": 2, "head_dim": 12, "grid": Grid(7, 3)}, 12),
    "grouped heads along x": ({"heads": 4, "kv_heads": 2, "head_dim": 4, "grid": Grid(2, 5), "along": "x"}, 4),
    "some features only": ({"heads": 2, "kv_heads": 1, "head_dim": 8, "grid": Grid(4, 2)}, 4),
}


def _attention(name: str, dtype: str, m: int) -> CachedAttention:
    sizes = CASES[name][0]
    return CachedAttention(m=m, context=POSITIONS - 1, scale=0.5, position=var("past"), dtype=dtype, unit=2, **sizes)  # type: ignore[arg-type]


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", ["f32", "f16", "f64"])
@pytest.mark.parametrize("name", CASES)
def test_rotation_is_that_of_the_position(name: str, dtype: str, interleaved: bool) -> None:
    random = np.random.default_rng(1)
    rotated = CASES[name][1]
    attention = _attention(name, dtype, 2)
    storage = format_of(dtype).storage
    for keys in (False, True):
        kernel = Rotary(attention, keys)
        angles = kernel.angles(POSITIONS, var("past"), Reduction("two-phase", 2))
        fragments = [angles.fragment("t"), renamed(kernel.fragment("r"), {"r.angles": "t.y"})]
        machine = doubled_sram(MACHINE) if dtype == "f64" else MACHINE
        program = single_region(machine, fragments, scalars=[Scalar("past", 0, POSITIONS - 2)])
        heads = attention.kv_heads if keys else attention.heads
        within = pair_order(attention.head_dim, rotated, interleaved=interleaved)
        order = list(attention.key_order(within) if keys else attention.query_order(within))
        x = random.normal(size=(2, heads, attention.head_dim)).astype(storage)
        table = kernel.table(*_angles(rotated // 2, storage))
        run = run_both(program, {"t.table": table}, {"r.x": x.reshape(2, -1)[:, order]}, {"past": 5})
        expected, size = (one.reshape(2, -1)[:, order] for one in _rotated(x, 5, rotated, interleaved=interleaved))
        assert_t2(expected, run.outputs["r.y"], magnitude=size, terms=2, accumulator=f64 if dtype == "f64" else f32)


def test_cycles_are_those_of_the_closed_form() -> None:
    for name in CASES:
        for dtype in ("f32", "f16"):
            kernel = Rotary(_attention(name, dtype, 3))
            shapes = {slot.buffer: slot.layout.shape for slot in kernel.fragment("r").inputs}
            inputs = {buffer: np.ones(shape, format_of(dtype).storage) for buffer, shape in shapes.items()}
            check_cycles(kernel, run_both(single_region(MACHINE, [kernel.fragment("r")]), {}, inputs, schedules=()))


def _with_attention(attention: CachedAttention) -> Program:
    """Angles, rotated queries and keys, and attention over the rotated ones, in one region."""
    queries, keys = Rotary(attention), Rotary(attention, keys=True)
    fragments = [
        queries.angles(POSITIONS, var("past")).fragment("t"),
        renamed(queries.fragment("q"), {"q.angles": "t.y"}),
        renamed(keys.fragment("k"), {"k.angles": "t.y"}),
        renamed(attention.fragment("a"), {"a.q": "q.y", "a.k": "k.y"}),
    ]
    return single_region(MACHINE, fragments, scalars=[Scalar("past", 0, attention.context - attention.m)])


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_attention_over_rotated_heads_sees_the_scores_of_the_model(name: str, interleaved: bool) -> None:
    random = np.random.default_rng(2)
    rotated = CASES[name][1]
    attention = _attention(name, "f32", 2)
    d, heads, kv_heads = attention.head_dim, attention.heads, attention.kv_heads
    context = attention.context
    q, k, v = (random.normal(size=(context, size, d)).astype(np.float32) for size in (heads, kv_heads, kv_heads))
    within = pair_order(d, rotated, interleaved=interleaved)
    q_order, k_order = list(attention.query_order(within)), list(attention.key_order(within))
    engine = FastEngine(_with_attention(attention))
    engine.load({"t.table": Rotary(attention).table(*_angles(rotated // 2, np.float32))})
    wide_q, wide_k = (_rotated(one, 0, rotated, interleaved=interleaved)[0] for one in (q, k))
    for past in range(0, context, 2):
        now = slice(past, past + 2)
        given = {"q.x": q[now].reshape(2, -1)[:, q_order], "k.x": k[now].reshape(2, -1)[:, k_order], "a.v": v[now].reshape(2, -1)}
        found = engine.run("run", given, {"past": past}).outputs["a.y"]
        expected, size = np.zeros((2, heads, d)), np.zeros((2, heads, d))
        for row in range(2):
            for head in range(heads):
                seen, kv = past + row + 1, head // attention.group
                scores = wide_k[:seen, kv] @ wide_q[past + row, head] * 0.5
                weights = np.exp(scores - scores.max())
                expected[row, head] = weights @ v[:seen, kv] / weights.sum()
                size[row, head] = np.abs(v[:seen, kv]).max()
        order = list(attention.query_order())
        assert_t2(expected.reshape(2, -1)[:, order], found, magnitude=size.reshape(2, -1)[:, order], terms=64, accumulator=f32)


def test_pairs_that_a_line_would_cut_apart_are_refused() -> None:
    attention = CachedAttention(1, 1, 1, 4, 8, 1.0, Grid(4, 1), var("past"))
    with pytest.raises(ProgramError, match="cut pairs apart"):
        Rotary(attention)
    with pytest.raises(ProgramError, match="are not pairs"):
        pair_order(4, 3, interleaved=True)
    assert pair_order(6, 4, interleaved=False) == (0, 2, 1, 3, 4, 5)

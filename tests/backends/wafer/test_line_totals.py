"""The compiled reduction of whole lines against the one that goes message by message."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cgptc.backends.wafer.arithmetic import threads
from cgptc.backends.wafer.arithmetic.formats import BF16, COMBINERS, F16, F32, F64, I32, Format
from cgptc.backends.wafer.collectives import Algorithm, Combine, Pattern
from cgptc.backends.wafer.interpret import line_totals as module
from cgptc.backends.wafer.interpret.line_totals import line_totals, planes_like

FORMATS = (F32, F64, F16, BF16, I32)


@st.composite
def patterns(draw: st.DrawFn) -> Pattern:
    """Reductions of up to 40 positions."""
    algorithm: Algorithm = draw(st.sampled_from(["chain", "two-phase", "tree"]))
    size = draw(st.integers(1, 40))
    root = draw(st.integers(0, size - 1)) if algorithm == "chain" else draw(st.sampled_from([0, size - 1]))
    return Pattern("allreduce", algorithm, size, root, draw(st.integers(1, size)) if algorithm == "two-phase" else 0)


@given(
    patterns(),
    st.sampled_from(FORMATS),
    st.sampled_from(["add", "max", "or"]),
    st.tuples(st.integers(1, 3), st.integers(1, 35), st.lists(st.integers(1, 3), max_size=2)),
    st.booleans(),
    st.integers(0, 1 << 16),
)
@example(Pattern("allreduce", "two-phase", 256, 0, 16), F32, "add", (1, 33, [2, 3]), True, 0)
def test_a_root_gets_what_its_messages_bring(
    pattern: Pattern, form: Format, combine: Combine, sizes: tuple[int, int, list[int]], inner: bool, seed: int
) -> None:
    segments, lines, rest = sizes
    random = np.random.default_rng(seed)
    shape = (segments, pattern.size, lines, *rest)
    # Positions or lines lie next to one another in memory.
    memory = random.standard_normal((*rest, segments, lines, pattern.size) if inner else (*rest, segments, pattern.size, lines)) * 100
    memory[random.random(memory.shape) < 0.05] = np.inf
    memory[random.random(memory.shape) < 0.05] = 0.0
    carried = form.round(memory.astype(form.carrier) if form.is_float else random.integers(-(2**31), 2**31, memory.shape).astype(np.int32))
    payload = np.moveaxis(carried, (-3, -1, -2) if inner else (-3, -2, -1), (0, 1, 2))
    assert payload.shape == shape
    with np.errstate(all="ignore"):
        expected = planes_like(payload)
        pattern.apply(payload, expected, partial(COMBINERS[combine], form))
        found = line_totals(form, combine, pattern, payload)
    assert found.dtype == form.carrier
    np.testing.assert_array_equal(np.broadcast_to(found, shape), expected)
    np.testing.assert_array_equal(np.signbit(np.broadcast_to(found, shape)[expected == 0]), np.signbit(expected[expected == 0]))


@pytest.mark.parametrize("cores", [2, 5])
def test_threads_change_no_bit(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    pattern = Pattern("allreduce", "two-phase", 12, 0, 4)
    payload = np.moveaxis(np.random.default_rng(0).standard_normal((7, 2, 12, 5)).astype(np.float32), (-3, -2, -1), (0, 1, 2))
    alone = line_totals(F32, "add", pattern, payload)
    monkeypatch.setattr(threads, "CORES", cores)
    monkeypatch.setattr(module, "WORTH_A_THREAD", 1)
    np.testing.assert_array_equal(line_totals(F32, "add", pattern, payload), alone)

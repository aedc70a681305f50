"""Bugs in the wafer's kernels: what a tile computes, who adds up, which token lies where.

None is in a function whose results are kept between calls (placement, routes): they would outlive the bug.
"""

from cgptc.testing.seeded_bugs.bug import SeededBug

_ATTENTION = "tests/backends/wafer/test_kernels_attention.py::"
_LINEAR = "tests/backends/wafer/test_kernels_linear.py::"
_CHUNKS = f"{_ATTENTION}test_attention_over_chunks_equals_attention_over_all_tokens"

WAFER_BUGS = (
    SeededBug(
        name="wafer-softmax-padding-counted",
        where="cgptc.backends.wafer.kernels.softmax:Softmax.fragment",
        right='float("-inf")',
        wrong="0.0",
        killer=f"{_ATTENTION}test_softmax_ignores_padding_and_gives_zeros_for_a_masked_row",
    ),
    SeededBug(
        name="wafer-softmax-maxima-added-up",
        where="cgptc.backends.wafer.kernels.softmax:Softmax.fragment",
        right='self.reduction.step(self.along, rows, rows, "max")',
        wrong='self.reduction.step(self.along, rows, rows, "add")',
        killer=f"{_ATTENTION}test_softmax_ignores_padding_and_gives_zeros_for_a_masked_row",
    ),
    SeededBug(
        name="wafer-query-head-reads-its-neighbours-keys",
        where="cgptc.backends.wafer.kernels.attention:CachedAttention._product",
        right="head // self.group * piece",
        wrong="(head // self.group + 1) % self.heads_per_line * piece",
        killer=f"{_CHUNKS}[whole heads on a line-f32]",
    ),
    SeededBug(
        name="wafer-window-one-too-long",
        where="cgptc.backends.wafer.kernels.attention:CachedAttention._seen",
        right="token - query + (self.window - 1)",
        wrong="token - query + self.window",
        killer=f"{_CHUNKS}[a window-f32]",
    ),
    SeededBug(
        name="wafer-causality-forgotten",
        where="cgptc.backends.wafer.kernels.attention:CachedAttention._seen",
        right="query - token if self.causal else",
        wrong="query - token if False else",
        killer=f"{_CHUNKS}[whole heads on a line-f32]",
    ),
    SeededBug(
        name="wafer-token-in-its-neighbours-slot",
        where="cgptc.backends.wafer.kernels.attention:CachedAttention._append",
        right="line(token % self.token_lines)",
        wrong="line((token + 1) % self.token_lines)",
        killer=f"{_CHUNKS}[whole heads on a line-f32]",
    ),
    SeededBug(
        name="wafer-partial-sums-not-added",
        where="cgptc.backends.wafer.kernels.linear:Linear.fragment",
        right='self.reduction.step(self.along, sums, sums, "add")',
        wrong='self.reduction.step(self.along, sums, sums, "max")',
        killer=f"{_LINEAR}test_linear_is_exact_on_every_grid_ragged_ones_included[3-2]",
    ),
    SeededBug(
        name="wafer-rows-dealt-out-one-off",
        where="cgptc.backends.wafer.kernels.own_rows:Dealt.numbers",
        right='value=self._line + var("i0") * self.lines',
        wrong='value=self._line + var("i0") * self.lines + 1',
        killer="tests/backends/wafer/test_kernels_own_rows.py::test_own_rows_give_the_bits_of_all_rows[norm-6-x-f32]",
    ),
    SeededBug(
        name="wafer-norm-counts-padding",
        where="cgptc.backends.wafer.kernels.norm:Norm.fragment",
        right="scale = 1.0 / self.d",
        wrong="scale = 1.0 / (local * self.grid.lines(self.along))",
        killer=f"{_LINEAR}test_norms_are_close_to_float64_on_ragged_lines",
    ),
    SeededBug(
        name="wafer-rotary-pairs-of-the-other-kind",
        where="cgptc.backends.wafer.kernels.rotary:pair_order",
        right="if interleaved else",
        wrong="if not interleaved else",
        killer="tests/backends/wafer/test_kernels_rotary.py::test_rotation_is_that_of_the_position[whole heads on a line-f32-True]",
    ),
    SeededBug(
        name="wafer-last-element-of-a-cut-dropped",
        where="cgptc.backends.wafer.layout:Layout._indices",
        right="index < self.shape[axis]",
        wrong="index < self.shape[axis] - (cut is not None)",
        killer="tests/backends/wafer/test_drawn_programs.py::test_a_layout_places_every_element_once_and_gives_it_back",
    ),
)

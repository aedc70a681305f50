"""Bugs in what operations mean and in how they are spelled out."""

from cgptc.testing.seeded_bugs.bug import SeededBug

_SEMANTICS = "tests/ir/ops/test_semantics.py::"
_TORCH = "tests/ir/ops/test_against_torch.py::test_evaluation_agrees_with_torch"
_DECOMPOSITIONS = "tests/ir/ops/test_decompositions.py::test_a_decomposition_equals_its_operation"

OPS_BUGS = (
    SeededBug(
        name="softmax-over-the-wrong-axis",
        where="cgptc.ir.ops.reduction:Softmax.evaluate",
        right="np.sum(powers, axis=self.axis,",
        wrong="np.sum(powers, axis=0,",
        killer=f"{_TORCH}[softmax]",
    ),
    SeededBug(
        name="softmax-without-its-maximum",
        where="cgptc.ir.ops.reduction:log_softmax",
        right="x - np.max(x, axis=axis, keepdims=True, initial=-np.inf)",
        wrong="x - np.zeros_like(np.max(x, axis=axis, keepdims=True, initial=-np.inf))",
        killer="tests/ir/ops/test_large_numbers.py::test_a_softmax_of_large_numbers_does_not_overflow[log_softmax]",
    ),
    SeededBug(
        name="causal-mask-off-by-one",
        where="cgptc.ir.ops.attention:Attention.evaluate",
        right="key > place",
        wrong="key > place + 1",
        killer=f"{_SEMANTICS}test_decoding_with_a_past_equals_attending_at_once[1]",
    ),
    SeededBug(
        name="window-one-too-long",
        where="cgptc.ir.ops.attention:Attention.evaluate",
        right="key <= place - self.window",
        wrong="key < place - self.window",
        killer=f"{_SEMANTICS}test_a_window_of_one_sees_the_token_alone",
    ),
    SeededBug(
        name="past-not-counted-in-the-mask",
        where="cgptc.ir.ops.attention:Attention.evaluate",
        right="np.arange(length)[:, None] + (total - length)",
        wrong="np.arange(length)[:, None]",
        killer=f"{_SEMANTICS}test_decoding_with_a_past_equals_attending_at_once[None]",
    ),
    SeededBug(
        name="past-behind-the-new-keys",
        where="cgptc.ir.ops.attention:Attention.evaluate",
        right="[past_k, k]",
        wrong="[k, past_k]",
        killer=f"{_SEMANTICS}test_decoding_with_a_past_equals_attending_at_once[None]",
    ),
    SeededBug(
        name="fully-masked-row-not-zero",
        where="cgptc.ir.ops.attention:Attention.evaluate",
        right="highest == -np.inf",
        wrong="highest == np.inf",
        killer=f"{_SEMANTICS}test_a_query_that_sees_nothing_gets_zero",
    ),
    SeededBug(
        name="query-groups-interleaved",
        where="cgptc.ir.ops.attention:Attention.evaluate",
        right="stacked = widened(q).reshape(batch, kv_heads, heads // kv_heads * length, depth)",
        wrong="stacked = widened(q).reshape(batch, heads // kv_heads, kv_heads, length, depth).swapaxes(1, 2)"
        ".reshape(batch, kv_heads, heads // kv_heads * length, depth)",
        killer=f"{_SEMANTICS}test_head_h_reads_its_groups_keys",
    ),
    SeededBug(
        name="padding-mask-inverted-when-spelled-out",
        where="cgptc.ir.ops.attention:Attention.decompose",
        right="build(Reshape((batch, 1, 1, total)), mask), scores, hidden)",
        wrong="build(Reshape((batch, 1, 1, total)), mask), hidden, scores)",
        killer=f"{_DECOMPOSITIONS}[attention]",
    ),
    SeededBug(
        name="window-forgotten-when-spelled-out",
        where="cgptc.ir.ops.attention:Attention._visible",
        right="if self.window is None:",
        wrong="if True:",
        killer=f"{_DECOMPOSITIONS}[attention]",
    ),
    SeededBug(
        name="rotary-turns-backwards",
        where="cgptc.ir.ops.attention:Rotary.evaluate",
        right="wide[..., first] * cosine - wide[..., second] * sine",
        wrong="wide[..., first] * cosine + wide[..., second] * sine",
        killer=f"{_SEMANTICS}test_rotary_turns_the_pairs_that_its_layout_names",
    ),
    SeededBug(
        name="rotary-half-for-interleaved",
        where="cgptc.ir.ops.attention:Rotary.evaluate",
        right="if self.interleaved:",
        wrong="if False:",
        killer=f"{_SEMANTICS}test_rotary_turns_the_pairs_that_its_layout_names",
    ),
    SeededBug(
        name="layer-norm-unbiased-variance",
        where="cgptc.ir.ops.norm:LayerNorm.evaluate",
        right="np.mean(centred * centred, axis=-1, keepdims=True)",
        wrong="np.var(wide, axis=-1, keepdims=True, ddof=1 if wide.shape[-1] > 1 else 0)",
        killer=f"{_TORCH}[layer_norm]",
    ),
    SeededBug(
        name="layer-norm-eps-1e-6",
        where="cgptc.ir.ops.norm:LayerNorm.evaluate",
        right="+ self.eps",
        wrong="+ self.eps / 10",
        killer=f"{_TORCH}[layer_norm]",
    ),
    SeededBug(
        name="rms-norm-eps-outside-the-root",
        where="cgptc.ir.ops.norm:_over_root_mean_square",
        right="build(Sqrt(), build(Add(), mean, build.constant(eps, x.type.dtype)))",
        wrong="build(Add(), build(Sqrt(), mean), build.constant(eps, x.type.dtype))",
        killer=f"{_DECOMPOSITIONS}[rms_norm]",
    ),
    SeededBug(
        name="gelu-tanh-for-erf",
        where="cgptc.ir.ops.elementwise:Gelu.compute",
        right='self.approximate == "none"',
        wrong='self.approximate == "never"',
        killer=f"{_TORCH}[gelu]",
    ),
    SeededBug(
        name="positions-count-padding",
        where="cgptc.ir.ops.embedding:Positions.evaluate",
        right="np.cumsum(mask, axis=1, dtype=np.int64)",
        wrong="np.cumsum(np.ones_like(mask), axis=1, dtype=np.int64)",
        killer=f"{_SEMANTICS}test_positions_do_not_count_padding",
    ),
    SeededBug(
        name="ignored-rows-counted-in-the-mean",
        where="cgptc.ir.ops.loss:CrossEntropy.evaluate",
        right="np.count_nonzero(counted)",
        wrong="counted.size",
        killer=f"{_TORCH}[cross_entropy]",
    ),
    SeededBug(
        name="bias-dropped",
        where="cgptc.ir.ops.matmul:Linear.evaluate",
        right="bias is None",
        wrong="True",
        killer=f"{_TORCH}[linear]",
    ),
    SeededBug(
        name="strided-slice-starts-late",
        where="cgptc.ir.ops.shape:Slice.evaluate",
        right="slice(start, stop, self.step)",
        wrong="slice(start + self.step - 1, stop, self.step)",
        killer=f"{_DECOMPOSITIONS}[rotary]",
    ),
)

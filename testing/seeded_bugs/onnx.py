"""Bugs in what is written for onnxruntime."""

from cgptc.testing.seeded_bugs.bug import SeededBug

_MEANING = "tests/backends/onnx/test_random_graphs.py::test_any_case_of_an_operation_means_the_same"
_PADDED = "tests/backends/onnx/test_whole_models.py::test_padded_row_equals_the_row_alone"
_STEPS = "tests/backends/onnx/test_whole_models.py::test_prefill_and_decode_equal_the_full_run"

ONNX_BUGS = (
    SeededBug(
        name="onnx-future-key-seen",
        where="cgptc.backends.onnx.lowerings.attention_mask:near_keys",
        right="emit.GreaterOrEqual(ages, emit.scalar(0, ages))",
        wrong="emit.GreaterOrEqual(ages, emit.scalar(-1, ages))",
        killer=f"{_MEANING}[attention]",
    ),
    SeededBug(
        name="onnx-window-one-too-long",
        where="cgptc.backends.onnx.lowerings.attention_mask:near_keys",
        right="emit.Less(ages, emit.scalar(window, ages))",
        wrong="emit.LessOrEqual(ages, emit.scalar(window, ages))",
        killer=f"{_MEANING}[attention]",
    ),
    SeededBug(
        name="onnx-past-behind-the-new-keys",
        where="cgptc.backends.onnx.lowerings.attention:_spelled_out",
        right="emit.Concat(past_v, v, axis=2)",
        wrong="emit.Concat(v, past_v, axis=2)",
        killer=f"{_MEANING}[attention]",
    ),
    SeededBug(
        name="onnx-rotary-turns-backwards",
        where="cgptc.backends.onnx.lowerings.attention:_rotary_spelled_out",
        right="emit.Add(emit.Mul(second, cosines), emit.Mul(first, sines))",
        wrong="emit.Sub(emit.Mul(second, cosines), emit.Mul(first, sines))",
        killer=f"{_MEANING}[rotary]",
    ),
    SeededBug(
        name="onnx-rotary-passes-nothing-on",
        where="cgptc.backends.onnx.lowerings.attention:_rotary_spelled_out",
        right="slice_axis(emit, wide, 3, rotated, width)",
        wrong="slice_axis(emit, wide, 3, 0, width - rotated)",
        killer=f"{_MEANING}[rotary]",
    ),
    SeededBug(
        name="onnx-linear-bias-dropped",
        where="cgptc.backends.onnx.lowerings.matmul:_biased",
        right="if bias is None:",
        wrong="if True:",
        killer=f"{_MEANING}[linear]",
    ),
    SeededBug(
        name="onnx-norm-eps-forgotten",
        where="cgptc.backends.onnx.lowerings.norm:_layer_norm",
        right="emit.Add(variance, emit.scalar(op.eps, wide))",
        wrong="variance",
        killer=f"{_MEANING}[layer_norm]",
    ),
    SeededBug(
        name="onnx-positions-from-one",
        where="cgptc.backends.onnx.lowerings.embedding:_positions",
        right="emit.Sub(emit.CumSum(emit.cast(mask, i64), one), one)",
        wrong="emit.CumSum(emit.cast(mask, i64), one)",
        killer=f"{_MEANING}[positions]",
    ),
    SeededBug(
        name="onnx-padding-seen-by-grouped-queries",
        where="cgptc.backends.onnx.lowerings.grouped_query:_bias",
        right="if mask is None:",
        wrong="if True:",
        killer=_PADDED,
    ),
    SeededBug(
        name="onnx-last-key-off-by-one",
        where="cgptc.backends.onnx.lowerings.grouped_query:_last_keys",
        right="emit.Sub(total, emit.scalar(1, total))",
        wrong="emit.Sub(total, emit.scalar(2, total))",
        killer=_STEPS,
    ),
)

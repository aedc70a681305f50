"""Bugs in how PyTorch's operations become the graph's."""

from cgptc.testing.seeded_bugs.bug import SeededBug

_LAYERS = "tests/frontend/test_aten_layers.py::"
_SHAPES = "tests/frontend/test_aten_shapes.py::test_an_op_on_fixed_sizes_is_what_torch_computes"

IMPORTER_BUGS = (
    SeededBug(
        name="imported-causality-dropped",
        where="cgptc.frontend.aten.ops.attention:scaled_dot_product_attention",
        right="flag = is_causal and length == total",
        wrong="flag = False",
        killer=f"{_LAYERS}test_causal_attention_is_a_flag",
    ),
    SeededBug(
        name="imported-causality-at-the-wrong-end",
        where="cgptc.frontend.aten.ops.attention:scaled_dot_product_attention",
        right="flag = is_causal and length == total",
        wrong="flag = is_causal",
        killer=f"{_LAYERS}test_causal_attention_to_more_keys_is_torchs_not_ours",
    ),
    SeededBug(
        name="imported-scale-without-its-root",
        where="cgptc.frontend.aten.ops.attention:scaled_dot_product_attention",
        right="1.0 / math.sqrt(width)",
        wrong="1.0 / width",
        killer=f"{_LAYERS}test_attention_is_what_torch_computes[plain]",
    ),
    SeededBug(
        name="imported-bool-mask-inverted",
        where="cgptc.frontend.aten.ops.attention:_additive",
        right="emit.number(0.0, dtype), emit.number(-math.inf, dtype)",
        wrong="emit.number(-math.inf, dtype), emit.number(0.0, dtype)",
        killer=f"{_LAYERS}test_attention_is_what_torch_computes[bool mask of two axes]",
    ),
    SeededBug(
        name="imported-weight-not-transposed",
        where="cgptc.frontend.aten.ops.matmuls:linear",
        right="emit.transpose(weight, (1, 0)), bias)",
        wrong="emit.reshape(weight, weight.type.shape[::-1]), bias)",
        killer=f"{_LAYERS}test_a_layer_is_what_torch_computes[linear]",
    ),
    SeededBug(
        name="imported-norm-without-its-weight",
        where="cgptc.frontend.aten.ops.normalisation:layer_norm",
        right="scale = None if weight is None",
        wrong="scale = None if True",
        killer=f"{_LAYERS}test_a_layer_is_what_torch_computes",
    ),
    SeededBug(
        name="imported-variance-off-by-one",
        where="cgptc.frontend.aten.ops.reductions:_deviations",
        right="- int(correction)",
        wrong="- int(correction) + 1",
        killer=f"{_SHAPES}[var_mean]",
    ),
)

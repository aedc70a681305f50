"""Bugs in what passes make of a graph."""

from cgptc.testing.seeded_bugs.bug import SeededBug

_REWRITES = "tests/passes/test_rewrites.py::test_a_rewrite_fires_on_its_own_pattern_and_keeps_the_meaning"
_ROTARY = "tests/passes/test_fuse_rotary.py::"
_SPELLINGS = f"{_ROTARY}test_every_spelling_fuses_and_keeps_its_meaning"
_SPELLING = "Spelling(mask='{mask}', padding='{padding}', positions='iota', window={window}, groups=1, flat_tokens=False, layers=1)"


def _attention(mask: str = "compare", padding: str = "none", window: int | None = None) -> str:
    spelling = _SPELLING.format(mask=mask, padding=padding, window=window)
    return f"tests/passes/test_fuse_attention.py::test_every_spelling_fuses_and_keeps_its_meaning[{spelling}]"


PASS_BUGS = (
    SeededBug(
        name="scores-multiplied-where-they-were-divided",
        where="cgptc.passes.fuse_attention:_scores",
        right="else scale / number",
        wrong="else scale * number",
        killer="tests/passes/test_fuse_attention.py::test_scores_that_are_divided_have_the_reciprocal_as_their_scale",
    ),
    SeededBug(
        name="boolean-masks-the-wrong-way-round",
        where="cgptc.passes.fuse_attention:_explicit_mask",
        right='if kind == "hide":',
        wrong='if kind == "keep":',
        killer=_attention(),
    ),
    SeededBug(
        name="causality-forgotten",
        where="cgptc.passes.normalize_masks:_apply",
        right="causal=node.op.causal or meaning.causal",
        wrong="causal=node.op.causal",
        killer=_attention(),
    ),
    SeededBug(
        name="padding-forgotten",
        where="cgptc.passes.normalize_masks:_apply",
        right="graph.set_operand(node, MASK, padding)",
        wrong="graph.set_operand(node, MASK, None)",
        killer=_attention(padding="boolean"),
    ),
    SeededBug(
        name="window-forgotten",
        where="cgptc.passes.normalize_masks:_apply",
        right="window=window",
        wrong="window=None",
        killer=_attention(mask="buffer", window=3),
    ),
    SeededBug(
        name="rotary-turned-backwards",
        where="cgptc.passes.fuse_rotary:_rotation",
        right="sin.append(from_first)",
        wrong="sin.append(from_second)",
        killer=_SPELLINGS,
    ),
    SeededBug(
        name="rotary-pairs-taken-for-halves",
        where="cgptc.passes.fuse_rotary:_Work._replace",
        right="Rotary(found.interleaved)",
        wrong="Rotary(False)",
        killer=_SPELLINGS,
    ),
    SeededBug(
        name="rotary-angles-of-other-columns",
        where="cgptc.passes.fuse_rotary:_selected",
        right="above.append(node.op)",
        wrong="above.append(node.op); start = 0 * start + (start + step * (count - 1) < size - 1)",
        killer=_SPELLINGS,
    ),
    SeededBug(
        name="rotary-unequal-cosines-taken-for-equal",
        where="cgptc.passes.table_entries:Tables._wrapped",
        right="self._number((by, number))",
        wrong="number",
        killer=f"{_ROTARY}test_a_rotation_that_is_none_stays_and_says_why",
    ),
    SeededBug(
        name="rotary-of-the-neighbouring-features",
        where="cgptc.passes.fuse_rotary:_features",
        right="before == start and",
        wrong="",
        killer=_SPELLINGS,
    ),
    SeededBug(
        name="rms-norm-with-ten-times-its-eps",
        where="cgptc.passes.fuse_norms:rms_norm.build",
        right="RmsNorm(eps)",
        wrong="RmsNorm(eps * 10)",
        killer=f"{_REWRITES}[rms-norm]",
    ),
    SeededBug(
        name="norm-without-its-bias",
        where="cgptc.passes.fuse_norms:layer_norm_bias.build",
        right="build(norm.op, x, weight, bias)",
        wrong="build(norm.op, x, weight)",
        killer=f"{_REWRITES}[layer-norm-bias]",
    ),
    SeededBug(
        name="linear-without-its-bias",
        where="cgptc.passes.fuse_linear:add_bias_to_linear.build",
        right="build(Linear(), x, weight, bias)",
        wrong="build(Linear(), x, weight)",
        killer=f"{_REWRITES}[add-bias-to-linear]",
    ),
    SeededBug(
        name="silu-without-its-factor",
        where="cgptc.passes.fuse_activations:multiply_by_sigmoid.build",
        right="build(Silu(), x)",
        wrong="build(Sigmoid(), x)",
        killer=f"{_REWRITES}[multiply-by-sigmoid]",
    ),
    SeededBug(
        name="transposes-merged-in-the-wrong-order",
        where="cgptc.passes.canonicalize:merge_transposes.build",
        right="inner.op.permutation[axis] for axis in outer.op.permutation",
        wrong="outer.op.permutation[axis] for axis in inner.op.permutation",
        killer="tests/passes/test_canonicalize.py::test_two_turns_of_three_axes_are_one_turn",
    ),
    SeededBug(
        name="division-turned-into-a-product",
        where="cgptc.passes.canonicalize:multiply_by_reciprocal.build",
        right="1 / number",
        wrong="number",
        killer=f"{_REWRITES}[multiply-by-reciprocal]",
    ),
    SeededBug(
        name="differences-commute",
        where="cgptc.passes.common_subexpressions:_ordered",
        right="type(node.op).commutative and ",
        wrong="",
        killer="tests/passes/test_common_subexpressions.py::test_a_difference_the_other_way_round_is_another",
    ),
    SeededBug(
        name="tables-of-each-row-taken-for-one",
        where="cgptc.passes.fuse_embedding:_grows_at_one_end",
        right="axis < kept[0] if leading",
        wrong="True if leading",
        killer="tests/passes/test_fuse_embedding.py::test_a_table_that_is_not_the_same_for_each_row_of_the_batch_stays",
    ),
    SeededBug(
        name="logits-of-the-first-token",
        where="cgptc.passes.last_token_logits:LastTokenLogits.run",
        right="Slice(1, length - 1, length)",
        wrong="Slice(1, 0, 1)",
        killer="tests/passes/test_sink_slices.py::test_the_last_tokens_logits_are_those_of_the_whole",
    ),
)

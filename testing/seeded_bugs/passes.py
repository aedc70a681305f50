"""Bugs in what passes make of a graph."""

from cgptc.testing.seeded_bugs.bug import SeededBug

_REWRITES = "tests/passes/test_rewrites.py::test_a_rewrite_fires_on_its_own_pattern_and_keeps_the_meaning"
_FIRING = "tests/passes/test_firing.py::test_a_pass_fires_in_most_examples_and_keeps_what_it_promises"
_ROTARY = "tests/passes/test_fuse_rotary.py::"
_SPELLINGS = f"{_ROTARY}test_every_spelling_fuses_and_keeps_its_meaning"


def _attention(spelling: str) -> str:
    return f"tests/passes/test_fuse_attention.py::test_every_spelling_fuses_and_keeps_its_meaning[{spelling}]"


PASS_BUGS = (
    SeededBug(
        name="scores-multiplied-where-they-were-divided",
        where="cgptc.passes.attention_scores:scores_of",
        right="else scale / number",
        wrong="else scale * number",
        killer="tests/passes/test_fuse_attention.py::test_scores_that_are_divided_have_the_reciprocal_as_their_scale",
    ),
    SeededBug(
        name="boolean-masks-the-wrong-way-round",
        where="cgptc.passes.fuse_attention:_explicit_mask",
        right='if kind == "hide":',
        wrong='if kind == "keep":',
        killer=_attention("plain"),
    ),
    SeededBug(
        name="causality-forgotten",
        where="cgptc.passes.normalize_masks:_apply",
        right="causal=node.op.causal or meaning.causal",
        wrong="causal=node.op.causal",
        killer=_attention("plain"),
    ),
    SeededBug(
        name="padding-forgotten",
        where="cgptc.passes.normalize_masks:_apply",
        right="graph.set_operand(node, MASK, padding)",
        wrong="graph.set_operand(node, MASK, None)",
        killer=_attention("padding=boolean"),
    ),
    SeededBug(
        name="window-forgotten",
        where="cgptc.passes.normalize_masks:_apply",
        right="window=window",
        wrong="window=None",
        killer=_attention("mask=buffer window=3"),
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
        right="build(norm.op, x, weight, vector)",
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
        name="softmax-over-the-axis-of-its-maximum",
        where="cgptc.passes.fuse_softmax:plain_softmax.build",
        right="build(Softmax(axis), x)",
        wrong="build(Softmax(0), x)",
        killer=f"{_REWRITES}[plain-softmax]",
    ),
    SeededBug(
        name="factors-of-an-axis-the-wrong-way-round",
        where="cgptc.passes.merge_views:_Factors.divide",
        right="axis[place : place + 1] = pair",
        wrong="axis[place : place + 1] = pair[::-1]",
        killer="tests/passes/test_merge_views.py::test_multihead_attention_keeps_only_the_views_of_its_heads",
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
    SeededBug(
        name="outputs-taken-for-dead",
        where="cgptc.passes.dead_code:DeadCode.run",
        right="value.use_count",
        wrong="value.users",
        killer=f"{_FIRING}[dead-code]",
    ),
    SeededBug(
        name="slices-of-the-first-rows",
        where="cgptc.passes.sink_slices:_sink",
        right="build.node(dataclasses.replace(node.op, axis=position), operand)",
        wrong="build.node(Slice(position, 0, node.result.type.shape[node.op.axis]), operand)",
        killer=f"{_FIRING}[sink-slices]",
    ),
    SeededBug(
        name="tables-taken-for-rows",
        where="cgptc.passes.sink_reshapes:_sink",
        right="aligned = all(",
        wrong="aligned = any(",
        killer="tests/passes/test_sink_reshapes.py::test_a_table_of_rows_is_no_row",
    ),
    SeededBug(
        name="cached-positions-that-start-again",
        where="cgptc.passes.add_cache:_replace_positions",
        right="Positions(batch, seq.dim, past.dim)",
        wrong="Positions(batch, seq.dim, past.dim * 0)",
        killer=f"{_FIRING}[add-cache]",
    ),
    SeededBug(
        name="cache-without-the-padding",
        where="cgptc.passes.add_cache:_cache",
        right="operands[MASK] = mask",
        wrong="operands[MASK] = None",
        killer="tests/passes/test_add_cache.py::test_a_left_padded_row_equals_the_row_alone",
    ),
    SeededBug(
        name="absent-operands-forgotten",
        where="cgptc.passes.legalise:_decompose",
        right="*node.operands",
        wrong="*node.inputs",
        killer=f"{_FIRING}[legalise]",
    ),
    SeededBug(
        name="scales-of-one-bit-more",
        where="cgptc.passes.quantize:Quantize._quantise",
        right="QuantisationScales(rows, self.bits, self.block)",
        wrong="QuantisationScales(rows, max(self.bits - 1, 2), self.block)",
        killer=f"{_FIRING}[quantize]",
    ),
    SeededBug(
        name="negative-weights-taken-for-zeros",
        where="cgptc.passes.sparsify:detected",
        right="(block != 0)",
        wrong="(block > 0)",
        killer=f"{_FIRING}[find-zeros]",
    ),
    SeededBug(
        name="masks-of-a-file-ignored",
        where="cgptc.passes.sparsify:_with_masks",
        right="return Masked(weight, mask)",
        wrong="return weight",
        killer=f"{_FIRING}[apply-masks]",
    ),
    SeededBug(
        name="every-other-row-for-whole-heads",
        where="cgptc.passes.sparsify:_zero_rows",
        right="np.repeat(line, width)",
        wrong="np.tile(line, width)",
        killer="tests/passes/test_sparsity.py::test_what_is_removed_is_what_was_masked",
    ),
    SeededBug(
        name="columns-of-the-first-part",
        where="cgptc.passes.remove_dead:_shrink_sources",
        right="start + feature for",
        wrong="feature for",
        killer=f"{_FIRING}[remove-dead]",
    ),
    SeededBug(
        name="tables-sent-the-wrong-way-round",
        where="cgptc.passes.stage_assignment:_received",
        right="if permutation == tuple(range(len(permutation))):",
        wrong="if permutation:",
        killer="tests/passes/test_pipeline.py::test_a_table_is_sent_where_two_copies_do_not_fit_and_the_way_is_narrow",
    ),
    SeededBug(
        name="angles-in-the-narrow-type",
        where="cgptc.passes.convert:Convert.run",
        right="if node in angles:",
        wrong="if False:",
        killer="tests/passes/test_convert.py",
    ),
)

"""What precision and sparsity cost and gain: every lossy pass measured against the graph before it, and the whole against the dense model.

Errors are relative root mean squares against float64, on a few seeded tokens. They are measured, not bounds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from cgptc.artifact.canonical import Json
from cgptc.driver.verification.reference import work
from cgptc.ir.cost import CostModel
from cgptc.ir.diagnostics import Warnings
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.quantized import QuantizedLinear
from cgptc.ir.sparsity import LINES, Sparsity, sparsity_of
from cgptc.ir.weight_expressions import widened
from cgptc.ir.weights import EMPTY_STORE, Weight
from cgptc.passes.convert import Convert
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.pick_living import Pick, find_picks
from cgptc.passes.remove_dead import RemoveDead
from cgptc.passes.weight_names import names_of, weight_of
from cgptc.runtime.interface import PAST
from cgptc.testing.input_data import random_inputs

TOKENS = 8
MAXIMUM_WORK = 10**9
"""Multiply-accumulates of one run above which nothing is measured: that is for `cgptc eval`."""

NOT_FINITE = "not_finite"

DECODE, PREFILL = 1, 128
"""Rows of the products whose time is told."""


@dataclass
class LossWatch:
    """An instrument: ``rows`` has a line for each matrix that a lossy pass changed; ``dense`` is the graph before the first of them."""

    rows: list[dict[str, Json]] = field(default_factory=list)
    dense: Graph | None = None
    _before: Graph | None = None

    def before(self, pass_: Pass, index: int, graph: Graph, context: PassContext) -> None:
        self._before = graph.clone() if pass_.lossy else None
        if self.dense is None:
            self.dense = self._before

    def after(self, pass_: Pass, index: int, graph: Graph, context: PassContext, changed: bool) -> None:
        if self._before is not None and changed:
            self.rows += changed_matrices(pass_.name, self._before, graph, context.cost_model)
        self._before = None

    def to_json(self, graph: Graph) -> dict[str, Json]:
        """As the report holds it: matrices, and the outputs of the graph as it became. Empty where nothing was traded."""
        if self.dense is None:
            return {}
        return {"matrices": [*self.rows], "outputs": output_errors(self.dense, graph)}


def changed_matrices(pass_name: str, before: Graph, after: Graph, cost_model: CostModel | None) -> list[dict[str, Json]]:
    """One row for each linear layer whose weight a pass changed. Lossy passes keep layers and their order."""
    old, new = ([node for node in graph.nodes if isinstance(node.op, Linear | QuantizedLinear)] for graph in (before, after))
    pairs = [(a, b) for a, b in zip(old, new, strict=True) if weight_of(a, 1) != weight_of(b, 1) and isinstance(a.op, Linear)]
    # Float64 evaluation undoes a conversion: what that costs shows in the layer's own arithmetic.
    errors = _layer_errors(before, dict(pairs), wide=pass_name != Convert.name) if after.store is not EMPTY_STORE else {}
    rows: list[dict[str, Json]] = []
    smaller = _smaller(after, cost_model) if pairs else {}
    for a, b in pairs:
        dense, weight = weight_of(a, 1), weight_of(b, 1)
        assert dense is not None
        assert weight is not None
        pattern = sparsity_of(weight)
        row: dict[str, Json] = {
            "pass": pass_name,
            "where": next(iter(names_of(b, after)), ""),
            "pattern": f"{weight.dtype}" if isinstance(b.op, QuantizedLinear) else str(pattern),
            "zeros": _zeros(weight, after) if isinstance(b.op, Linear) and after.store is not EMPTY_STORE else None,
            "bytes": weight.dtype.bytes(math.prod(smaller[b].left)) if b in smaller else _bytes(b),
            "dense_bytes": _bytes(a),
            "output_error": errors.get(b),
        }
        if cost_model is not None:
            row |= {
                name: _gain(cost_model, count, dense, weight, pattern, smaller.get(b))
                for name, count in (("decode", DECODE), ("prefill", PREFILL))
            }
        rows.append(row)
    return rows


def output_errors(dense: Graph, graph: Graph) -> dict[str, Json]:
    """For each floating-point output that both graphs have in one shape: root mean square of the difference, and the largest, of the graph
    in its own arithmetic against the dense one in float64; `NOT_FINITE` with whose numbers are none, the "model"'s or the "compiled" ones.
    Empty where the work is too much, or there are no weights.
    """
    given = sample_inputs(dense)
    if graph.store is EMPTY_STORE or work(dense, given) > MAXIMUM_WORK:
        return {}
    given = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in given.items()}
    expected = evaluate_graph(dense, given, wide=True)
    found = evaluate_graph(graph, sample_inputs(graph))
    errors: dict[str, Json] = {}
    for name, reference in expected.items():
        actual = found.get(name)
        if actual is None or reference.dtype.kind != "f" or actual.shape != reference.shape or name.startswith("present"):
            continue
        if not np.isfinite(reference).all() or not np.isfinite(actual).all():
            errors[name] = {NOT_FINITE: "model" if not np.isfinite(reference).all() else "compiled"}
            continue
        difference = actual.astype(np.float64) - reference
        scale = rms(reference)
        errors[name] = {
            "rms": rounded(rms(difference)),
            "largest": rounded(float(np.max(np.abs(difference), initial=0.0))),
            "relative": rounded(rms(difference) / scale if scale else 0.0),
        }
    return errors


def warn_of_overflow(losses: Mapping[str, Json], graph: Graph, warnings: Warnings) -> None:
    """Where outputs that the model gives as numbers are none in the graph, say so with the first operation that they are lost at."""
    outputs = losses.get("outputs")
    lost = [name for name, error in outputs.items() if error == {NOT_FINITE: "compiled"}] if isinstance(outputs, dict) else []
    if not lost:
        return
    first: list[Node] = []

    def look(value: Value, array: Array) -> None:
        if not first and value.producer is not None and isinstance(value.op, Linear | QuantizedLinear) and not np.isfinite(array).all():
            first.append(value.producer)

    evaluate_graph(graph, sample_inputs(graph), on_value=look)
    where = f": {first[0].results[0].type.dtype} overflows at {first[0].location}" if first else ""
    warnings.add("overflow", f"{', '.join(map(repr, lost))} of the sample tokens is not finite, and the model's is{where}")


def sample_inputs(graph: Graph) -> dict[str, Array]:
    """A few seeded tokens, without padding and with as short a past as the model takes."""
    wanted = {"batch": 1, "seq": TOKENS, PAST: 0}
    sizes = {name: min(max(wanted.get(name, 2), symbol.low), symbol.high) for name, symbol in graph.symbols.items()}
    inputs = random_inputs(graph, seed=0, sizes=sizes)
    return {name: np.ones_like(array) if "mask" in name else array for name, array in inputs.items()}


def _layer_errors(before: Graph, pairs: Mapping[Node, Node], *, wide: bool) -> dict[Node, float]:
    """Relative errors of changed layers, each on what it is given in the graph before; in float64 (``wide``), or as the layer computes."""
    given = sample_inputs(before)
    if work(before, given) > MAXIMUM_WORK:
        return {}
    wanted = {node.inputs[0] for node in pairs}
    kept: dict[Value, Array] = {}
    errors: dict[Node, float] = {}

    def look(value: Value, array: Array) -> None:
        if value in wanted:
            kept[value] = array
        node = value.producer
        new = pairs.get(node) if node is not None else None
        if node is not None and new is not None:
            weights = [weight_of(new, index) for index in range(1, len(new.operands))]
            constants = [(widened(weight) if wide else weight).read(before.store) if weight is not None else None for weight in weights]
            with np.errstate(over="ignore"):  # an overflow shows as an error that is not finite
                given_to = kept[node.inputs[0]] if wide else kept[node.inputs[0]].astype(new.inputs[0].type.dtype.numpy)
            found = np.asarray((new.op.widened() if wide else new.op).evaluate(given_to, *constants)).astype(np.float64)
            scale, error = rms(array), rms(found - array)
            if np.isfinite(error):
                errors[new] = rounded(error / scale if scale else 0.0)

    given = {name: array.astype(np.float64) if array.dtype.kind == "f" else array for name, array in given.items()}
    evaluate_graph(before, given, wide=True, on_value=look)
    return errors


def rms(array: Array) -> float:
    """Root of the mean square; 0 of nothing."""
    return float(np.sqrt(np.mean(np.square(array)))) if array.size else 0.0


def rounded(number: float) -> float:
    """To two digits, so that the order of a sum does not show in a report."""
    return float(f"{number:.1e}")


def _zeros(weight: Weight, graph: Graph) -> float:
    size = math.prod(weight.shape)
    return rounded(sum(block.size - int(np.count_nonzero(block)) for block in weight.blocks(graph.store)) / size) if size else 0.0


def _bytes(node: Node) -> int:
    weights = [weight_of(node, index) for index in ((1, 2) if isinstance(node.op, QuantizedLinear) else (1,))]
    return sum(weight.dtype.bytes(math.prod(weight.shape)) for weight in weights if weight is not None)


def _smaller(graph: Graph, cost_model: CostModel | None) -> dict[Node, Pick]:
    """What is left of the weight of each linear layer once what is dead went: the passes do so to a copy."""
    copy = graph.clone()
    layers, twins = ([node for node in each.nodes if isinstance(node.op, Linear)] for each in (graph, copy))
    RemoveDead().run(copy, PassContext())
    picks = find_picks(copy, cost_model) if cost_model is not None else {}
    weights = [(layer, twin, weight) for layer, twin in zip(layers, twins, strict=True) if (weight := weight_of(twin, 1)) is not None]
    return {layer: picks.get(twin) or Pick((weight.shape[0], weight.shape[1])) for layer, twin, weight in weights}


def _gain(cost_model: CostModel, rows: int, dense: Weight, weight: Weight, pattern: Sparsity, smaller: Pick | None) -> float:
    """How many times as fast the product is to be on this target: 1 is no gain. Lines of zeros that nothing takes away are zeros like any
    other.
    """
    inputs, outputs = dense.shape
    before = cost_model.matmul(rows, inputs, outputs, dense.dtype).time
    if weight.dtype.is_integer:
        return rounded(before / cost_model.matmul(rows, inputs, outputs, weight.dtype).time)
    if smaller is not None and smaller.left != dense.shape:
        return rounded(before / smaller.time(cost_model, rows, dense.dtype))
    kind = pattern.kind if pattern.kind not in ("unknown", *LINES) else "unstructured"
    return rounded(before / cost_model.matmul(rows, inputs, outputs, dense.dtype, kind).time)

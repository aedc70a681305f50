"""Values that had no batch axis get one: row by row they are what they were for that row's positions, or it is refused."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from cgptc.ir import ops
from cgptc.ir.builder import Builder
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32, i64
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.types import TensorType
from cgptc.ir.verify import verify
from cgptc.passes.lift import lift
from cgptc.testing.tolerances import assert_t1

BATCH, SEQ = Symbol("batch", 1, 4).dim, Symbol("seq", 2, 8).dim
ROWS, TOKENS = 3, 5


class Model:
    """Tokens ``x`` ``[batch, seq, 4]``, ``heads`` ``[batch, 2, seq, 4]``, ``late`` ``[seq, batch, 4]``; ``places``: positions ``[seq]``."""

    def __init__(self, *, iota: bool) -> None:
        self.graph = Graph()
        self.build = Builder(self.graph)
        self.x = self.graph.add_input("x", TensorType(f32, (BATCH, SEQ, 4)))
        self.heads = self.graph.add_input("heads", TensorType(f32, (BATCH, 2, SEQ, 4)))
        self.late = self.graph.add_input("late", TensorType(f32, (SEQ, BATCH, 4)))
        self.places = self.build(ops.Iota(SEQ)) if iota else self.graph.add_input("places", TensorType(i64, (SEQ,)))

    def number(self, *shape: int) -> Value:
        return self.build.constant(np.random.default_rng(len(shape)).standard_normal(shape).astype(np.float32))

    def of(self, width: int) -> Value:
        """Positions as ``width`` features that differ: ``[seq, width]``."""
        column = self.build(ops.Reshape((SEQ, 1)), self.build(ops.Cast(f32), self.places))
        return self.build(ops.Sin(), self.build(ops.Mul(), column, self.number(1, width)))

    def added(self, value: Value) -> Value:
        return self.build(ops.Add(), self.x, value)

    def rotated(self, x: Value) -> Value:
        cos, sin = (self.build(op, self.build(ops.Reshape((1, SEQ, 2)), self.of(2))) for op in (ops.Cos(), ops.Sin()))
        return self.build(ops.Rotary(False), x, cos, sin)


def upright(model: Model) -> Value:
    """Positions down a column and along a row, as distances: ``[seq, seq]``, added to scores of all heads."""
    build = model.build
    rows, columns = (build(ops.Reshape(shape), model.places) for shape in ((SEQ, 1), (1, SEQ)))
    distance = build(ops.Cast(f32), build(ops.Sub(), rows, columns))
    turned = build(ops.Transpose((0, 1, 3, 2)), model.heads)
    return build(ops.Add(), build(ops.MatMul(), model.heads, turned), distance)


Spelling = Callable[[Model], Value]
LIFTED: dict[str, Spelling] = {
    "one feature": lambda m: m.added(m.of(1)),
    "features": lambda m: m.added(m.of(4)),
    "behind a batch of one": lambda m: m.added(m.build(ops.Reshape((1, SEQ, 4)), m.of(4))),
    "two axes of positions": upright,
    "spread over features": lambda m: m.added(m.build(ops.Expand((SEQ, 4)), m.of(1))),
    "spread over features and an axis more": lambda m: m.build(ops.Add(), m.heads, m.build(ops.Expand((2, SEQ, 4)), m.of(4))),
    "spread over the batch": lambda m: m.build(ops.Expand((BATCH, SEQ, 4)), m.of(4)),
    "turned": lambda m: m.added(m.build(ops.Transpose((1, 0)), m.build(ops.Transpose((1, 0)), m.of(4)))),
    "some features": lambda m: m.added(m.build(ops.Slice(1, 2, 6), m.of(8))),
    "every second feature": lambda m: m.added(m.build(ops.Slice(1, 1, 8, 2), m.of(8))),
    "padded": lambda m: m.added(m.build(ops.Pad((0, 1), (0, 2), 0.5), m.of(1))),
    "joined": lambda m: m.added(m.build(ops.Concat(1), m.of(1), m.build(ops.Expand((SEQ, 2)), m.number(1, 2)), m.of(1))),
    "through a layer": lambda m: m.added(m.build(ops.Linear(), m.of(3), m.number(3, 4), m.number(4))),
    "through a layer norm": lambda m: m.added(m.build(ops.LayerNorm(1e-5), m.of(4), m.number(4), m.number(4))),
    "through an RMS norm": lambda m: m.added(m.build(ops.RmsNorm(1e-5), m.of(4), m.number(4))),
    "rows of a table": lambda m: m.added(m.build(ops.Embedding(), m.number(8, 4), m.places)),
    "gathered rows": lambda m: m.added(m.build(ops.Gather(0), m.number(8, 4), m.places)),
    "a product with a matrix": lambda m: m.added(m.build(ops.MatMul(), m.of(3), m.number(3, 4))),
    "a product with matrices": lambda m: m.build(ops.Add(), m.heads, m.build(ops.MatMul(), m.of(3), m.number(2, 3, 4))),
    "with a vector": lambda m: m.added(m.build(ops.Mul(), m.of(4), m.number(4))),
    "with a number": lambda m: m.added(m.build(ops.Mul(), m.of(4), m.build.constant(0.5))),
    "selected by": lambda m: m.build(ops.Select(), m.build(ops.Less(), m.of(4), m.build.constant(0.0)), m.x, m.build.constant(0.0)),
    "the batch behind the tokens": lambda m: m.build(ops.Add(), m.late, m.build(ops.Reshape((SEQ, 1, 4)), m.of(4))),
    "angles": lambda m: m.rotated(m.heads),
}
REFUSED: dict[str, tuple[Spelling, str]] = {
    "counted": (lambda m: m.added(m.build(ops.CumSum(0), m.of(4))), "one token's position of another's"),
    "averaged": (lambda m: m.added(m.build(ops.ReduceMean((0,), True), m.of(4))), "one token's position of another's"),
    "averaged over features": (lambda m: m.added(m.build(ops.ReduceMean((1,), True), m.of(4))), "no form with one position per row"),
    "a table of positions": (lambda m: m.added(m.build(ops.Embedding(), m.of(4), m.places)), "one token's position of another's"),
    "a layer of positions": (
        lambda m: m.build(ops.Linear(), m.number(3, 4), m.build(ops.Transpose((1, 0)), m.of(4))),
        "no form with one position per row",
    ),
    "a table whose columns are positions": (
        lambda m: m.build(ops.Embedding(), m.build(ops.Transpose((1, 0)), m.of(4)), m.build.constant(np.array([1, 3]))),
        "no form with one position per row",
    ),
    "gathered columns": (
        lambda m: m.added(m.build(ops.Transpose((1, 0)), m.build(ops.Gather(1), m.number(4, 8), m.places))),
        "no form with one position per row",
    ),
    "rotated itself": (
        lambda m: m.build(ops.Add(), m.heads, m.rotated(m.build(ops.Expand((1, 2, SEQ, 4)), m.of(4)))),
        "no form with one position per row",
    ),
    "beside an input without a batch": (
        lambda m: m.added(m.build(ops.Mul(), m.of(4), m.graph.add_input("scale", TensorType(f32, (4,))))),
        "no form with one position per row",
    ),
    "given out": (lambda m: m.of(4), "reach an output without a batch axis"),
}


def refusal(node: Node, why: str) -> ValueError:
    return ValueError(f"{node.op.name}: {why}")


def lifted(spelling: Spelling) -> Graph:
    """The model with positions of each row's own, an input ``own`` ``[batch, seq]``."""
    model = Model(iota=True)
    model.graph.add_output("y", spelling(model))
    own = model.graph.add_input("own", TensorType(i64, (BATCH, SEQ)))
    lift(model.graph, {model.places: own}, BATCH, SEQ, refusal)
    verify(model.graph)
    return model.graph


def tensors() -> dict[str, Array]:
    draw = np.random.default_rng(7)
    shapes = {"x": (ROWS, TOKENS, 4), "heads": (ROWS, 2, TOKENS, 4), "late": (TOKENS, ROWS, 4)}
    return {name: draw.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("name", LIFTED)
def test_each_row_is_what_it_was_for_its_own_positions(name: str) -> None:
    own = np.array([[0, 1, 2, 3, 4], [0, 0, 0, 1, 2], [3, 4, 5, 6, 7]])
    together = evaluate_graph(lifted(LIFTED[name]), {**tensors(), "own": own}, wide=True)["y"]
    axis = 1 if name == "the batch behind the tokens" else 0
    for row in range(ROWS):
        model = Model(iota=False)
        model.graph.add_output("y", LIFTED[name](model))
        one = {key: tensor[:, row : row + 1] if key == "late" else tensor[row : row + 1] for key, tensor in tensors().items()}
        alone = evaluate_graph(model.graph, {**one, "places": own[row]}, wide=True)["y"]
        assert_t1(alone, np.take(together, [row], axis), depth=16, where=name)


@pytest.mark.parametrize("name", REFUSED)
def test_what_has_no_form_with_positions_per_row_is_refused(name: str) -> None:
    spelling, why = REFUSED[name]
    with pytest.raises(ValueError, match=why):
        lifted(spelling)


def test_what_no_position_goes_into_stays() -> None:
    def spelling(model: Model) -> Value:
        model.graph.add_output("other", model.build(ops.Neg(), model.build(ops.CumSum(1), model.x)))
        return model.added(model.of(4))

    (before,) = (node for node in lifted(spelling).nodes if isinstance(node.op, ops.CumSum))
    assert str(before.result.type) == "f32[batch, seq, 4]"


def test_what_stands_for_each_value_is_told_and_the_old_is_gone() -> None:
    model = Model(iota=True)
    column = model.of(4)
    total = model.added(column)
    model.graph.add_output("y", total)
    own = model.graph.add_input("own", TensorType(i64, (BATCH, SEQ)))
    standing = lift(model.graph, {model.places: own}, BATCH, SEQ, refusal)
    assert str(standing[column].type) == "f32[batch, seq, 4]"
    assert model.graph.output("y") is standing[total]
    assert not {column.producer, total.producer} & {node for node in model.graph.nodes if node.alive}

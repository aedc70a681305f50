"""The mask analysis against brute force: what it says a mask shows is what the mask's values are."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgptc.ir.builder import Builder
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import boolean, f32, i64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.masks import describe
from cgptc.ir.op import Array
from cgptc.ir.ops import (
    Add,
    And,
    Cast,
    Concat,
    Constant,
    Equal,
    Expand,
    GatherNd,
    GreaterEqual,
    Iota,
    Less,
    LessEqual,
    Mul,
    Not,
    Or,
    Reshape,
    Select,
    Slice,
    Sub,
    Transpose,
)
from cgptc.ir.predicates import AllOf, AnyOf, AtLeastZero, Flag, Negated, Predicate, Visibility, classify, visible
from cgptc.ir.types import TensorType
from cgptc.ir.weights import EMPTY_STORE

SIZE = 6
LOWEST = float(np.finfo(np.float32).min)


class World:
    """A graph over ``seq`` fixed at `SIZE` for evaluation, with a padding input."""

    def __init__(self) -> None:
        self.graph = Graph()
        self.build = Builder(self.graph)
        self.seq = Symbol("seq", 1, 16).dim
        self.batch = Symbol("batch", 1, 4).dim
        self.padding = self.graph.add_input("attention_mask", TensorType(i64, (self.batch, self.seq)))

    def rows(self) -> Value:
        return self.build(Reshape((self.seq, 1)), self.build(Iota(self.seq)))

    def columns(self) -> Value:
        return self.build(Reshape((1, self.seq)), self.build(Iota(self.seq)))

    def number(self, value: float) -> Value:
        return self.build.constant(value)

    def run(self, value: Value, padding: Array) -> Array:
        known: dict[Value, Array] = {self.padding: padding}
        for node in self.graph.nodes:
            if isinstance(node.op, Constant):
                known[node.result] = node.op.weight.read(EMPTY_STORE)
                continue
            op = node.op.bind({"seq": SIZE, "batch": len(padding)})
            known[node.result] = np.asarray(op.evaluate(*(known[operand] for operand in node.inputs)))
        return known[value]


def holds(predicate: Predicate, index: tuple[int, ...], padding: Array) -> bool:
    match predicate:
        case AtLeastZero(affine):
            constant = affine.constant
            assert isinstance(constant, int)
            return sum(c * index[axis] for axis, c in affine.coefficients) + constant >= 0
        case Flag(_, axes):
            return bool(padding[tuple(0 if axis is None else index[axis] for axis in axes)])
        case Negated(flag):
            return not holds(flag, index, padding)
        case AllOf(parts):
            return all(holds(part, index, padding) for part in parts)
        case AnyOf(parts):
            return any(holds(part, index, padding) for part in parts)


def causal_by_comparison(world: World) -> Value:
    return world.build(LessEqual(), world.columns(), world.rows())


def causal_by_buffer(world: World) -> Value:
    whole = world.build.constant(np.tril(np.ones((1, 1, 16, 16), np.bool_)))
    return world.build(Slice(3, 0, world.seq), world.build(Slice(2, 0, world.seq), whole))


def causal_additive(world: World) -> Value:
    upper = world.build(Less(), world.rows(), world.columns())
    return world.build(Select(), upper, world.number(LOWEST), world.number(0.0))


def causal_float_buffer(world: World) -> Value:
    whole = world.build.constant(np.triu(np.full((16, 16), -np.inf, np.float32), 1))
    return world.build(Slice(1, 0, world.seq), world.build(Slice(0, 0, world.seq), whole))


def window_of_three(world: World) -> Value:
    near = world.build(Less(), world.build(Sub(), world.rows(), world.columns()), world.build.constant(3, i64))
    return world.build(And(), causal_by_comparison(world), near)


def window_buffer(world: World) -> Value:
    ones = np.ones((16, 16), np.bool_)
    whole = world.build.constant(np.tril(ones) ^ np.tril(ones, -3))
    return world.build(Slice(1, 0, world.seq), world.build(Slice(0, 0, world.seq), whole))


def padding_times_lowest(world: World) -> Value:
    vector = world.build(Cast(f32), world.build(Reshape((world.batch, 1, 1, world.seq)), world.padding))
    return world.build(Mul(), world.build(Sub(), world.number(1.0), vector), world.number(LOWEST))


def causal_and_padding(world: World) -> Value:
    return world.build(Add(), padding_times_lowest(world), causal_additive(world))


def causal_and_padding_boolean(world: World) -> Value:
    real = world.build(Reshape((world.batch, 1, 1, world.seq)), world.build(Cast(boolean), world.padding))
    shape = (world.batch, 1, world.seq, world.seq)
    return world.build(
        And(), world.build(Expand(shape), real), world.build(Reshape((1, 1, world.seq, world.seq)), causal_by_comparison(world))
    )


def padding_gathered(world: World) -> Value:
    """As transformers spells it: the mask indexed by a row and a column of positions."""
    build, full = world.build, (world.batch, 1, 1, world.seq, 1)
    rows = build(Expand(full), build(Reshape((world.batch, 1, 1, 1, 1)), build(Iota(world.batch))))
    columns = build(Expand(full), build(Reshape((1, 1, 1, world.seq, 1)), build(Iota(world.seq))))
    return build(GatherNd(0), build(Cast(boolean), world.padding), build(Concat(4), rows, columns))


def nothing_hidden(world: World) -> Value:
    return world.build(GreaterEqual(), world.build(Add(), world.rows(), world.columns()), world.build.constant(0, i64))


MASKS: dict[Callable[[World], Value], Visibility] = {
    causal_by_comparison: Visibility(causal=True),
    causal_by_buffer: Visibility(causal=True),
    causal_additive: Visibility(causal=True),
    causal_float_buffer: Visibility(causal=True),
    window_of_three: Visibility(causal=True, window=3),
    window_buffer: Visibility(causal=True, window=3),
    nothing_hidden: Visibility(),
}


def shown_by_value(array: Array) -> Array:
    return array if array.dtype == np.bool_ else array == 0


@pytest.mark.parametrize("make", [*MASKS, padding_times_lowest, padding_gathered, causal_and_padding, causal_and_padding_boolean])
def test_the_description_is_the_masks_value(make: Callable[[World], Value]) -> None:
    world = World()
    mask = make(world)
    element = describe(mask, EMPTY_STORE)
    assert element is not None
    predicate = visible(element)
    assert predicate is not None
    padding = np.array([[0, 0, 1, 1, 1, 1], [1] * 6])
    array = shown_by_value(world.run(mask, padding))
    for index in itertools.product(*map(range, array.shape)):
        assert holds(predicate, index, padding) == array[index], index


@pytest.mark.parametrize("make", MASKS)
def test_masks_are_classified(make: Callable[[World], Value]) -> None:
    world = World()
    mask = make(world)
    build = world.build
    shape = (world.batch, 2, world.seq, world.seq)
    if mask.type.rank < 4:
        mask = build(Reshape((1, 1, *mask.type.shape)), mask)
    element = describe(mask, EMPTY_STORE)
    assert element is not None
    predicate = visible(element)
    assert predicate is not None
    assert classify(predicate, shape) == MASKS[make]


@pytest.mark.parametrize("make", [padding_times_lowest, padding_gathered, causal_and_padding, causal_and_padding_boolean])
def test_padding_is_recognised(make: Callable[[World], Value]) -> None:
    world = World()
    element = describe(make(world), EMPTY_STORE)
    assert element is not None
    predicate = visible(element)
    assert predicate is not None
    found = classify(predicate, (world.batch, 2, world.seq, world.seq))
    assert isinstance(found, Visibility)
    assert found.causal == (make not in (padding_times_lowest, padding_gathered))
    assert found.padding is not None


def test_a_mask_shifted_by_one_is_not_causal() -> None:
    world = World()
    mask = world.build(Less(), world.columns(), world.rows())
    element = describe(world.build(Reshape((1, 1, world.seq, world.seq)), mask), EMPTY_STORE)
    assert element is not None
    predicate = visible(element)
    assert predicate is not None
    assert isinstance(classify(predicate, (world.batch, 1, world.seq, world.seq)), str)


def test_a_bias_is_not_a_mask() -> None:
    world = World()
    mask = world.build(Select(), causal_by_comparison(world), world.number(0.5), world.number(LOWEST))
    element = describe(mask, EMPTY_STORE)
    assert element is not None
    assert visible(element) is None


def test_an_irregular_buffer_is_not_understood() -> None:
    world = World()
    irregular = np.tril(np.ones((16, 16), np.bool_))
    irregular[7, 2] = False
    mask = world.build(Slice(1, 0, world.seq), world.build(Slice(0, 0, world.seq), world.build.constant(irregular)))
    element = describe(mask, EMPTY_STORE)
    assert element is None or isinstance(element, Flag)


@st.composite
def boolean_masks(draw: st.DrawFn, world: World, depth: int = 3) -> Value:
    """A random Boolean function of row, column and padding, over ``[batch, 1, seq, seq]``."""
    build = world.build
    full = (world.batch, 1, world.seq, world.seq)
    kind = draw(st.sampled_from(["leaf", "leaf", "and", "or", "not", "select"] if depth else ["leaf"]))
    if kind == "leaf":
        if draw(st.booleans()):
            real = build(Reshape((world.batch, 1, 1, world.seq)), build(Cast(boolean), world.padding))
            return build(Expand(full), real)
        one, other = build(Reshape((1, 1, world.seq, 1)), world.rows()), build(Reshape((1, 1, 1, world.seq)), world.columns())
        offset = build.constant(draw(st.integers(-3, 3)), i64)
        left, right = draw(st.permutations([one, build(Add(), other, offset)]))
        comparison = draw(st.sampled_from([LessEqual(), Less(), GreaterEqual(), Equal()]))
        return build(Expand(full), build(comparison, left, right))
    if kind == "not":
        return build(Not(), draw(boolean_masks(world, depth - 1)))
    left, right = draw(boolean_masks(world, depth - 1)), draw(boolean_masks(world, depth - 1))
    if kind == "select":
        return build(Select(), draw(boolean_masks(world, depth - 1)), left, right)
    result = build(And() if kind == "and" else Or(), left, right)
    return build(Transpose((0, 1, 3, 2)), result) if draw(st.booleans()) else result


@given(st.data())
def test_random_masks_are_described_exactly(data: st.DataObject) -> None:
    world = World()
    mask = data.draw(boolean_masks(world))
    padding = np.array(data.draw(st.lists(st.lists(st.integers(0, 1), min_size=SIZE, max_size=SIZE), min_size=2, max_size=2)))
    element = describe(mask, EMPTY_STORE)
    assert element is not None
    predicate = visible(element)
    assert predicate is not None
    array = world.run(mask, padding)
    for index in itertools.product(*map(range, array.shape)):
        assert holds(predicate, index, padding) == array[index]

"""Graphs that a rewrite's pattern matches, made from the pattern alone.

The pattern is data, so it generates its own property test: draw the variables' types, build the tree, evaluate, rewrite, evaluate, compare.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import OpTypeError
from cgptc.ir.dtypes import boolean, f32, i64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.op import Op
from cgptc.ir.types import TensorType
from cgptc.ir.weight_expressions import converted
from cgptc.ir.weights import dense
from cgptc.passes.pattern import OneOf, OpPattern, Pattern, Scalar, Var
from cgptc.passes.rewrite import Rewrite

SHAPES: tuple[tuple[int, ...], ...] = ((2, 3, 4), (4,), (4, 5), (5,), (6, 4), (2, 1, 4))
"""Shapes that variables are tried with, in this order."""

VARIANTS = 6
"""Ways in which attributes that a pattern leaves open are chosen."""

TRIES = 4096
"""Combinations that are tried before a pattern counts as one that cannot be instantiated."""


_DTYPES = {"condition": boolean, "indices": i64}
"""Element types of variables that are known by name."""


@dataclass(frozen=True)
class _Choice:
    """What is drawn for a pattern: alternatives of each `OneOf`, types of variables, attributes of operations."""

    types: Mapping[str, TensorType]
    constants: frozenset[str]
    attribute: int


def instances(rewrite: Rewrite, limit: int = 4, seed: int = 0) -> Iterator[Graph]:
    """Up to ``limit`` graphs whose only output is what the pattern matches; variables are inputs, or constants where the pattern asks."""
    found = 0
    for choice, pattern in itertools.islice(_choices(rewrite.pattern), TRIES):
        graph = _graph(pattern, choice, seed)
        if graph is not None:
            yield graph
            found += 1
            if found == limit:
                return


def _variables(pattern: Pattern) -> dict[str, Var]:
    match pattern:
        case Var():
            return {pattern.name: pattern}
        case OpPattern():
            return {name: var for part in pattern.operands if part is not None for name, var in _variables(part).items()}
        case OneOf():
            return {name: var for part in pattern.alternatives for name, var in _variables(part).items()}
        case _:
            return {}


def _expansions(pattern: Pattern) -> Iterator[Pattern]:
    """The pattern with every `OneOf` resolved in every way."""
    match pattern:
        case OneOf():
            for alternative in pattern.alternatives:
                yield from _expansions(alternative)
        case OpPattern():
            for parts in itertools.product(*([None] if part is None else list(_expansions(part)) for part in pattern.operands)):
                yield dataclasses.replace(pattern, operands=tuple(parts))
        case _:
            yield pattern


def _choices(pattern: OpPattern) -> Iterator[tuple[_Choice, OpPattern]]:
    variables = _variables(pattern)
    constants = frozenset(name for name, var in variables.items() if "weight" in var.meaning or "constant" in var.meaning)
    for dtype in (f32, boolean):
        for shapes in itertools.product(SHAPES, repeat=len(variables)):
            types = {name: TensorType(_DTYPES.get(name, dtype), shape) for name, shape in zip(variables, shapes, strict=True)}
            for variant in range(VARIANTS):
                for expanded in _expansions(pattern):
                    assert isinstance(expanded, OpPattern)
                    yield _Choice(types, constants, variant), expanded


def _graph(pattern: OpPattern, choice: _Choice, seed: int) -> Graph | None:
    graph = Graph("pattern")
    builder = Builder(graph)
    values: dict[str, Value] = {}
    random = np.random.default_rng(seed)
    try:
        root = _build(pattern, choice, builder, values, random)
    except OpTypeError:
        return None
    graph.add_output("y", root)
    return graph


def _build(pattern: Pattern, choice: _Choice, build: Builder, values: dict[str, Value], random: np.random.Generator) -> Value:
    match pattern:
        case Var(name):
            if name not in values:
                type_ = choice.types[name]
                if name in choice.constants:
                    values[name] = build.constant(random.standard_normal(type_.static_shape).astype(np.float32))
                else:
                    values[name] = build.graph.add_input(name, type_)
                if pattern.where is not None and not pattern.where(values[name]):
                    raise OpTypeError("the pattern refuses the type")
            return values[name]
        case Scalar(name, value):
            number = value if value is not None else 1e-5 if name == "eps" else 4.0
            # Wide evaluation sees the number itself, not its rounding to float32, as with constants of imported models.
            return build.weight(converted(dense(np.asarray(number)), f32))
        case OpPattern():
            operands = [_build(part, choice, build, values, random) if part is not None else None for part in pattern.operands]
            op = _op(pattern, operands, choice.attribute)
            return build.node(op, *operands).results[pattern.result]
        case OneOf():
            raise AssertionError("alternatives are expanded before")


def _op(pattern: OpPattern, operands: list[Value | None], variant: int) -> Op:
    """The operation with attributes that fit its operands: those the pattern asks for, the rest by their meaning."""
    wanted = {name: value for name, value in pattern.attributes if not callable(value)}
    first = operands[0].type if operands and operands[0] is not None else TensorType(f32)
    values: dict[str, Any] = {}
    for field in dataclasses.fields(pattern.op):
        if field.name in wanted:
            values[field.name] = wanted[field.name]
        elif field.name in _ATTRIBUTES:
            values[field.name] = _ATTRIBUTES[field.name](first, variant)
    try:
        return pattern.op(**values)
    except TypeError as error:
        raise OpTypeError(str(error)) from error


def _shape(first: TensorType, variant: int) -> tuple[int, ...]:
    shape = first.static_shape
    size = math.prod(shape)
    match variant, len(shape):
        case 0, _:
            return shape
        case 1, 3:  # flatten the tokens
            return (shape[0] * shape[1], shape[2])
        case 1, 2 if shape[0] == 6:  # and back
            return (2, 3, shape[1])
        case 2, _:
            return (1, size)
        case 3, _:
            return (*shape, 1)
        case _:
            return (size,)


def _permutation(first: TensorType, variant: int) -> tuple[int, ...]:
    orders = list(itertools.permutations(range(first.rank)))
    return orders[variant % len(orders)]


_ATTRIBUTES: Mapping[str, Any] = {
    "axes": lambda first, variant: (first.rank - 1,),
    "axis": lambda first, variant: max(first.rank - 1 - variant, 0),
    "keepdims": lambda first, variant: True,
    "dtype": lambda first, variant: first.dtype,
    "shape": _shape,
    "permutation": _permutation,
    "start": lambda first, variant: 0,
    "stop": lambda first, variant: first.shape[max(first.rank - 1 - variant, 0)] if first.rank else 1,
    "eps": lambda first, variant: 1e-5,
}

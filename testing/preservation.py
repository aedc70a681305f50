"""Whether a pass or a backend keeps what a graph computes: the two assertions that a downstream author needs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cgptc.backends.registry import Backend
from cgptc.ir.comparison import graph_depth, name_values
from cgptc.ir.diagnostics import VerifyError
from cgptc.ir.dtypes import DType, f32, f64
from cgptc.ir.graph import Graph, Value
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.printer import node_text, value_names
from cgptc.passes.instruments import HonestyCheck, VerifyEach
from cgptc.passes.legalise import decompose_until_legal
from cgptc.passes.manager import Pass, PassContext, Pipeline
from cgptc.testing.equivalence import DEFAULT_KINDS, assert_equivalent
from cgptc.testing.input_data import random_inputs
from cgptc.testing.tolerances import Fault, t1_fault


def assert_pass_preserves(
    pass_: Pass | Pipeline, graph: Graph, inputs: Mapping[str, Array] | None = None, *, context: PassContext | None = None, seed: int = 0
) -> Graph:
    """Run a pass, or a pipeline, on a copy of ``graph`` and give the result, which has the same inputs, outputs and values.

    AssertionError where the result breaks a rule of the IR, where the pass said "unchanged" of a graph that it changed, or the reverse, or
    where an output differs in float64 under T1: then with the first node that differs, both values, error, bound, index and seed. ``graph``
    stays as it is; see `assert_equivalent` for ``inputs`` and ``seed``, and draw the graph with ``stable=True``.
    """
    name_values(graph)
    after = graph.clone()
    pipeline = pass_ if isinstance(pass_, Pipeline) else Pipeline((pass_,))
    try:
        pipeline.run(after, context, [VerifyEach(), HonestyCheck()])
    except VerifyError as error:
        raise AssertionError(f"{error}\nthe graph before:\n{graph}") from error
    try:
        assert_equivalent(graph, after, inputs, seed=seed)
    except AssertionError as error:
        raise AssertionError(f"'{pass_}' changed the meaning: {error}\nthe graph before:\n{graph}\nand after:\n{after}") from None
    return after


def assert_lowering_preserves(
    backend: Backend[Any], graph: Graph, inputs: Mapping[str, Array] | None = None, *, options: object | None = None, seed: int = 0
) -> None:
    """Lower a copy of ``graph``, run it, and compare with its evaluation in float64.

    Composite operations that the backend does not lower itself are decomposed first, as a compile does. The bound is T1's in f64, and the
    same with the roundoff of f32 where the graph computes in f32; narrower graphs raise ValueError: hold those to T3. AssertionError where
    the backend refuses the graph, or with the first node that differs, both values, error, bound, index and seed. To name that node the
    graph is lowered once more with every value as an output. ``options`` are the backend's, by default its defaults.
    """
    chosen = options if options is not None else backend.options()
    lowered = graph.clone()
    decompose_until_legal(lowered, backend.legal_ops(chosen))
    refusals = backend.check(lowered, chosen)
    if refusals:
        lines = [line for refusal in refusals for line in refusal.lines()]
        raise AssertionError("\n".join([f"{backend.name} cannot lower {len(refusals)} of the graph's nodes", *lines]))
    unit = _computing_type(lowered)
    if inputs is not None:
        _compare(backend, chosen, lowered, inputs, unit, "given inputs")
        return
    for number, kind in enumerate(DEFAULT_KINDS):
        drawn = random_inputs(graph, seed=seed + number, kind=kind)
        _compare(backend, chosen, lowered, drawn, unit, f"{kind} inputs, seed {seed + number}")


def _computing_type(graph: Graph) -> DType:
    """The narrowest floating-point type of the graph's values."""
    found = {value.type.dtype for value in _values(graph) if value.type.dtype.is_float}
    narrow = found - {f32, f64}
    if narrow:
        raise ValueError(f"the graph computes in {', '.join(sorted(map(str, narrow)))}, whose noise hides bugs: lower an f32 or f64 graph")
    return f32 if f32 in found else f64


def _values(graph: Graph) -> list[Value]:
    return [*graph.inputs, *(value for node in graph.nodes for value in node.results)]


def _run(backend: Backend[Any], options: object, graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    with tempfile.TemporaryDirectory(prefix="cgptc-lowering-") as folder:
        backend.emit(graph, Path(folder), options)
        return backend.load(Path(folder), options).run(inputs)


def _compare(backend: Backend[Any], options: object, graph: Graph, inputs: Mapping[str, Array], unit: DType, where: str) -> None:
    expected: dict[Value, Array] = {}
    largest = 0.0

    def keep(value: Value, array: Array) -> None:
        nonlocal largest
        expected[value] = array
        if value.type.dtype.is_float:
            largest = max(largest, float(np.max(np.abs(array), initial=0.0, where=np.isfinite(array))))

    evaluate_graph(graph, inputs, wide=True, on_value=keep)
    depth = graph_depth(graph)

    def fault(value: Value, array: Array) -> Fault | None:
        return t1_fault(expected[value], np.asarray(array), depth=depth, magnitude=largest, unit=unit)

    results = _run(backend, options, graph, inputs)
    for name, value in graph.outputs:
        if name not in results:
            raise AssertionError(f"{backend.name} gives no output '{name}', only {', '.join(results) or 'none'}")
        if found := fault(value, results[name]):
            first = _first_wrong(backend, options, graph, inputs, expected, fault)
            raise AssertionError(f"{backend.name}: output '{name}' differs with {where}: {found}\n{first}\nthe graph:\n{graph}")


def _first_wrong(
    backend: Backend[Any],
    options: object,
    graph: Graph,
    inputs: Mapping[str, Array],
    expected: Mapping[Value, Array],
    fault: Callable[[Value, Array], Fault | None],
) -> str:
    """The first node that differs where every value is an output."""
    probed = graph.clone()
    mates = dict(zip(_values(probed), _values(graph), strict=True))
    probes: dict[str, Value] = {}
    for node in probed.nodes:
        for value in node.results:
            name = f"probe{len(probes)}"
            probed.add_output(name, value)
            probes[name] = value
    try:
        results = _run(backend, options, probed, inputs)
    except Exception as error:  # whatever a backend under test raises, the difference found is what matters
        return f"(no node is named: with every value as an output {backend.name} fails with {type(error).__name__}: {error})"
    for name, value in probes.items():
        mate = mates[value]
        if name in results and mate in expected and (what := fault(mate, results[name])) is not None:
            assert mate.producer is not None
            location = f"\n  from {mate.producer.location}" if mate.producer.location else ""
            return f"first difference: {node_text(mate.producer, value_names(graph))}{location}\n{what}"
    return f"(no node is named: with every value as an output {backend.name} gives what it should)"

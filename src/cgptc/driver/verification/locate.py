"""Where an artifact parts from PyTorch: in the import, in a pass, or in what the target made of the graph; and at which node."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cgptc.backends.registry import ProbingBackend
from cgptc.driver.verification.orders import shuffled
from cgptc.driver.verification.reference import Reference, artifact_graph
from cgptc.driver.verification.rounding import rounded
from cgptc.ir.binding import bind_symbols
from cgptc.ir.comparison import first_difference, graph_depth, name_values
from cgptc.ir.diagnostics import CgptcError, Exit
from cgptc.ir.dtypes import DType, from_numpy
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.interpreter import evaluate_graph, evaluate_op
from cgptc.ir.op import Array
from cgptc.ir.ops.constant import Constant
from cgptc.ir.printer import node_text, value_names
from cgptc.passes.manager import PassContext, Pipeline
from cgptc.runtime.compiled import Artifact, Target
from cgptc.runtime.inputs import complete_inputs
from cgptc.runtime.interface import Interface
from cgptc.testing.tolerances import T3_RMSE_FACTOR, UNIT_ROUNDOFF, noise_floor, rmse, t1_fault

SAMPLES = 3


@dataclass(frozen=True)
class Place:
    """Where things go wrong: ``culprit`` in words, then lines on the node, its location and the fault."""

    culprit: str
    lines: tuple[str, ...] = ()


def locate(artifact: Artifact, reference: Reference, inputs: Mapping[str, Array]) -> Place:
    """The first thing that is wrong on these inputs, which the model takes without a past."""
    final = artifact_graph(artifact, reference)
    expected = reference.exact(complete_inputs(Interface.of(reference.graph), inputs))
    try:
        if _agrees(final, inputs, expected):
            return _in_target(artifact, reference, final, inputs)
    except KeyError as error:
        return Place(f"the model to compare with has no weight {error}: it is another model")
    if not _agrees(reference.graph, inputs, expected):
        return _in_import(reference, inputs)
    return _in_passes(artifact, reference, inputs, expected)


def _wide(graph: Graph, inputs: Mapping[str, Array]) -> dict[str, Array]:
    return evaluate_graph(graph, complete_inputs(Interface.of(graph), inputs), wide=True)


def _agrees(graph: Graph, inputs: Mapping[str, Array], expected: Mapping[str, Array]) -> bool:
    found = _wide(graph, inputs)
    depth = graph_depth(graph)
    return all(t1_fault(array, found[name], depth=depth) is None for name, array in expected.items())


def _in_import(reference: Reference, inputs: Mapping[str, Array]) -> Place:
    """The first submodule to finish none of whose nodes gives what it returned."""
    graph = reference.graph
    complete = complete_inputs(Interface.of(graph), inputs)
    depth = graph_depth(graph)
    outputs = reference.submodules(complete)
    wanted = {output.path for output in outputs}
    by_path: dict[str, list[tuple[Node, tuple[Array, ...]]]] = {}
    values: dict[Value, Array] = {}
    evaluate_graph(graph, complete, wide=True, on_value=lambda value, array: values.update({value: array}))
    for node in graph.nodes:
        for frame in node.location.frames:
            parts = frame.path.split(".")
            for path in (".".join(parts[:count]) for count in range(1, len(parts) + 1)):
                if path in wanted:
                    by_path.setdefault(path, []).append((node, tuple(values[value] for value in node.results)))
    names = value_names(graph)
    for output in outputs:
        nodes = by_path.get(output.path, [])
        for array in output.arrays:
            alike = [(node, found) for node, results in nodes for found in results if found.shape == array.shape]
            faults = [t1_fault(array, found, depth=depth) for _, found in alike]
            if alike and all(faults):
                node = alike[-1][0]
                return Place(
                    f"the import: '{output.path}' already differs",
                    (node_text(node, names), f"from {node.location}", *str(faults[-1]).splitlines()),
                )
    return Place("the import: no submodule alone differs, so it is what the model does between them")


def _in_passes(artifact: Artifact, reference: Reference, inputs: Mapping[str, Array], expected: Mapping[str, Array]) -> Place:
    """The first pass after which the graph no longer gives what is expected."""
    graph = reference.graph.clone()
    name_values(graph)
    target = artifact.load_target()
    context = PassContext(
        target=artifact.target,
        legal=target.backend.legal_ops(target.options),
        cost_model=target.backend.cost_model(target.options),
    )
    depth = graph_depth(graph)
    for number, pass_ in enumerate(Pipeline.parse(artifact.folder.manifest.pipeline).passes, 1):
        before = graph.clone()
        context.current = pass_.name
        pass_.run(graph, context)
        if _agrees(graph, inputs, expected):
            continue
        culprit = f"pass '{pass_}' (number {number})"
        if Interface.of(before).inputs != Interface.of(graph).inputs:
            return Place(culprit)
        complete = complete_inputs(Interface.of(graph), inputs)
        first = first_difference(before, graph, complete, lambda left, right: t1_fault(left, right, depth=depth))
        return Place(culprit, tuple(str(first).splitlines()) if first is not None else ())
    return Place("the artifact's graph, which this version's passes do not give: it was compiled by another version")


def _in_target(artifact: Artifact, reference: Reference, final: Graph, inputs: Mapping[str, Array]) -> Place:
    """The first node that the target computes wrongly from operands that it computed itself, when it is asked for every value.

    Of values that it cannot give, or not all together, the interpreter's take the place, up to the next that it gives.
    """
    probe = final.clone()
    culprit = f"what {artifact.target} made of the graph"
    target = artifact.load_target()
    shown = _computed_values(probe)
    if isinstance(target.backend, ProbingBackend):
        shown = list(target.backend.observable(probe, shown, target.options))
    if not shown:
        return Place(f"{culprit}, none of whose values can be looked at")
    complete = complete_inputs(Interface.of(probe), inputs)
    outputs = list(probe.outputs)
    while True:
        names = {value: f"probe.{number}" for number, value in enumerate(shown)}
        probe.set_outputs([*outputs, *((name, value) for value, name in names.items())])
        try:
            found = _run_probe(target, probe, complete)
            break
        except CgptcError as error:
            if error.exit is not Exit.DOES_NOT_FIT or len(shown) < 2:
                return Place(f"{culprit}, which could not be looked into: {error.what}")
            shown = shown[1::2]
    excess = _excess_by_node(probe, complete, {value: found[name] for value, name in names.items()}, reference.dtype)
    worst = max(excess.values(), default=0.0)
    if worst <= T3_RMSE_FACTOR:
        return Place(f"{culprit}: every node alone is right, so it is how the whole is run, or the weights that it holds")
    # Half way, in orders of magnitude, between what noise does and the worst node: the same fault may be in several layers.
    node = next(node for node, each in excess.items() if each >= math.sqrt(worst * T3_RMSE_FACTOR))
    size = f"its error is {excess[node]:.3g} times what its element type makes"
    return Place(culprit, (node_text(node, value_names(probe)), f"from {node.location}", size))


def _run_probe(target: Target, probe: Graph, inputs: Mapping[str, Array]) -> Mapping[str, Array]:
    with tempfile.TemporaryDirectory(prefix="cgptc-") as folder:
        target.backend.emit(probe, Path(folder), target.options)
        return target.backend.load(Path(folder), target.options).run(inputs)


def _computed_values(graph: Graph) -> list[Value]:
    return [value for node in graph.nodes if not isinstance(node.op, Constant) for value in node.results]


@dataclass(frozen=True)
class _Known:
    """A value from what the target gave before it: in float64, and as right results in its element type have it."""

    exact: Array
    samples: tuple[Array, ...]


def _excess_by_node(graph: Graph, inputs: Mapping[str, Array], found: Mapping[Value, Array], dtype: DType | None) -> dict[Node, float]:
    """For each node whose values the target gave, how many times larger its own error is than that of right results in its element types,
    rounded to ``dtype`` where that is given. What a node reads that the target did not give counts as its own.
    """

    def given(array: Array) -> _Known:
        return _Known(_wide_array(array), (array,) * SAMPLES)

    def in_type(array: Array) -> Array:
        return rounded(array, dtype) if dtype is not None else array

    sizes = bind_symbols(graph.inputs, {value.name: inputs[value.name].shape for value in graph.inputs})
    known = {value: given(inputs[value.name]) for value in graph.inputs}
    excess: dict[Node, float] = {}
    for node in graph.nodes:
        if isinstance(node.op, Constant):
            known[node.result] = given(node.op.weight.read(graph.store))
            continue
        op = node.op.bind(sizes)
        operands = [known[operand] if operand is not None else None for operand in node.operands]
        exact = evaluate_op(op.widened(), tuple(one.exact if one is not None else None for one in operands))
        samples = [
            tuple(map(in_type, shuffled(seed)(op, tuple(one.samples[seed] if one is not None else None for one in operands))))
            for seed in range(SAMPLES)
        ]
        for place, value in enumerate(node.results):
            right = tuple(sample[place] for sample in samples)
            known[value] = given(found[value].astype(right[0].dtype, copy=False)) if value in found else _Known(exact[place], right)
            if value in found:
                ratio = _excess(exact[place], found[value], right, dtype)
                excess[node] = max(excess.get(node, 0.0), ratio)
    return excess


def _wide_array(array: Array) -> Array:
    return array.astype(np.float64) if array.dtype.kind not in "iub" else array


def _excess(exact: Array, found: Array, samples: Sequence[Array], dtype: DType | None) -> float:
    if exact.shape != found.shape:
        return math.inf
    if exact.dtype.kind in "iub":
        return 0.0 if (exact == found).all() else math.inf
    finite = np.isfinite(exact)
    if (finite != np.isfinite(found.astype(np.float64))).any():
        return math.inf
    scale = float(np.max(np.abs(exact), initial=0.0, where=finite)) * UNIT_ROUNDOFF[dtype or from_numpy(found.dtype)]
    noise = max(noise_floor(exact, samples).rmse, scale / math.sqrt(found.size or 1))
    error = rmse(exact, found)
    return error / noise if noise else 0.0 if error == 0 else math.inf

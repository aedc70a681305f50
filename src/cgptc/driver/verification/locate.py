"""Where an artifact parts from PyTorch: in the import, in a pass, or in what the target made of the graph; and at which node."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cgptc.driver.verification.orders import shuffled
from cgptc.driver.verification.reference import Reference, artifact_graph
from cgptc.ir.binding import bind_symbols
from cgptc.ir.comparison import first_difference, graph_depth, name_values
from cgptc.ir.diagnostics import CgptcError
from cgptc.ir.dtypes import from_numpy
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.interpreter import evaluate_graph, evaluate_op
from cgptc.ir.op import Array
from cgptc.ir.ops.constant import Constant
from cgptc.ir.printer import node_text, value_names
from cgptc.passes.manager import PassContext, Pipeline
from cgptc.runtime.compiled import Artifact
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
            return _in_target(artifact, final, inputs)
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


def _in_target(artifact: Artifact, final: Graph, inputs: Mapping[str, Array]) -> Place:
    """The first node that the target computes wrongly from operands that it computed itself, when it is asked for every value."""
    probe = final.clone()
    culprit = f"what {artifact.target} made of the graph"
    shown = {value: f"probe.{number}" for number, value in enumerate(_computed_values(probe))}
    complete = complete_inputs(Interface.of(probe), inputs)
    probe.set_outputs([*probe.outputs, *((name, value) for value, name in shown.items())])
    target = artifact.load_target()
    with tempfile.TemporaryDirectory(prefix="cgptc-") as folder:
        try:
            target.backend.emit(probe, Path(folder), target.options)
            found = target.backend.load(Path(folder), target.options).run(complete)
        except CgptcError as error:
            return Place(f"{culprit}, which could not be looked into: {error.what}")
    values = {value: complete[value.name] for value in probe.inputs} | {value: found[name] for value, name in shown.items()}
    excess = _excess_by_node(probe, values)
    worst = max(excess.values(), default=0.0)
    if worst <= T3_RMSE_FACTOR:
        return Place(f"{culprit}: every node alone is right, so it is how the whole is run")
    # Half way, in orders of magnitude, between what noise does and the worst node: the same fault may be in several layers.
    node = next(node for node, each in excess.items() if each >= math.sqrt(worst * T3_RMSE_FACTOR))
    size = f"its error is {excess[node]:.3g} times what its element type makes"
    return Place(culprit, (node_text(node, value_names(probe)), f"from {node.location}", size))


def _computed_values(graph: Graph) -> list[Value]:
    return [value for node in graph.nodes if not isinstance(node.op, Constant) for value in node.results]


def _excess_by_node(graph: Graph, values: dict[Value, Array]) -> dict[Node, float]:
    """For each node, how many times larger its own error is than that of right results in its element types."""
    sizes = bind_symbols(graph.inputs, {value.name: values[value].shape for value in graph.inputs})
    excess: dict[Node, float] = {}
    for node in graph.nodes:
        if isinstance(node.op, Constant):
            values[node.result] = node.op.weight.read(graph.store)
            continue
        op = node.op.bind(sizes)
        operands = tuple(values[operand] if operand is not None else None for operand in node.operands)
        exact = evaluate_op(op.widened(), tuple(_wide_array(operand) for operand in operands))
        samples = [shuffled(seed)(op, operands) for seed in range(SAMPLES)]
        for place, value in enumerate(node.results):
            ratio = _excess(exact[place], values[value], [sample[place] for sample in samples])
            excess[node] = max(excess.get(node, 0.0), ratio)
    return excess


def _wide_array(array: Array | None) -> Array | None:
    return array.astype(np.float64) if array is not None and array.dtype.kind not in "iub" else array


def _excess(exact: Array, found: Array, samples: list[Array]) -> float:
    if exact.shape != found.shape:
        return math.inf
    if exact.dtype.kind in "iub":
        return 0.0 if (exact == found).all() else math.inf
    finite = np.isfinite(exact)
    if (finite != np.isfinite(found.astype(np.float64))).any():
        return math.inf
    scale = float(np.max(np.abs(exact), initial=0.0, where=finite)) * UNIT_ROUNDOFF[from_numpy(found.dtype)]
    noise = max(noise_floor(exact, samples).rmse, scale / math.sqrt(found.size or 1))
    error = rmse(exact, found)
    return error / noise if noise else 0.0 if error == 0 else math.inf

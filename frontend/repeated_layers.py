"""Layers that are alike, traced once: the last one that was traced is repeated under the names of those to come.

`torch.export` takes as long for each layer of a model as for the one before. Where a model's own description says that its layers are alike
but for their weights, two of them tell all; tests hold the result equal, word for word, to what tracing all of them gives.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.loc import Location
from cgptc.ir.ops.constant import Constant
from cgptc.ir.weights import Dense, Weight

TRACED = 2
"""Layers that must be traced: the second takes what a layer gives, not what the embedding does."""


def repeat_last_layer(graph: Graph, prefix: str, count: int, weights: Mapping[str, Weight]) -> None:
    """Append layers `TRACED` to ``count - 1`` behind the last one of the modules ``prefix.0`` and ``prefix.1``, in place.

    ``weights`` are the parameters of all layers by name. Raises ValueError where the last layer takes more than one value from the one
    before it, gives more than one, or holds weights that are not among ``weights``: such layers cannot be repeated.
    """
    last = f"{prefix}.{TRACED - 1}"
    order = list(graph.nodes)
    layer = [node for node in order if _belongs(node, last)]
    taken = _only({value for node in layer for value in node.inputs if _made_by(value, f"{prefix}.{TRACED - 2}")}, "takes", last)
    given = _only({value for node in layer for value in node.results if any(use.user not in layer for use in value.uses)}, "gives", last)
    parameters = {node: _parameter(node, last, weights) for node in layer if isinstance(node.op, Constant)}
    # Parameters stand ahead of all else, in order. What comes between the two parts belongs to no layer or to one before.
    ahead = [node for node in layer if not node.location]
    before = {node: _behind(order, ahead if node in ahead else layer) for node in layer}
    leaving = {use for use in given.uses if use.user not in layer}
    current = given
    for number in range(TRACED, count):
        values = {taken: current}
        for node in layer:
            name = parameters.get(node, "")
            op = Constant(weights[_renamed(name, last, f"{prefix}.{number}")]) if name else node.op
            operands = [values.get(operand, operand) if operand is not None else None for operand in node.operands]
            location = _relocated(node.location, last, f"{prefix}.{number}")
            twin = graph.insert(op, operands, before=before[node], location=location, stage=node.stage)
            for old, new in zip(node.results, twin.results, strict=True):
                new.name = _renamed(old.name, last, f"{prefix}.{number}")
                values[old] = new
        current = values[given]
    graph.replace_uses(given, current, lambda use: use in leaving)


def _belongs(node: Node, module: str) -> bool:
    paths = [frame.path for frame in node.location.frames] or [value.name for value in node.results]
    return any(path == module or path.startswith(f"{module}.") for path in paths)


def _made_by(value: Value, module: str) -> bool:
    return value.producer is not None and _belongs(value.producer, module)


def _only(values: set[Value], does: str, module: str) -> Value:
    if len(values) != 1:
        raise ValueError(f"'{module}' {does} {len(values)} values instead of one")
    return next(iter(values))


def _parameter(node: Node, module: str, weights: Mapping[str, Weight]) -> str:
    """The name of the parameter that a constant is; empty for a small constant of the model's code."""
    assert isinstance(node.op, Constant)
    name = node.result.name
    if isinstance(node.op.weight, Dense) and name not in weights:
        return ""
    if weights.get(name) != node.op.weight:
        raise ValueError(f"'{module}' holds a weight '{name}' that is no parameter of its own")
    return name


def _behind(order: Sequence[Node], part: Sequence[Node]) -> Node | None:
    """The node that follows the last one of a part."""
    place = order.index(part[-1]) + 1
    return order[place] if place < len(order) else None


def _renamed(name: str, old: str, new: str) -> str:
    return new + name.removeprefix(old) if name.startswith(f"{old}.") or name == old else name


def _relocated(location: Location, old: str, new: str) -> Location:
    return Location(tuple(replace(frame, path=_renamed(frame.path, old, new)) for frame in location.frames))

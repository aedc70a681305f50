"""The text form of graphs: exact, so that parsing it gives an equal graph and printing that gives the same bytes.

    graph @main(batch: 1..8, seq: 1..2048) {
      input %input_ids : i64[batch, seq]
      %0 = constant {weight=@"wte.weight": f32[50257, 768]} : f32[50257, 768]
      %hidden = embedding(%0, %input_ids) : f32[batch, seq, 768] loc("transformer.wte" "gpt2.py":10)
      %1, %2 = split(%hidden) {axis=1, sizes=[1, seq - 1]} : f32[batch, 1, 768], f32[batch, seq - 1, 768] @2
      return logits=%1
    }

A value is named by its hint; one without is numbered, and one whose hint is taken gets ``#1``, ``#2``, … behind it. ``_`` is an absent
operand, ``@2`` a stage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cgptc.ir.attributes import attributes
from cgptc.ir.dims import Dim, Expr, Symbol, symbols
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.loc import Frame, Location
from cgptc.ir.types import TensorType
from cgptc.ir.value_text import name_text, op_attributes, quoted


def print_graph(graph: Graph) -> str:
    """The graph as text, ending in a newline. A graph that the verifier rejects prints as well as it can."""
    names = value_names(graph)
    lines = [f"graph @{name_text(graph.name)}{_header(graph)} {{"]
    lines += [f"  input {names[value]} : {value.type}" for value in graph.inputs]
    lines += [f"  {node_text(node, names)}" for node in graph.nodes]
    outputs = ", ".join(f"{name_text(name)}={_operand(value, names)}" for name, value in graph.outputs)
    lines.append(f"  return {outputs}".rstrip())
    lines.append("}\n")
    return "\n".join(lines)


def value_names(graph: Graph) -> dict[Value, str]:
    """The name of every value in the text form, unique, in order."""
    names: dict[Value, str] = {}
    taken: dict[str, int] = {}
    unnamed = 0
    for value in graph.inputs:
        names[value] = _hinted(value.name, taken)
    for node in graph.nodes:
        for value in node.results:
            if value.name:
                names[value] = _hinted(value.name, taken)
            else:
                names[value] = f"%{unnamed}"
                unnamed += 1
    return names


def _hinted(hint: str, taken: dict[str, int]) -> str:
    count = taken.get(hint, 0)
    taken[hint] = count + 1
    return f"%{name_text(hint)}#{count}" if count else f"%{name_text(hint)}"


def node_text(node: Node, names: Mapping[Value, str]) -> str:
    """One node as the text form has it."""
    text = node.op.name
    if node.operands or node.op.parameters:
        text += f"({', '.join(_operand(operand, names) for operand in node.operands)})"
    if node.results:
        text = f"{', '.join(_operand(value, names) for value in node.results)} = {text}"
    if written := op_attributes(node.op):
        text += f" {written}"
    if node.results:
        text += f" : {', '.join(str(value.type) for value in node.results)}"
    if node.stage is not None:
        text += f" @{node.stage}"
    if node.location:
        text += f" {location_text(node.location)}"
    return text


def _operand(value: Value | None, names: Mapping[Value, str]) -> str:
    if value is None:
        return "_"
    return names.get(value, f"%<{value.name}>")  # a value of no node of this graph: the verifier says so


def location_text(location: Location) -> str:
    """``loc("module.path" "file.py":12, …)``."""
    return f"loc({', '.join(map(_frame, location.frames))})"


def _frame(frame: Frame) -> str:
    if not frame.file and not frame.line:
        return quoted(frame.path)
    return f"{quoted(frame.path)} {quoted(frame.file)}" + (f":{frame.line}" if frame.line else "")


def excerpt(graph: Graph, node: Node | None, around: int = 10) -> str:
    """The lines around a node, marked with an arrow; the first lines where there is none."""
    names = value_names(graph)
    nodes = list(graph.nodes)
    centre = next((index for index, other in enumerate(nodes) if other is node), 0)
    lines = []
    for index in range(max(0, centre - around), min(len(nodes), centre + around + 1)):
        mark = "->" if nodes[index] is node else "  "
        lines.append(f"{mark} {node_text(nodes[index], names)}")
    if node is not None and not any(other is node for other in nodes):
        lines.insert(0, f"-> {node_text(node, names)}  // not in the graph")
    return "\n".join(lines)


def _header(graph: Graph) -> str:
    found: dict[Symbol, None] = {}
    for value in graph.inputs:
        _collect(found, value.type)
    for node in graph.nodes:
        for symbol in _attribute_symbols(node):
            found.setdefault(symbol)
        for value in node.results:
            _collect(found, value.type)
    if not found:
        return ""
    return f"({', '.join(f'{symbol.name}: {symbol.low}..{symbol.high}' for symbol in found)})"


def _collect(found: dict[Symbol, None], type: TensorType) -> None:
    for dim in type.shape:
        if isinstance(dim, Expr):
            for symbol in symbols([dim]).values():
                found.setdefault(symbol)


def _attribute_symbols(node: Node) -> Iterator[Symbol]:
    for attribute in attributes(type(node.op)):
        value = getattr(node.op, attribute.name)
        items: tuple[Dim | object, ...] = value if isinstance(value, tuple) else (value,)
        for item in items:
            if isinstance(item, Expr):
                yield from symbols([item]).values()

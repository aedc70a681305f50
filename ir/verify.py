"""What holds of every graph between passes. A graph that breaks it is a bug in cgptc, never in the user's model.

The invariants, each the first word of its error:

* links: the list of nodes is whole in both directions, and counted right;
* ownership: a value knows the node that makes it;
* dominance: a node uses inputs and results of nodes before it only;
* uses: every use is listed, and every listed use is real;
* arity: an op has the operands that it declares;
* attributes: they are plain values of their declared types;
* types: results have the types that ``infer`` gives;
* weights: their shapes are static;
* names: inputs, and outputs, have names that differ;
* symbols: one name has one pair of bounds, and the inputs' sizes determine it;
* stages: counted from 0, on every node or on none, and no value flows back to an earlier one;
* locations: no absolute path.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePosixPath, PureWindowsPath
from typing import NoReturn

from cgptc.ir.attributes import accepts, attributes
from cgptc.ir.binding import determined_symbols
from cgptc.ir.diagnostics import OpTypeError, VerifyError
from cgptc.ir.dims import Dim, Expr, Symbol, symbols
from cgptc.ir.graph import Graph, Node, Use, Value
from cgptc.ir.op import Op, result_types
from cgptc.ir.printer import excerpt
from cgptc.ir.staged import stage_faults
from cgptc.ir.weights import Weight


def verify(graph: Graph) -> None:
    """Raise `VerifyError`, naming the invariant with the nodes around, unless all of them hold. Near-linear, changes nothing."""
    _verify_links(graph)
    check = _Checker(graph)
    check.inputs()
    for node in graph.nodes:
        check.node(node)
    check.outputs()
    for node, fault in stage_faults(graph):
        _fail(graph, "stages", fault, node)
    check.all_uses()
    check.all_symbols()


def _fail(graph: Graph, invariant: str, what: str, node: Node | None = None) -> NoReturn:
    raise VerifyError(f"{invariant}: {what}\n{excerpt(graph, node)}")


def _verify_links(graph: Graph) -> None:
    """Walks by hand: nothing else may iterate over the nodes before the list is known to end."""
    previous: Node | None = None
    node = graph._first
    count = 0
    while node is not None:
        if node._previous is not previous:
            raise VerifyError(f"links: {node!r} does not follow {previous!r} in both directions")
        if not node.alive:
            raise VerifyError(f"links: the erased {node!r} is still in the list")
        count += 1
        if count > graph.node_count:
            raise VerifyError(f"links: the list has more than {graph.node_count} nodes")
        previous, node = node, node._next
    if graph._last is not previous:
        raise VerifyError(f"links: the list ends at {previous!r}, the graph says {graph._last!r}")
    if count != graph.node_count:
        raise VerifyError(f"links: the list has {count} nodes, the graph says {graph.node_count}")


class _Checker:
    """One walk over a graph, with what was seen on the way."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.uses: dict[Value, dict[Use, None]] = {}  # values defined so far, and the uses found of each
        self.symbols: dict[str, tuple[Symbol, Node | None]] = {}

    def inputs(self) -> None:
        graph = self.graph
        names = [value.name for value in graph.inputs]
        self._distinct(names, "inputs")
        for value in graph.inputs:
            if value.producer is not None:
                _fail(graph, "ownership", f"input '{value.name}' claims to be made by {value.producer!r}")
            self.uses[value] = {}
            self._note_symbols(value.type.shape, None)

    def _distinct(self, names: list[str], what: str) -> None:
        seen: set[str] = set()
        for name in names:
            if not name:
                _fail(self.graph, "names", f"one of the {what} has no name")
            if name in seen:
                _fail(self.graph, "names", f"two {what} are named '{name}'")
            seen.add(name)

    def node(self, node: Node) -> None:
        graph = self.graph
        for index, operand in enumerate(node.operands):
            if operand is None:
                continue
            if operand not in self.uses:
                _fail(graph, "dominance", f"operand {index} is not defined before {node!r}", node)
            self.uses[operand][Use(node, index)] = None
        if fault := arity_fault(node.op, node.operands):
            _fail(graph, "arity", fault, node)
        self._attributes(node)
        self._types(node)
        for index, value in enumerate(node.results):
            if value.producer is not node or value.result_index != index:
                _fail(graph, "ownership", f"result {index} claims to be result {value.result_index} of {value.producer!r}", node)
            self.uses[value] = {}
        for frame in node.location.frames:
            if PurePosixPath(frame.file).is_absolute() or PureWindowsPath(frame.file).is_absolute():
                _fail(graph, "locations", f"'{frame.file}' is an absolute path", node)

    def _attributes(self, node: Node) -> None:
        for attribute in attributes(type(node.op)):
            value = getattr(node.op, attribute.name)
            if not accepts(attribute.type, value):
                what = f"'{attribute.name}' of '{node.op.name}' must be {attribute.type}, got {value!r} of type {type(value).__name__}"
                _fail(self.graph, "attributes", what, node)
            items = value if isinstance(value, tuple) else (value,)
            self._note_symbols((item for item in items if isinstance(item, Expr)), node)
            if isinstance(value, Weight) and not value.type.is_static:
                _fail(self.graph, "weights", f"'{attribute.name}' of '{node.op.name}' has the type {value.type}", node)

    def _types(self, node: Node) -> None:
        try:
            inferred = result_types(node.op.infer(*node.operand_types))
        except OpTypeError as error:
            _fail(self.graph, "types", f"'{node.op.name}' does not accept its operands: {error}", node)
        held = tuple(value.type for value in node.results)
        if inferred != held:
            _fail(self.graph, "types", f"'{node.op.name}' gives {list(inferred)}, its results are {list(held)}", node)
        for type_ in held:
            self._note_symbols(type_.shape, node)

    def outputs(self) -> None:
        graph = self.graph
        self._distinct([name for name, _ in graph.outputs], "outputs")
        for index, (name, value) in enumerate(graph.outputs):
            if value not in self.uses:
                _fail(graph, "dominance", f"output '{name}' is not a value of the graph")
            self.uses[value][Use(None, index)] = None

    def all_uses(self) -> None:
        for value, found in self.uses.items():
            if found.keys() != value._uses.keys():
                missing = [use for use in found if use not in value._uses]
                stale = [use for use in value._uses if use not in found]
                what = f"{value!r} does not list {missing[0]!r}" if missing else f"{value!r} lists {stale[0]!r}, which is not"
                _fail(self.graph, "uses", what, value.producer)

    def _note_symbols(self, dims: Iterable[Dim], node: Node | None) -> None:
        for dim in dims:
            if isinstance(dim, Expr):
                for name, symbol in symbols([dim]).items():
                    known, _ = self.symbols.setdefault(name, (symbol, node))
                    if known != symbol:
                        what = f"'{name}' is bounded by {known.low}..{known.high} and by {symbol.low}..{symbol.high}"
                        _fail(self.graph, "symbols", what, node)

    def all_symbols(self) -> None:
        determined = determined_symbols(dim for value in self.graph.inputs for dim in value.type.shape)
        for name, (_, node) in self.symbols.items():
            if name not in determined:
                _fail(self.graph, "symbols", f"the inputs' sizes do not determine '{name}'", node)


def arity_fault(op: Op, operands: tuple[Value | None, ...]) -> str:
    """What is wrong with the number of operands, or with an absent one; "" where it fits the op's declaration."""
    parameters = op.parameters
    variadic = bool(parameters) and parameters[-1].variadic
    fixed = parameters[:-1] if variadic else parameters
    required = sum(1 for parameter in fixed if not parameter.optional)
    if len(operands) < required or (len(operands) > len(fixed) and not variadic):
        names = ", ".join(f"*{p.name}" if p.variadic else f"{p.name}?" if p.optional else p.name for p in parameters)
        return f"'{op.name}' takes ({names}), got {len(operands)} operands"
    for parameter, operand in zip(fixed, operands, strict=False):
        if operand is None and not parameter.optional:
            return f"operand '{parameter.name}' of '{op.name}' must not be absent"
    if any(operand is None for operand in operands[len(fixed) :]):
        return f"'{op.name}' takes no absent operands after the first {len(fixed)}"
    return ""

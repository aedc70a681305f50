"""The graph: mutable places that hold immutable values.

A `Graph` holds an ordered list of `Node` in SSA form with exact use-lists. It is edited in place through the methods of `Graph`
alone, each of which bumps ``version``. What a node holds (op, location, stage) is a frozen value; names are hints for the printer,
except those of inputs and outputs, which are the graph's interface.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from cgptc.ir.dims import Symbol, symbols
from cgptc.ir.loc import UNKNOWN, Location
from cgptc.ir.op import Op, result_types
from cgptc.ir.types import TensorType
from cgptc.ir.weights import EMPTY_STORE, WeightStore


@dataclass(frozen=True)
class Use:
    """Operand ``index`` of ``user``, or output ``index`` of the graph where ``user`` is None."""

    user: Node | None
    index: int


class Value:
    """A result of a node, or an input of the graph. Identity is the object; ``name`` is a hint."""

    __slots__ = ("_type", "_uses", "name", "producer", "result_index")

    def __init__(self, type: TensorType, name: str = "", producer: Node | None = None, result_index: int = 0) -> None:
        self._type = type
        self.name = name
        self.producer = producer
        self.result_index = result_index
        self._uses: dict[Use, None] = {}

    @property
    def type(self) -> TensorType:
        return self._type

    @property
    def uses(self) -> tuple[Use, ...]:
        """Every use, graph outputs included, in the order in which they were made."""
        return tuple(self._uses)

    @property
    def use_count(self) -> int:
        return len(self._uses)

    @property
    def users(self) -> tuple[Node, ...]:
        """The nodes that use it, each once."""
        return tuple(dict.fromkeys(use.user for use in self._uses if use.user is not None))

    @property
    def is_output(self) -> bool:
        return any(use.user is None for use in self._uses)

    @property
    def op(self) -> Op | None:
        """The op that produces it; None for a graph input."""
        return self.producer.op if self.producer is not None else None

    def __repr__(self) -> str:
        return f"%{self.name or '?'} : {self._type}"


class Node:
    """One operation in a graph. Made by `Graph.insert`; read freely, edited through the graph."""

    __slots__ = ("_next", "_op", "_operands", "_previous", "alive", "location", "results", "stage")

    def __init__(
        self, op: Op, operands: Sequence[Value | None], types: Iterable[TensorType], location: Location, stage: int | None
    ) -> None:
        self._op = op
        self._operands: list[Value | None] = list(operands)
        self.results: tuple[Value, ...] = tuple(Value(type_, producer=self, result_index=i) for i, type_ in enumerate(types))
        self.location = location
        self.stage = stage
        self.alive = True
        self._next: Node | None = None
        self._previous: Node | None = None

    @property
    def op(self) -> Op:
        return self._op

    @property
    def operands(self) -> tuple[Value | None, ...]:
        """The operands; None stands for an optional one that is absent."""
        return tuple(self._operands)

    @property
    def inputs(self) -> tuple[Value, ...]:
        """The operands that are present."""
        return tuple(operand for operand in self._operands if operand is not None)

    @property
    def result(self) -> Value:
        """The only result; ValueError where there are several."""
        (value,) = self.results
        return value

    @property
    def operand_types(self) -> tuple[TensorType | None, ...]:
        return tuple(operand.type if operand is not None else None for operand in self._operands)

    def __repr__(self) -> str:
        operands = ", ".join("_" if operand is None else f"%{operand.name or '?'}" for operand in self._operands)
        return f"{', '.join(map(repr, self.results))} = {self._op.name}({operands})"


class Graph:
    """A tensor dataflow graph over symbolic shapes, with its weights by reference.

    ``store`` is where weight references are read from; a graph without bytes has the empty store.
    """

    def __init__(self, name: str = "main", store: WeightStore = EMPTY_STORE) -> None:
        self.name = name
        self.store = store
        self.version = 0
        self._inputs: list[Value] = []
        self._input_names: dict[str, Value] = {}
        self._output_names: set[str] = set()
        self._outputs: list[tuple[str, Value]] = []
        self._first: Node | None = None
        self._last: Node | None = None
        self._node_count = 0

    # Reading

    @property
    def inputs(self) -> tuple[Value, ...]:
        return tuple(self._inputs)

    @property
    def outputs(self) -> tuple[tuple[str, Value], ...]:
        """Names and values, in order."""
        return tuple(self._outputs)

    @property
    def node_count(self) -> int:
        return self._node_count

    @property
    def nodes(self) -> Iterator[Node]:
        """All nodes in order. Nodes may be inserted and erased meanwhile; those inserted after the current one are visited."""
        node = self._first
        while node is not None:
            if node.alive:
                yield node
            node = node._next

    @property
    def reversed_nodes(self) -> Iterator[Node]:
        """All nodes from the last to the first. Nodes may be erased meanwhile."""
        node = self._last
        while node is not None:
            if node.alive:
                yield node
            node = node._previous

    @property
    def symbols(self) -> dict[str, Symbol]:
        """Symbols of the inputs' and results' types, by name, in order of first occurrence."""
        found = symbols(dim for value in self._inputs for dim in value.type.shape)
        for node in self.nodes:
            for value in node.results:
                for name, symbol in symbols(value.type.shape).items():
                    found.setdefault(name, symbol)
        return found

    def input(self, name: str) -> Value:
        """The input of that name; KeyError where there is none."""
        for value in self._inputs:
            if value.name == name:
                return value
        raise KeyError(name)

    def output(self, name: str) -> Value:
        """The output of that name; KeyError where there is none."""
        for output_name, value in self._outputs:
            if output_name == name:
                return value
        raise KeyError(name)

    # Editing

    def add_input(self, name: str, type: TensorType) -> Value:
        """Append an input; ValueError where the name is taken."""
        if name in self._input_names and self._input_names[name].name == name:
            raise ValueError(f"the graph already has an input '{name}'")
        value = Value(type, name)
        self._inputs.append(value)
        self._input_names[name] = value
        self.version += 1
        return value

    def remove_input(self, value: Value) -> None:
        """Remove an unused input."""
        if value._uses:
            raise ValueError(f"input '{value.name}' is still used")
        self._inputs.remove(value)
        if self._input_names.get(value.name) is value:
            del self._input_names[value.name]
        self.version += 1

    def add_output(self, name: str, value: Value) -> None:
        """Append an output; ValueError where the name is taken."""
        if name in self._output_names:
            raise ValueError(f"the graph already has an output '{name}'")
        self._output_names.add(name)
        self._outputs.append((name, value))
        value._uses[Use(None, len(self._outputs) - 1)] = None
        self.version += 1

    def set_outputs(self, outputs: Iterable[tuple[str, Value]]) -> None:
        """Replace all outputs."""
        for index, (_, value) in enumerate(self._outputs):
            del value._uses[Use(None, index)]
        self._outputs = []
        self._output_names = set()
        for name, value in outputs:
            self.add_output(name, value)
        self.version += 1

    def insert(
        self,
        op: Op,
        operands: Sequence[Value | None],
        *,
        before: Node | None = None,
        location: Location = UNKNOWN,
        stage: int | None = None,
    ) -> Node:
        """Make a node before ``before``, or at the end; its result types are inferred. Raises `OpTypeError` for wrong operands."""
        types = result_types(op.infer(*(operand.type if operand is not None else None for operand in operands)))
        node = Node(op, operands, types, location, stage)
        for index, operand in enumerate(operands):
            if operand is not None:
                operand._uses[Use(node, index)] = None
        node._next = before
        node._previous = before._previous if before is not None else self._last
        if node._previous is not None:
            node._previous._next = node
        else:
            self._first = node
        if before is not None:
            before._previous = node
        else:
            self._last = node
        self._node_count += 1
        self.version += 1
        return node

    def erase(self, node: Node) -> None:
        """Remove a node none of whose results is used; ValueError otherwise."""
        if any(value._uses for value in node.results):
            raise ValueError(f"'{node!r}' is still used")
        for index, operand in enumerate(node._operands):
            if operand is not None:
                del operand._uses[Use(node, index)]
        if node._previous is not None:
            node._previous._next = node._next
        else:
            self._first = node._next
        if node._next is not None:
            node._next._previous = node._previous
        else:
            self._last = node._previous
        node.alive = False  # its own links stay, so that an iteration standing on it goes on
        self._node_count -= 1
        self.version += 1

    def set_operand(self, node: Node, index: int, value: Value | None) -> None:
        """Replace one operand. Types are not inferred again; the verifier holds them."""
        old = node._operands[index]
        if old is not None:
            del old._uses[Use(node, index)]
        node._operands[index] = value
        if value is not None:
            value._uses[Use(node, index)] = None
        self.version += 1

    def set_op(self, node: Node, op: Op) -> None:
        """Replace a node's op, keeping operands; result types are inferred again."""
        node._op = op
        self.reinfer(node)

    def reinfer(self, node: Node) -> None:
        """Infer a node's result types again after its operands changed."""
        for value, type_ in zip(node.results, result_types(node._op.infer(*node.operand_types)), strict=True):
            value._type = type_
        self.version += 1

    def set_input_type(self, value: Value, type: TensorType) -> None:
        """Change an input's type. Users are not inferred again."""
        value._type = type
        self.version += 1

    def replace_uses(self, old: Value, new: Value, where: Callable[[Use], bool] | None = None) -> None:
        """Make users of ``old``, graph outputs included, use ``new``; ``where`` chooses among them."""
        for use in old.uses:
            if where is not None and not where(use):
                continue
            del old._uses[use]
            new._uses[use] = None
            if use.user is None:
                self._outputs[use.index] = (self._outputs[use.index][0], new)
            else:
                use.user._operands[use.index] = new
        self.version += 1

    def move_before(self, node: Node, before: Node) -> None:
        """Move a node to stand right before another."""
        if node is before or node._next is before:
            return
        if node._previous is not None:
            node._previous._next = node._next
        else:
            self._first = node._next
        if node._next is not None:
            node._next._previous = node._previous
        else:
            self._last = node._previous
        node._next, node._previous = before, before._previous
        if before._previous is not None:
            before._previous._next = node
        else:
            self._first = node
        before._previous = node
        self.version += 1

    def set_location(self, node: Node, location: Location) -> None:
        node.location = location
        self.version += 1

    def set_stage(self, node: Node, stage: int | None) -> None:
        node.stage = stage
        self.version += 1

    def clone(self) -> Graph:
        """An equal graph that shares only frozen values and the weight store."""
        copy = Graph(self.name, self.store)
        values: dict[Value, Value] = {}
        for value in self._inputs:
            values[value] = copy.add_input(value.name, value.type)
        for node in self.nodes:
            operands = [values[operand] if operand is not None else None for operand in node._operands]
            twin = copy.insert(node.op, operands, location=node.location, stage=node.stage)
            for old, new in zip(node.results, twin.results, strict=True):
                new.name = old.name
                new._type = old._type
                values[old] = new
        for name, value in self._outputs:
            copy.add_output(name, values[value])
        return copy

    def __str__(self) -> str:
        from cgptc.ir.printer import print_graph

        return print_graph(self)

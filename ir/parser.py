"""Reads the text form of graphs. `printer` documents the form.

Types after the results may be left out, and so may attributes that have a default; ``//`` starts a comment. Any text gives a graph or a
`MalformedError` whose message starts with ``line:column``; reading takes time linear in the text.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import cgptc.ir.ops  # noqa: F401 (registers every op)
from cgptc.ir.attributes import attributes
from cgptc.ir.diagnostics import OpTypeError
from cgptc.ir.dims import Symbol
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.lexer import Lexer, Token, did_you_mean
from cgptc.ir.loc import UNKNOWN, Frame, Location
from cgptc.ir.op import OPS, Op
from cgptc.ir.types import TensorType
from cgptc.ir.value_parser import parse_attribute, parse_type
from cgptc.ir.verify import arity_fault
from cgptc.ir.weights import EMPTY_STORE, WeightStore


def parse_graph(text: str, store: WeightStore = EMPTY_STORE, *, file: str = "") -> Graph:
    """The graph that a text describes; ``store`` is where its weights are read from, ``file`` what errors name.

    Raises `MalformedError` at the first fault.
    """
    return _GraphParser(Lexer(text, file)).parse(store)


class _GraphParser:
    def __init__(self, lexer: Lexer) -> None:
        self.lexer = lexer
        self.symbols: dict[str, Symbol] = {}
        self.values: dict[str, Value] = {}
        self.types: dict[str, TensorType] = {}  # by their text: a graph has few types, each many times

    def parse(self, store: WeightStore) -> Graph:
        lexer = self.lexer
        lexer.expect_word("graph")
        lexer.expect("@", " before the graph's name")
        graph = Graph(lexer.name("the graph's name"), store)
        if lexer.take("("):
            self._list(")", self._symbol)
        lexer.expect("{")
        while lexer.is_word("input"):
            lexer.advance()
            self._input(graph)
        while not lexer.is_word("return"):
            self._node(graph)
        lexer.advance()
        self._outputs(graph)
        if lexer.token.kind != "end":
            raise lexer.expected("the end of the text")
        return graph

    def _list(self, close: str, item: Callable[[], None]) -> None:
        """``item, item, …`` up to the closing mark."""
        first = True
        while not self.lexer.is_mark(close):
            if not first:
                self.lexer.expect(",", f" or '{close}'")
            item()
            first = False
        self.lexer.advance()

    def _symbol(self) -> None:
        lexer = self.lexer
        token = lexer.token
        if token.kind != "word":
            raise lexer.expected("the name of a symbol")
        lexer.advance()
        if token.text in self.symbols:
            raise lexer.error(f"symbol '{token.text}' is declared twice", at=token.offset)
        lexer.expect(":", " before the symbol's bounds")
        low = self._bound()
        lexer.expect("..", " between the symbol's bounds")
        high = self._bound()
        try:
            self.symbols[token.text] = Symbol(token.text, low, high)
        except ValueError as error:
            raise lexer.error(str(error), at=token.offset) from None

    def _bound(self) -> int:
        return -self.lexer.integer("a bound") if self.lexer.take("-") else self.lexer.integer("a bound")

    def _input(self, graph: Graph) -> None:
        token, name = self._value_name()
        if not token.text.startswith('%"') and not name:
            raise self.lexer.error("an input needs a name", at=token.offset)
        self.lexer.expect(":", " before the input's type")
        type_ = self._type()
        try:
            self._define(token, graph.add_input(name, type_))
        except ValueError as error:
            raise self.lexer.error(str(error), at=token.offset) from None

    def _type(self) -> TensorType:
        lexer = self.lexer
        text = lexer.through("]")
        known = self.types.get(text)
        if known is not None:
            lexer.skip(len(text))
            return known
        start = lexer.token.offset
        type_ = parse_type(lexer, self.symbols)
        if text == lexer.between(start, lexer.consumed):
            self.types[text] = type_
        return type_

    def _value_name(self) -> tuple[Token, str]:
        """The token of a value's name, and the hint in it."""
        lexer = self.lexer
        token = lexer.token
        if token.kind != "value":
            raise lexer.expected("a value such as '%x'")
        if token.text.startswith('%"'):
            hint = lexer.unquote(token.text[1 : token.text.rindex('"') + 1])
        else:
            hint = token.text[1:].partition("#")[0]
            hint = "" if hint.isdecimal() else hint
        lexer.advance()
        return token, hint

    def _define(self, token: Token, value: Value) -> None:
        if token.text in self.values:
            raise self.lexer.error(f"'{token.text}' is defined twice", at=token.offset)
        self.values[token.text] = value

    def _use(self) -> Value:
        lexer = self.lexer
        token = lexer.token
        if token.kind != "value":
            raise lexer.expected("a value such as '%x'")
        if token.text not in self.values:
            raise lexer.error(f"'{token.text[:60]}' is not defined here", fix=did_you_mean(token.text, self.values))
        lexer.advance()
        return self.values[token.text]

    def _node(self, graph: Graph) -> None:
        lexer = self.lexer
        results: list[tuple[Token, str]] = []
        if lexer.token.kind == "value":
            results.append(self._value_name())
            while lexer.take(","):
                results.append(self._value_name())
            lexer.expect("=", " after the results")
        start = lexer.token
        if start.kind != "word":
            raise lexer.expected("a node such as '%y = add(%a, %b)', or 'return'")
        lexer.advance()
        if start.text not in OPS:
            raise lexer.error(f"unknown op '{start.text[:60]}'", at=start.offset, fix=did_you_mean(start.text, OPS))
        cls = OPS[start.text]
        operands: list[Value | None] = []
        if lexer.take("("):
            self._list(")", lambda: operands.append(self._operand()))
        op = self._op(cls, start)
        node = self._insert(graph, op, operands, start)
        if len(results) != len(node.results):
            raise lexer.error(f"'{op.name}' has {len(node.results)} results, got {len(results)} names", at=start.offset)
        if lexer.take(":"):
            self._result_types(node)
        if lexer.take("@"):
            node.stage = lexer.integer("a stage")
        if lexer.is_word("loc"):
            node.location = self._location()
        for (token, hint), value in zip(results, node.results, strict=True):
            value.name = hint
            self._define(token, value)

    def _operand(self) -> Value | None:
        if self.lexer.is_word("_"):
            self.lexer.advance()
            return None
        return self._use()

    def _op(self, cls: type[Op], start: Token) -> Op:
        lexer = self.lexer
        declared = {attribute.name: attribute for attribute in attributes(cls)}
        values: dict[str, Any] = {}

        def attribute() -> None:
            token = lexer.token
            if token.kind != "word":
                raise lexer.expected("the name of an attribute")
            if token.text not in declared:
                hint = did_you_mean(token.text, declared) or (f"it has {', '.join(declared)}" if declared else "it has none")
                raise lexer.error(f"'{cls.name}' has no attribute '{token.text[:60]}'", fix=hint)
            if token.text in values:
                raise lexer.error(f"attribute '{token.text}' is given twice")
            lexer.advance()
            lexer.expect("=", " after the attribute's name")
            what = f"'{token.text}' of '{cls.name}'"
            values[token.text] = parse_attribute(lexer, declared[token.text].type, self.symbols, what)

        if lexer.take("{"):
            self._list("}", attribute)
        missing = [name for name, item in declared.items() if item.required and name not in values]
        if missing:
            raise lexer.error(f"'{cls.name}' needs the attribute '{missing[0]}'", at=start.offset)
        try:
            return cls(**values)
        except (OpTypeError, ValueError) as error:
            raise lexer.error(f"'{cls.name}': {error}", at=start.offset) from None

    def _insert(self, graph: Graph, op: Op, operands: list[Value | None], start: Token) -> Node:
        if fault := arity_fault(op, tuple(operands)):
            raise self.lexer.error(fault, at=start.offset)
        try:
            return graph.insert(op, operands)
        except OpTypeError as error:
            raise self.lexer.error(f"'{op.name}': {error}", at=start.offset) from None

    def _result_types(self, node: Node) -> None:
        lexer = self.lexer
        for index, value in enumerate(node.results):
            if index:
                lexer.expect(",", " between the types of results")
            offset = lexer.token.offset
            given = self._type()
            if value.type != given:
                raise lexer.error(f"'{node.op.name}' gives {value.type} here, got {given}", at=offset)

    def _location(self) -> Location:
        lexer = self.lexer
        lexer.advance()
        lexer.expect("(")
        frames: list[Frame] = []

        def frame() -> None:
            path = lexer.string("a module path in quotes")
            file, line = "", 0
            if lexer.token.kind == "string":
                file = lexer.string("a file")
                line = lexer.integer("a line") if lexer.take(":") else 0
            frames.append(Frame(path, file, line))

        self._list(")", frame)
        return Location(tuple(frames)) if frames else UNKNOWN

    def _outputs(self, graph: Graph) -> None:
        lexer = self.lexer
        first = True
        while not lexer.is_mark("}"):
            if not first:
                lexer.expect(",", " or '}'")
            first = False
            offset = lexer.token.offset
            name = lexer.name("the name of an output")
            lexer.expect("=", " after the output's name")
            value = self._use()
            try:
                graph.add_output(name, value)
            except ValueError as error:
                raise lexer.error(str(error), at=offset) from None
        lexer.advance()

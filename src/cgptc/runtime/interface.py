"""A model's inputs and outputs as the manifest holds them, and what generation reads from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from cgptc.artifact.canonical import Json
from cgptc.ir.diagnostics import CgptcError, MalformedError
from cgptc.ir.dims import Symbol, symbols
from cgptc.ir.graph import Graph
from cgptc.ir.lexer import Lexer
from cgptc.ir.result_tree import ResultTree
from cgptc.ir.result_tree import from_json as result_from_json
from cgptc.ir.result_tree import to_json as result_to_json
from cgptc.ir.types import TensorType
from cgptc.ir.value_parser import parse_type

IDS, MASK, LOGITS, PAST = "input_ids", "attention_mask", "logits", "past"
"""Names by which optimum and onnxruntime-genai know them too; ``past`` is the symbol of the cached length."""

_PAST_NAME = re.compile(r"past_key_values\.(\d+)\.(key|value)")
_SYMBOL_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")


@dataclass(frozen=True)
class Port:
    """An input or an output."""

    name: str
    type: TensorType


@dataclass(frozen=True)
class Interface:
    """Inputs and outputs in order. ``result`` is how the original nests the outputs that do not continue a cache, where that is known."""

    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    result: ResultTree | None = None

    @classmethod
    def of(cls, graph: Graph, result: ResultTree | None = None) -> Interface:
        """A graph's interface."""
        inputs = tuple(Port(value.name, value.type) for value in graph.inputs)
        return cls(inputs, tuple(Port(name, value.type) for name, value in graph.outputs), result)

    @property
    def symbols(self) -> dict[str, Symbol]:
        """Symbols of all types by name."""
        return symbols(dim for port in (*self.inputs, *self.outputs) for dim in port.type.shape)

    @property
    def pasts(self) -> tuple[tuple[str, str], ...]:
        """Each past input with the output that continues it."""
        outputs = {port.name for port in self.outputs}
        pairs = []
        for port in self.inputs:
            found = _PAST_NAME.fullmatch(port.name)
            if found and f"present.{found[1]}.{found[2]}" in outputs:
                pairs.append((port.name, f"present.{found[1]}.{found[2]}"))
        return tuple(pairs)

    @property
    def cached(self) -> bool:
        """Whether the model takes a past."""
        return bool(self.pasts)

    def to_json(self) -> dict[str, Json]:
        """As the manifest holds it: types as text, symbols with their bounds."""
        return {
            "symbols": {name: [symbol.low, symbol.high] for name, symbol in self.symbols.items()},
            "inputs": [{"name": port.name, "type": str(port.type)} for port in self.inputs],
            "outputs": [{"name": port.name, "type": str(port.type)} for port in self.outputs],
            **({} if self.result is None else {"result": result_to_json(self.result)}),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Json], file: str = "") -> Interface:
        """What `to_json` gave. `MalformedError` says what is wrong."""
        known: dict[str, Symbol] = {}
        for name, limits in _object(value.get("symbols"), file).items():
            match limits:
                case [int() as low, int() as high] if 0 <= low <= high < 1 << 62 and _SYMBOL_NAME.fullmatch(name):
                    known[name] = Symbol(name, low, high)
                case _:
                    raise _malformed(file, f"gives the symbol '{name[:80]}' no bounds")
        outputs = _ports(value.get("outputs"), known, file)
        try:
            result = result_from_json(value["result"], len(outputs)) if "result" in value else None
        except ValueError as error:
            raise _malformed(file, f"gives a result that {error}") from None
        found = cls(_ports(value.get("inputs"), known, file), outputs, result)
        if found.cached and any(port.name == MASK and port.type.rank != 2 for port in found.inputs):
            raise _malformed(file, f"gives '{MASK}' a type that is none of a mask")
        return found


def _ports(value: Json, known: Mapping[str, Symbol], file: str) -> tuple[Port, ...]:
    if not isinstance(value, list):
        raise _malformed(file, "has no list of inputs and outputs")
    ports: dict[str, Port] = {}
    for item in value:
        match item:
            case {"name": str() as name, "type": str() as text}:
                lexer = Lexer(text, file)
                try:
                    type_ = parse_type(lexer, known)
                except CgptcError as error:
                    raise _malformed(file, f"gives '{name[:80]}' a type that is none: {error.what}") from None
                if lexer.token.kind != "end" or name in ports:
                    raise _malformed(file, f"gives '{name[:80]}' twice, or a type with more behind it")
                ports[name] = Port(name, type_)
            case _:
                raise _malformed(file, "has an input or output without name and type")
    return tuple(ports.values())


def _object(value: Json, file: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise _malformed(file, "has no symbols")
    return value


def _malformed(file: str, what: str) -> MalformedError:
    return MalformedError("interface", f"its interface {what}", file=file, fix="compile the model again")

"""The JSON program of a ``.pt2`` archive as the neutral view. Nothing is executed, and torch is not needed.

Schema: ``torch/_export/serde/schema.py``, major version 8. Whatever is not as the schema says raises `MalformedError`.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from cgptc.frontend.aten.exported import (
    Argument,
    ExportedInput,
    ExportedNode,
    ExportedOutput,
    ExportedProgram,
    InputKind,
    Reference,
    Region,
    Unknown,
)
from cgptc.frontend.aten.size_expressions import SizeExpressionError, parse_size
from cgptc.frontend.readers.element_types import BY_SCALAR_TYPE, ReadableElement
from cgptc.frontend.source_lines import location
from cgptc.ir.diagnostics import CompileError, MalformedError, OpTypeError
from cgptc.ir.dims import Dim, Symbol
from cgptc.ir.dtypes import DType
from cgptc.ir.types import TensorType
from cgptc.ir.weights import Weight

Json = Any
"""Parsed JSON: every access below may meet anything, and `JsonProgram.checking` turns what that raises into `MalformedError`."""

UNBOUNDED = 1 << 20
"""Upper bound of a size that the file leaves open."""

AXES = ("batch", "seq")
"""Names of the first sizes of an input that stay symbolic."""

_SYMBOL = re.compile(r"Symbol\('(\w+)'(?:, \w+=\w+)*\)")
_SIMPLE = {"as_int", "as_bool", "as_string", "as_ints", "as_bools", "as_strings"}
_NAMED = {"as_sym_int", "as_sym_bool", "as_sym_float"}


@dataclass
class JsonProgram:
    """Reads ``program``, the content of ``models/<name>.json``."""

    program: Json
    file: str
    symbols: dict[str, Symbol] = field(default_factory=dict)
    lowered: list[str] = field(default_factory=list)
    """Symbols whose lower bound of 2, which torch gives every size that it does not fix, was taken for 1."""

    def view(self, weights: Mapping[str, Weight], limits: Mapping[str, int]) -> ExportedProgram:
        """The neutral view; ``limits`` bring upper bounds of symbols down.

        Raises `MalformedError`, or `CompileError` for what is not supported.
        """
        with self.checking():
            return self._view(weights, limits)

    @contextlib.contextmanager
    def checking(self) -> Iterator[None]:
        """Whatever a program that is off its schema makes fail in the block is `MalformedError`."""
        try:
            yield
        except (KeyError, TypeError, ValueError, AttributeError, IndexError, OpTypeError) as error:
            raise MalformedError(
                "damaged-program",
                f"the program in the archive is not as its schema says ({type(error).__name__}: {error})",
                file=self.file,
                fix="export the model again",
            ) from error

    def _view(self, weights: Mapping[str, Weight], limits: Mapping[str, int]) -> ExportedProgram:
        module = self.program["graph_module"]
        graph, signature = module["graph"], module["signature"]
        self._name_symbols(graph, signature, limits)
        inputs = tuple(self._input(spec, graph) for spec in signature["input_specs"])
        nodes = tuple(node for raw in graph["nodes"] for node in self._nodes(raw, graph, ""))
        specs = signature["output_specs"]
        titles = ["output"] if len(specs) == 1 else [f"output_{index}" for index in range(len(specs))]
        outputs: list[ExportedOutput] = []
        for title, spec in zip(titles, specs, strict=True):
            (kind, content), *_ = spec.items()
            if kind != "user_output":
                raise CompileError("mutating-program", f"the exported program has an output of kind '{kind}'", file=self.file)
            value = self._argument(content["arg"], graph, "")
            if value is not None:
                outputs.append(ExportedOutput(title, value))
        return ExportedProgram(inputs, nodes, tuple(outputs), weights, self.symbols)

    def _name_symbols(self, graph: Json, signature: Json, limits: Mapping[str, int]) -> None:
        """Sizes of the inputs' first two axes are ``batch`` and ``seq``, all others keep their names."""
        self.symbols, self.lowered = {}, []
        ranges = self.program["range_constraints"]
        for spec in signature["input_specs"]:
            argument = spec.get("user_input", {}).get("arg", {})
            if "as_tensor" not in argument:
                continue
            for axis, size in enumerate(graph["tensor_values"][argument["as_tensor"]["name"]]["sizes"]):
                text = _expression(size)
                if text is None or not text.isidentifier() or text in self.symbols:
                    continue
                name = AXES[axis] if axis < len(AXES) else text
                if any(symbol.name == name for symbol in self.symbols.values()):
                    name = text
                bounds = ranges.get(text) or {}
                low = bounds.get("min_val")
                if low == 2:
                    self.lowered.append(name)
                high = bounds.get("max_val")
                self.symbols[text] = Symbol(
                    name,
                    1 if low in (None, 2) else max(int(low), 0),
                    min(UNBOUNDED if high is None else int(high), limits.get(name, UNBOUNDED)),
                )

    def _input(self, spec: Json, graph: Json) -> ExportedInput:
        (kind, content), *_ = spec.items()
        match kind:
            case "parameter":
                return ExportedInput(content["arg"]["name"], InputKind.PARAMETER, content["parameter_name"], None)
            case "buffer":
                return ExportedInput(content["arg"]["name"], InputKind.BUFFER, content["buffer_name"], None)
            case "tensor_constant":
                return ExportedInput(content["arg"]["name"], InputKind.CONSTANT, content["tensor_constant_name"], None)
            case "user_input" if "as_tensor" in content["arg"]:
                name = content["arg"]["as_tensor"]["name"]
                type_ = self._type(graph["tensor_values"][name])
                if type_ is None:
                    raise CompileError("unsupported-type", f"the input '{name}' has an element type that cgptc lacks", file=self.file)
                return ExportedInput(name, InputKind.USER, name, type_)
            case "user_input":
                value = self._argument(content["arg"], graph, "")
                return ExportedInput("", InputKind.USER, "", None, value)
            case "constant_input":
                return ExportedInput(content["name"], InputKind.USER, content["name"], None, self._argument(content["value"], graph, ""))
            case _:
                raise CompileError("unsupported-input", f"the exported program has an input of kind '{kind}'", file=self.file)

    def _nodes(self, raw: Json, graph: Json, prefix: str) -> Iterator[ExportedNode]:
        """A call, and one ``getitem`` for each result of several."""
        metadata = raw.get("metadata") or {}
        stack = [part.split(",")[1] for part in (metadata.get("nn_module_stack") or "").split(";") if part.count(",") >= 2]
        paths = ["" if path.startswith("_empty_nn_module_stack") else path for path in stack]
        where = location(paths, metadata.get("stack_trace") or "")
        results = [(name, single) for output in raw["outputs"] for name, single in _results(output)]
        several = len(results) != 1 or not results[0][1]
        target = _target(raw["target"])
        arguments = self._arguments(raw, target, graph, prefix)
        types = tuple(self._type(graph["tensor_values"].get(name)) for name, _ in results)
        name = prefix + (raw.get("name") or (results[0][0] + "_call" if results and several else results[0][0] if results else target))
        if not several:
            name = prefix + results[0][0]
        yield ExportedNode(name, "region" if "region" in arguments else target, arguments, types, where)
        if several:
            for index, (result, _) in enumerate(results):
                item: dict[str, Argument] = {"container": Reference(name), "index": index}
                yield ExportedNode(prefix + result, "getitem", item, (types[index],), where)

    def _arguments(self, raw: Json, target: str, graph: Json, prefix: str) -> dict[str, Argument]:
        values = [(each["name"], each["arg"]) for each in raw["inputs"]]
        bodies = [index for index, (_, value) in enumerate(values) if "as_graph" in value]
        if not bodies:
            unnamed = target.startswith("sym.")
            return {str(index) if unnamed else name: self._argument(value, graph, prefix) for index, (name, value) in enumerate(values)}
        wrapped = ("higher_order.wrap_with_set_grad_enabled", "higher_order.wrap_with_autocast")
        if len(bodies) != 1 or target not in wrapped or (target.endswith("autocast") and values[2][1].get("as_bool")):
            return {}
        body = values[bodies[0]][1]["as_graph"]
        inner = f"{prefix}{raw.get('name') or body['name']}."
        region = Region(
            tuple(inner + each["as_tensor"]["name"] for each in body["graph"]["inputs"]),
            tuple(node for each in body["graph"]["nodes"] for node in self._nodes(each, body["graph"], inner)),
            tuple(self._argument(each, body["graph"], inner) for each in body["graph"]["outputs"]),
        )
        return {"region": region, "operands": tuple(self._argument(value, graph, prefix) for _, value in values[bodies[0] + 1 :])}

    def _argument(self, value: Json, graph: Json, prefix: str) -> Argument:
        ((kind, content),) = value.items()
        if kind in _SIMPLE:
            return tuple(content) if isinstance(content, list) else _plain(content)
        if kind in ("as_none", "as_device", "as_layout", "as_memory_format"):
            return None
        if kind in ("as_tensor",):
            return Reference(prefix + content["name"])
        if kind == "as_tensors":
            return tuple(Reference(prefix + each["name"]) for each in content)
        if kind in _NAMED:
            return self._size(content, prefix)
        if kind in ("as_sym_ints", "as_sym_bools", "as_sym_floats"):
            return tuple(self._size(each, prefix) for each in content)
        if kind == "as_float":
            return _float(content)
        if kind == "as_floats":
            return tuple(_float(each) for each in content)
        if kind == "as_scalar_type":
            return _dtype(content) or Unknown(f"scalar type {content}")
        if kind in ("as_optional_tensors", "as_nested_tensors"):
            return tuple(self._argument(each, graph, prefix) if isinstance(each, dict) else Unknown(str(each)) for each in content)
        if kind == "as_optional_tensor":
            return self._argument(content, graph, prefix)
        return Unknown(kind.removeprefix("as_"))

    def _size(self, content: Json, prefix: str) -> Argument:
        ((kind, value),) = content.items()
        return Reference(prefix + value) if kind == "as_name" else _float(value) if kind == "as_float" else _plain(value)

    def _type(self, meta: Json) -> TensorType | None:
        dtype = _dtype(meta["dtype"]) if meta is not None else None
        if dtype is None:
            return None
        try:
            return TensorType(dtype, tuple(self._dim(size) for size in meta["sizes"]))
        except SizeExpressionError:
            return None

    def _dim(self, size: Json) -> Dim:
        if "as_int" in size:
            return int(size["as_int"])
        text = _expression(size)
        if text is None:
            raise SizeExpressionError("a size without an expression")
        return parse_size(text, {name: symbol.dim for name, symbol in self.symbols.items()})


def _results(output: Json) -> list[tuple[str, bool]]:
    """Names of a call's results, and whether each is the call's value itself rather than an item of it."""
    ((kind, content),) = output.items()
    match kind:
        case "as_tensor":
            return [(content["name"], True)]
        case "as_tensors":
            return [(each["name"], False) for each in content]
        case "as_sym_int" | "as_sym_bool" | "as_sym_float":
            return [(content["as_name"], True)]
        case "as_none":
            return []
        case _:
            raise ValueError(f"a result of kind {kind}")


_OPERATORS = {"truediv": "truediv", "and_": "and", "or_": "or", "not_": "not"}


def _target(text: str) -> str:
    """``torch.ops.aten.add.Tensor`` is ``aten.add.Tensor``; ``_operator.add`` and ``torch.sym_max`` are ``sym.add`` and ``sym.max``."""
    if text.startswith("torch.ops."):
        return text.removeprefix("torch.ops.")
    name = text.rsplit(".", 1)[-1]
    if text.startswith(("_operator.", "operator.", "math.")):
        return f"sym.{_OPERATORS.get(name, name)}"
    if name.startswith("sym_"):
        return f"sym.{name.removeprefix('sym_')}"
    return text


def _expression(size: Json) -> str | None:
    """The expression of a symbolic size with plain names for its symbols."""
    if "as_expr" not in size:
        return None
    return _SYMBOL.sub(r"\1", size["as_expr"]["expr_str"])


def _dtype(number: int) -> DType | None:
    element = BY_SCALAR_TYPE.get(number)
    return element.dtype if isinstance(element, ReadableElement) else None


def _float(value: Json) -> float:
    names = {"Infinity": math.inf, "-Infinity": -math.inf, "NaN": math.nan}
    return names[value] if isinstance(value, str) else float(value)


def _plain(value: Json) -> bool | int | float | str | None:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"expected a number or text, got {type(value).__name__}")

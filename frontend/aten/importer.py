"""From an exported program to a graph, node by node through the table."""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import cgptc.frontend.aten.ops  # noqa: F401 - fills the table
from cgptc.frontend.aten.emit import Emit
from cgptc.frontend.aten.exported import (
    Argument,
    ExportedInput,
    ExportedNode,
    ExportedProgram,
    InputKind,
    Reference,
    Region,
    referenced_names,
)
from cgptc.frontend.aten.memory import Tensor, View
from cgptc.frontend.aten.size_arithmetic import SIZE_OPS
from cgptc.frontend.aten.table import INERT, Entry, RefusedError, UnsupportedError, lookup
from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import CompileError, OpTypeError
from cgptc.ir.dims import Dim, Expr, substitute, symbols
from cgptc.ir.dtypes import DType, f32
from cgptc.ir.graph import Graph, Value
from cgptc.ir.loc import UNKNOWN, Location
from cgptc.ir.types import TensorType
from cgptc.ir.weights import EMPTY_STORE, WeightStore

Decompose = Callable[[ExportedNode], Region | None]
"""Spells a node that the table lacks with ops that it may have; None where it cannot."""


class _Poison:
    """The result of a node that could not be imported; what depends on it is skipped, so that each cause is reported once."""


_POISON = _Poison()


@dataclass(frozen=True)
class _Failure:
    what: str
    location: Location
    of_types: bool = False  # it was imported, but not to what PyTorch gives


@dataclass
class _Importer:
    program: ExportedProgram
    emit: Emit
    decompose: Decompose | None
    environment: dict[str, Any] = field(default_factory=dict)
    failures: list[_Failure] = field(default_factory=list)
    weights: dict[str, Value] = field(default_factory=dict)

    # Arguments

    def resolve(self, argument: Argument) -> Any:
        """An argument with references replaced by what they stand for; tensors by their current value."""
        if isinstance(argument, tuple):
            return tuple(self.resolve(item) for item in argument)
        if isinstance(argument, Reference):
            return _values(self.environment[argument.name])
        return argument

    def poisoned(self, argument: Argument) -> bool:
        if isinstance(argument, tuple):
            return any(self.poisoned(item) for item in argument)
        return isinstance(argument, Reference) and _contains_poison(self.environment[argument.name])

    # Nodes

    def run(self, nodes: Iterable[ExportedNode]) -> None:
        for node in nodes:
            self.emit.build.location = node.location
            if node.target != "region" and any(self.poisoned(argument) for argument in node.arguments.values()):
                self.environment[node.name] = _POISON
                continue
            try:
                self.environment[node.name] = self.call(node)
                wrong = self.difference(node)
            except (UnsupportedError, OpTypeError) as error:
                self.fail(node, str(error))
            else:
                if wrong:
                    self.fail(node, f"would be {wrong}", of_types=True)

    def fail(self, node: ExportedNode, what: str, *, of_types: bool = False) -> None:
        self.failures.append(_Failure(f"{_short(node.target)}: {what}", node.location, of_types))
        self.environment[node.name] = _POISON

    def call(self, node: ExportedNode) -> Any:
        if node.target == "getitem":
            container, index = node.arguments["container"], node.arguments["index"]
            assert isinstance(container, Reference)
            assert isinstance(index, int)
            found = self.environment[container.name]
            return found[index] if isinstance(found, tuple) else found  # the only result of a region
        if node.target == "region":
            return self.inline(node)
        if node.target in SIZE_OPS:
            return SIZE_OPS[node.target](self.emit, *self.resolve(tuple(node.arguments.values())))
        arguments = {name: value for name, value in node.arguments.items() if name not in INERT}
        entry = lookup(node.target)
        if entry is not None:
            if node.arguments.get("copy") is True:
                entry = replace(entry, passes_through=False)
            if entry.may_alias and node.aliases is not None:
                entry = replace(entry, may_alias=False) if node.aliases else Entry(entry.function)
            try:
                return self.apply(entry, arguments, node.aliases is True)
            except UnsupportedError as error:
                if isinstance(error, RefusedError) or entry.write is not None or entry.may_alias or node.aliases is True:
                    raise  # a decomposition of a view would be a copy
                return self.spelled_out(node, error)
        functional = _functional(node.target)
        if functional is not None and "out" in arguments:
            out = arguments.pop("out")
            return self.write(out, self.apply(functional, arguments))
        if functional is not None:
            first = next(iter(arguments))
            return self.write(arguments[first], self.apply(functional, arguments))
        return self.spelled_out(node)

    def spelled_out(self, node: ExportedNode, reason: UnsupportedError | None = None) -> Any:
        """The node by PyTorch's own decomposition, with ops that the table has; where there is none, ``reason`` is what to report."""
        region = self.decompose(node) if self.decompose is not None else None
        if region is None:
            raise reason or UnsupportedError("is not supported")
        known = len(self.failures)
        result = self.region(region, [self.environment[name] for name in referenced_names(node, node.name)])
        if failures := self.failures[known:]:
            del self.failures[known:]
            if any(failure.of_types for failure in failures):  # it was spelled for the sizes of the example inputs
                raise reason or UnsupportedError("is not supported: PyTorch spells it for fixed sizes only")
            inner = dict.fromkeys(failure.what.partition(":")[0] for failure in failures)
            raise reason or UnsupportedError(f"is not supported (PyTorch spells it with {', '.join(inner)})")
        return result

    def apply(self, entry: Entry, arguments: Mapping[str, Argument], is_view: bool = False) -> Any:
        """Call an importer function; for a view, remember how to read and write it."""
        resolved = {_keyword(name): self.resolve(value) for name, value in arguments.items()}
        try:
            _signature(entry.function).bind(self.emit, **resolved)
        except TypeError as error:
            raise UnsupportedError(f"is called in another form: {error}") from None
        result = entry.function(self.emit, **resolved)
        first = next(iter(arguments), "")
        if entry.passes_through and result is resolved[_keyword(first)]:
            reference = arguments[first]
            assert isinstance(reference, Reference)
            return self.environment[reference.name]
        if entry.write is None and not entry.may_alias and not is_view:
            return _tensors(result)
        base = self.environment[arguments[first].name] if isinstance(arguments[first], Reference) else None  # type: ignore[union-attr]
        if not isinstance(base, Tensor):
            return _tensors(result)
        rest = {name: value for name, value in resolved.items() if name != _keyword(first)}
        return _views(entry, base, self.emit, rest, result)

    def write(self, target: Argument, result: Any) -> Any:
        """Store a functional op's result in place."""
        assert isinstance(target, Reference)
        tensor = self.environment[target.name]
        value = _values(result)
        if not isinstance(tensor, Tensor) or not isinstance(value, Value):
            raise UnsupportedError("writes to several tensors in place")
        old = tensor.read().type
        tensor.write(self.emit.expand(self.emit.cast(value, old.dtype), old.shape))
        return tensor

    def inline(self, node: ExportedNode) -> Any:
        region = node.arguments["region"]
        assert isinstance(region, Region)
        operands = node.arguments["operands"]
        assert isinstance(operands, tuple)
        values = [self.environment[item.name] if isinstance(item, Reference) else item for item in operands]
        return self.region(region, values)

    def region(self, region: Region, operands: Sequence[Any]) -> Any:
        for name, value in zip(region.inputs, operands, strict=True):
            self.environment[name] = value
        location = self.emit.build.location
        self.run(region.nodes)
        self.emit.build.location = location
        results = tuple(self.environment[item.name] if isinstance(item, Reference) else item for item in region.outputs)
        return results if len(results) != 1 else results[0]

    def difference(self, node: ExportedNode) -> str:
        """How the types of what was imported differ from the exporter's, which a bug in the table shows by; "" where they do not."""
        result = _values(self.environment[node.name])
        values = result if isinstance(result, tuple) else (result,)
        for value, expected in zip(values, node.types, strict=False):
            if isinstance(value, Value) and expected is not None and not _same_type(value.type, expected):
                return f"{value.type}, where PyTorch gives {expected}"
        return ""

    # Inputs and outputs

    def bind(self, source: ExportedInput, input_values: Mapping[str, Value]) -> None:
        if source.kind is not InputKind.USER:
            self.hold(source)
        elif source.type is None:
            self.environment[source.name] = source.value
        else:
            self.environment[source.name] = Tensor(input_values[source.target], frozen=f"the input '{source.target}'")

    def hold(self, source: ExportedInput) -> None:
        """Bind a parameter, buffer or constant; one of a type that the IR lacks fails here, and what uses it is skipped."""
        if source.target in self.program.weights:
            frozen = "" if source.kind is InputKind.CONSTANT else f"the {source.kind.value} '{source.target}'"
            self.environment[source.name] = Tensor(self.weight(source.target), frozen=frozen)
            return
        what = f"the {source.kind.value} '{source.target}' is of an element type that the IR lacks, such as complex numbers"
        self.failures.append(_Failure(what, UNKNOWN))
        self.environment[source.name] = _POISON

    def weight(self, target: str) -> Value:
        """The constant of a parameter, buffer or constant; tied ones share it."""
        weight = self.program.weights[target]
        if weight.key not in self.weights:
            self.weights[weight.key] = self.emit.build.weight(weight)
            self.weights[weight.key].name = target.removeprefix(f"{self.program.root}.")
        return self.weights[weight.key]


def import_program(
    program: ExportedProgram,
    *,
    name: str = "main",
    store: WeightStore = EMPTY_STORE,
    default_float: DType = f32,
    decompose: Decompose | None = None,
) -> Graph:
    """The graph of an exported program.

    Raises `CompileError` listing everything that is not supported, and `DomainError` where a symbol's upper bound must come down for the
    model to be defined (the caller imports again with the smaller bound).
    """
    graph = Graph(name, store)
    input_values: dict[str, Value] = {}
    for source in program.inputs:
        if source.kind is InputKind.USER and source.type is not None:
            input_values[source.target] = graph.add_input(source.target, source.type)
    importer = _Importer(program, Emit(Builder(graph), default_float), decompose)
    for source in program.inputs:
        importer.bind(source, input_values)
    importer.run(program.nodes)
    if importer.failures:
        raise _unsupported(importer.failures)
    for output in program.outputs:
        value = importer.resolve(output.value)
        if not isinstance(value, Value):
            value = importer.emit.operand(value)
        graph.add_output(output.name, value)
    _remove_dead(graph)
    return graph


def _unsupported(failures: Sequence[_Failure]) -> CompileError:
    counts = Counter(failure.what for failure in failures)
    details: list[str] = []
    for what, count in counts.items():
        details.append(f"  {count} × {what}")
        places = dict.fromkeys(str(failure.location) for failure in failures if failure.what == what)
        details += [f"    --> {place}" for place in list(places)[:8]]
        if len(places) > 8:
            details.append(f"    --> and {len(places) - 8} more places")
    total = len(failures)
    return CompileError(
        "unsupported-op",
        f"{total} operation{'s' if total > 1 else ''} of the model cannot be imported",
        fix="rewrite the lines named below with supported operations",
        details=details,
    )


def _remove_dead(graph: Graph) -> None:
    """Erase nodes that nothing uses, such as a size read for a check."""
    for node in graph.reversed_nodes:
        if not any(value.use_count for value in node.results):
            graph.erase(node)


def _functional(target: str) -> Entry | None:
    """The entry of the functional twin of an in-place or ``out`` op."""
    namespace, _, rest = target.partition(".")
    op, _, overload = rest.partition(".")
    if namespace != "aten":
        return None
    names = []
    if op.endswith("_") and not op.endswith("__"):
        names.append((op[:-1], overload))
    if overload == "out" or overload.endswith("_out"):
        names.append((op, overload.removesuffix("out").removesuffix("_") or "default"))
    for twin, twin_overload in names:
        for candidate in (twin_overload, "Tensor", "default", "self"):
            entry = lookup(f"aten.{twin}.{candidate}")
            if entry is not None:
                return entry
    return None


@cache
def _signature(function: Callable[..., Any]) -> inspect.Signature:
    return inspect.signature(function)


def _keyword(name: str) -> str:
    """A schema's argument name as a Python parameter; ``from`` is a keyword."""
    return name + "_" if name == "from" else name


def _values(result: Any) -> Any:
    """Tensors replaced by their current values."""
    if isinstance(result, Tensor):
        return result.read()
    if isinstance(result, (tuple, list)):
        return tuple(_values(item) for item in result)
    return result


def _tensors(result: Any) -> Any:
    """Values wrapped as tensors with memory of their own."""
    if isinstance(result, Value):
        return Tensor(result)
    if isinstance(result, (tuple, list)):
        return tuple(_tensors(item) for item in result)
    return result


def _views(entry: Entry, base: Tensor, emit: Emit, arguments: Mapping[str, Any], result: Any) -> Any:
    """The results of a view op, each tied to its base."""
    version = base.version if base.view is None else _root(base).version

    def view(value: Value, index: int | None) -> Tensor:
        def read(current: Value) -> Value:
            again = entry.function(emit, current, **arguments)
            chosen = again if index is None else again[index]
            assert isinstance(chosen, Value)
            return chosen

        write = entry.write
        if write is None:
            return Tensor(value, View(base, read, None, certain=not entry.may_alias), version)
        extra = {} if index is None else {"index": index}

        def write_back(old: Value, new: Value) -> Value:
            return write(emit, old, new, **{**arguments, **extra})

        return Tensor(value, View(base, read, write_back, certain=not entry.may_alias), version)

    if isinstance(result, tuple):
        return tuple(view(value, index) for index, value in enumerate(result))
    return view(result, None)


def _root(tensor: Tensor) -> Tensor:
    while tensor.view is not None:
        tensor = tensor.view.base
    return tensor


def _contains_poison(result: Any) -> bool:
    if isinstance(result, tuple):
        return any(_contains_poison(item) for item in result)
    return result is _POISON


def _short(target: str) -> str:
    return target.removesuffix(".default")


def _same_type(ours: TensorType, theirs: TensorType) -> bool:
    """Equal dtype and rank, and dimensions that agree wherever their symbols are sampled."""
    if ours.dtype != theirs.dtype or ours.rank != theirs.rank:
        return False
    return all(_same_dim(left, right) for left, right in zip(ours.shape, theirs.shape, strict=True))


def _same_dim(left: Dim, right: Dim) -> bool:
    if left == right:
        return True
    rest = left - right
    if not isinstance(rest, Expr):
        return rest == 0
    found = symbols([rest])
    for step in (0, 1, 2):
        sizes: dict[str, Dim] = {name: min(symbol.low + step * 3, symbol.high) for name, symbol in found.items()}
        if substitute(rest, sizes) != 0:
            return False
    return True

"""A live `torch.export.ExportedProgram` as the neutral view."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.export
from torch import fx
from torch.export.graph_signature import ConstantArgument, OutputKind
from torch.export.graph_signature import InputKind as TorchKind

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
from cgptc.frontend.source_lines import location
from cgptc.frontend.torch_dtypes import FROM_TORCH
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.dims import Dim, Symbol
from cgptc.ir.types import TensorType
from cgptc.ir.weights import Weight

_FUNCTIONS: dict[Callable[..., Any], str] = {
    operator.add: "sym.add",
    operator.sub: "sym.sub",
    operator.mul: "sym.mul",
    operator.floordiv: "sym.floordiv",
    operator.truediv: "sym.truediv",
    operator.mod: "sym.mod",
    operator.pow: "sym.pow",
    operator.neg: "sym.neg",
    operator.ge: "sym.ge",
    operator.gt: "sym.gt",
    operator.le: "sym.le",
    operator.lt: "sym.lt",
    operator.eq: "sym.eq",
    operator.ne: "sym.ne",
    operator.and_: "sym.and",
    operator.or_: "sym.or",
    operator.not_: "sym.not",
    math.sqrt: "sym.sqrt",
    torch.sym_min: "sym.min",
    torch.sym_max: "sym.max",
    torch.sym_float: "sym.float",
    torch.sym_int: "sym.int",
    torch.sym_not: "sym.not",
    torch.sym_sqrt: "sym.sqrt",
}

_KINDS = {
    TorchKind.PARAMETER: InputKind.PARAMETER,
    TorchKind.BUFFER: InputKind.BUFFER,
    TorchKind.CONSTANT_TENSOR: InputKind.CONSTANT,
    TorchKind.USER_INPUT: InputKind.USER,
}


class FxView:
    """Turns FX nodes into `ExportedNode`s. ``symbols`` are dimensions by sympy's symbol name; ``root`` a wrapper's attribute to hide."""

    def __init__(self, symbols: Mapping[str, Dim], root: str = "") -> None:
        self.symbols = symbols
        self.root = root

    def nodes(self, graph: fx.Graph, *, prefix: str = "") -> Iterable[ExportedNode]:
        """The calls of a graph in order."""
        for node in graph.nodes:
            if node.op == "call_function":
                yield self.node(node, prefix)

    def node(self, node: fx.Node, prefix: str) -> ExportedNode:
        target, arguments = self._call(node, prefix)
        stack = [path for path, _ in (node.meta.get("nn_module_stack") or {}).values()]
        return ExportedNode(
            prefix + node.name,
            target,
            arguments,
            self._types(node.meta.get("val")),
            location=location([_plain(path) for path in stack], node.meta.get("stack_trace") or "", root=self.root),
            aliases=_aliases(node),
            origin=node,
        )

    def _call(self, node: fx.Node, prefix: str) -> tuple[str, dict[str, Argument]]:
        target: Any = node.target
        if isinstance(target, torch._ops.OpOverload):
            arguments: dict[str, Argument] = {}
            for schema, value in zip(target._schema.arguments, node.args, strict=False):
                arguments[schema.name] = self.argument(value, prefix)
            for name, value in node.kwargs.items():
                arguments[name] = self.argument(value, prefix)
            return f"{target.namespace}.{target._opname}.{target._overloadname}", arguments
        if isinstance(target, torch._ops.HigherOrderOperator):
            return self._region(node, prefix)
        if target is operator.getitem:
            return "getitem", {"container": self.argument(node.args[0], prefix), "index": self.argument(node.args[1], prefix)}
        name = _FUNCTIONS.get(target, f"python.{getattr(target, '__name__', target)}")
        return name, {str(index): self.argument(value, prefix) for index, value in enumerate(node.args)}

    def _region(self, node: fx.Node, prefix: str) -> tuple[str, dict[str, Argument]]:
        """``wrap_with_set_grad_enabled(flag, body, *operands)`` or ``wrap_with_autocast(device, dtype, enabled, cache, body,
        *operands)``."""
        name = str(node.target)
        bodies = [index for index, value in enumerate(node.args) if isinstance(value, fx.Node) and value.op == "get_attr"]
        if name not in ("wrap_with_set_grad_enabled", "wrap_with_autocast") or len(bodies) != 1:
            return f"higher_order.{name}", {}
        if name == "wrap_with_autocast" and node.args[2]:
            return "higher_order.autocast", {}
        (index,) = bodies
        body_node = node.args[index]
        assert isinstance(body_node, fx.Node)
        assert node.graph.owning_module is not None
        body = getattr(node.graph.owning_module, str(body_node.target))
        region = self.region(body.graph, f"{prefix}{node.name}.")
        return "region", {"region": region, "operands": tuple(self.argument(value, prefix) for value in node.args[index + 1 :])}

    def region(self, graph: fx.Graph, prefix: str) -> Region:
        """A subgraph whose names start with ``prefix``."""
        inputs = tuple(prefix + node.name for node in graph.nodes if node.op == "placeholder")
        (output,) = (node for node in graph.nodes if node.op == "output")
        results = output.args[0] if isinstance(output.args[0], (tuple, list)) else (output.args[0],)
        return Region(inputs, tuple(self.nodes(graph, prefix=prefix)), tuple(self.argument(value, prefix) for value in results))

    def argument(self, value: Any, prefix: str) -> Argument:
        if isinstance(value, fx.Node):
            return Reference(prefix + value.name)
        if isinstance(value, (tuple, list)):
            return tuple(self.argument(item, prefix) for item in value)
        if isinstance(value, torch.dtype):
            return FROM_TORCH.get(value) or Unknown(str(value))
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        return Unknown(str(value))

    def _types(self, value: Any) -> tuple[TensorType | None, ...]:
        values: Sequence[Any] = value if isinstance(value, (tuple, list)) else (value,)
        return tuple(self.type(item) for item in values)

    def type(self, value: Any) -> TensorType | None:
        """The IR type of a fake tensor; None where there is none."""
        if not isinstance(value, torch.Tensor) or value.dtype not in FROM_TORCH:
            return None
        try:
            return TensorType(FROM_TORCH[value.dtype], tuple(self.dim(size) for size in value.shape))
        except SizeExpressionError:
            return None

    def dim(self, size: int | torch.SymInt) -> Dim:
        """A size as a dimension. Raises `SizeExpressionError` for one outside the IR's expressions."""
        return int(size) if isinstance(size, int) else parse_size(str(size.node.expr), self.symbols)


def view_program(
    program: torch.export.ExportedProgram,
    symbols: Mapping[str, Symbol],
    weights: Mapping[str, Weight],
    input_names: Sequence[str],
    output_names: Sequence[str],
    *,
    root: str = "",
) -> ExportedProgram:
    """The neutral view. ``input_names`` and ``output_names`` name the user's inputs and outputs in order of their leaves."""
    view = FxView({name: symbol.dim for name, symbol in symbols.items()}, root)
    placeholders = {node.name: node for node in program.graph.nodes if node.op == "placeholder"}
    inputs: list[ExportedInput] = []
    names = iter(input_names)
    for spec in program.graph_signature.input_specs:
        kind = _KINDS.get(spec.kind)
        if kind is None:
            raise CompileError(
                "unsupported-input",
                f"the model holds '{spec.target or spec.arg.name}', which torch.export keeps as {spec.kind.name}, not as a tensor",
                fix="keep tensors and numbers only; a random generator has no place in a compiled model",
            )
        name = spec.arg.name
        if kind is InputKind.USER:
            target = next(names)
            constant = spec.arg.value if isinstance(spec.arg, ConstantArgument) else None
            type_ = view.type(placeholders[name].meta.get("val"))
            inputs.append(ExportedInput(name, kind, target, type_, view.argument(constant, "")))
        else:
            inputs.append(ExportedInput(name, kind, str(spec.target), None))
    outputs: list[ExportedOutput] = []
    results = next(node for node in program.graph.nodes if node.op == "output").args[0]
    assert isinstance(results, (tuple, list))
    titles = iter(output_names)
    for output, result in zip(program.graph_signature.output_specs, results, strict=True):
        if output.kind is not OutputKind.USER_OUTPUT:
            raise CompileError(
                "unsupported-output", f"the model changes '{output.target}' as it runs", fix="make what is kept from call to call an output"
            )
        title = next(titles)
        if isinstance(result, fx.Node):
            outputs.append(ExportedOutput(title, view.argument(result, "")))
    return ExportedProgram(tuple(inputs), tuple(view.nodes(program.graph)), tuple(outputs), weights, symbols, root)


def _plain(path: str) -> str:
    """A module path without torch's ``L['self']`` spelling."""
    for start in ("L['self'].", "L__self___"):
        path = path.removeprefix(start)
    return "" if path in ("L['self']", "L__self__") else path


def _aliases(node: fx.Node) -> bool | None:
    """Whether a node's fake result lies in the storage of its first operand's."""
    first = node.args[0] if node.args else None
    result, operand = node.meta.get("val"), first.meta.get("val") if isinstance(first, fx.Node) else None
    if not isinstance(result, torch.Tensor) or not isinstance(operand, torch.Tensor):
        return None
    shared: bool = result.untyped_storage()._cdata == operand.untyped_storage()._cdata
    return shared

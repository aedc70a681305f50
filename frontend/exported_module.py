"""A ``.pt2`` program run by PyTorch, for comparison: its calls of ``aten`` operators, one after the other, and nothing else."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

import torch

from cgptc.frontend.aten.exported import Argument, ExportedNode, ExportedProgram, InputKind, Reference, Region
from cgptc.frontend.torch_dtypes import TO_TORCH, to_torch
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.dtypes import DType
from cgptc.ir.weights import WeightStore

_SIZES: Mapping[str, Callable[..., Any]] = {
    "sym.add": operator.add,
    "sym.sub": operator.sub,
    "sym.mul": operator.mul,
    "sym.floordiv": operator.floordiv,
    "sym.truediv": operator.truediv,
    "sym.mod": operator.mod,
    "sym.neg": operator.neg,
    "sym.pow": operator.pow,
    "sym.min": min,
    "sym.max": max,
    "sym.float": float,
    "sym.int": int,
    "sym.not": operator.not_,
    "sym.sqrt": math.sqrt,
    **{f"sym.{name}": getattr(operator, name) for name in ("ge", "gt", "le", "lt", "eq", "ne")},
}


class ExportedModule(torch.nn.Module):
    """``forward`` takes inputs in the program's order, or by their names in it, `input_names`.

    Only operators of the ``aten`` namespace are called: others raise CompileError. Assertions on sizes and
    metadata are left out, so that the module may be converted to another float type.
    """

    def __init__(self, program: ExportedProgram, store: WeightStore) -> None:
        super().__init__()
        self.program = program
        self._keys: dict[str, str] = {}
        for index, source in enumerate(program.inputs):
            if source.kind is not InputKind.USER:
                self._keys[source.name] = f"weight_{index}"
                self.register_buffer(f"weight_{index}", to_torch(program.weights[source.target].read(store)))

    @property
    def input_names(self) -> tuple[str, ...]:
        return tuple(str(source.target) for source in self.program.inputs if source.kind is InputKind.USER)

    def forward(self, *given: torch.Tensor, **inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        inputs = {**dict(zip(self.input_names, given, strict=False)), **inputs}
        values: dict[str, Any] = {name: getattr(self, key) for name, key in self._keys.items()}
        for source in self.program.inputs:
            if source.kind is InputKind.USER and source.target in inputs:
                values[source.name] = inputs[source.target]
        self._run(self.program.nodes, values)
        return tuple(_value(output.value, values) for output in self.program.outputs)

    def _run(self, nodes: tuple[ExportedNode, ...], values: dict[str, Any]) -> None:
        for node in nodes:
            if node.target.startswith(("aten._assert", "aten.sym_constrain")):
                continue
            arguments = {name: _value(value, values) for name, value in node.arguments.items() if not isinstance(value, Region)}
            if node.target == "getitem":
                values[node.name] = arguments["container"][arguments["index"]]
            elif node.target in _SIZES:
                values[node.name] = _SIZES[node.target](*arguments.values())
            elif node.target == "region":
                region = node.arguments["region"]
                assert isinstance(region, Region)
                values.update(zip(region.inputs, arguments["operands"], strict=True))
                self._run(region.nodes, values)
                values[node.name] = tuple(_value(each, values) for each in region.outputs)
            else:
                values[node.name] = _operator(node.target)(**arguments)


def _operator(target: str) -> Callable[..., Any]:
    namespace, _, rest = target.partition(".")
    name, _, overload = rest.partition(".")
    if namespace != "aten" or not name.isidentifier() or not overload.isidentifier():
        raise CompileError("unsupported-op", f"the exported program calls '{target}', which is no operator of PyTorch's own")
    packet = getattr(torch.ops.aten, name, None)
    found = getattr(packet, overload, None)
    if found is None:
        raise CompileError("unsupported-op", f"this PyTorch has no operator '{target}'", fix="use the version that exported the file")
    call: Callable[..., Any] = found
    return call


def _value(argument: Argument, values: Mapping[str, Any]) -> Any:
    if isinstance(argument, Reference):
        return values[argument.name]
    if isinstance(argument, tuple):
        return [_value(each, values) for each in argument]
    if isinstance(argument, DType):
        return TO_TORCH[argument]
    return argument

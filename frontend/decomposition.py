"""Ops that the table lacks, spelled with others by the decomposition that PyTorch registers for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.fx.experimental._config as symbolic_shapes_config
import torch.utils._pytree as pytree
from torch import fx
from torch.fx.experimental.proxy_tensor import make_fx

from cgptc.frontend.aten.exported import ExportedNode, Region, referenced_names
from cgptc.frontend.fx_program import FxView
from cgptc.frontend.size_guards import SizeGuard
from cgptc.ir.dims import Symbol


class Decomposer:
    """Decomposes nodes of one exported program, each on its own; ``symbols`` are its sizes by torch's names."""

    def __init__(self, symbols: Mapping[str, Symbol]) -> None:
        self._symbols = symbols
        self._view = FxView({name: symbol.dim for name, symbol in symbols.items()})
        self._table: Mapping[Any, Callable[..., Any]] | None = None  # made when first needed: it takes a while

    def __call__(self, node: ExportedNode) -> Region | None:
        """The node's op as a subgraph of its tensor operands; None where PyTorch has no decomposition, or one in terms of the op itself."""
        origin = node.origin
        if not isinstance(origin, fx.Node) or not isinstance(origin.target, torch._ops.OpOverload):
            return None
        function = self._decomposition(origin.target)
        if function is None:
            return None
        graph = _trace(origin, function, referenced_names(node, origin.name), self._symbols)
        if graph is None or any(inner.target == origin.target for inner in graph.nodes):
            return None
        region = self._view.region(graph, f"{node.name}/")
        return replace(region, nodes=tuple(replace(inner, location=node.location) for inner in region.nodes))

    def _decomposition(self, op: torch._ops.OpOverload) -> Callable[..., Any] | None:
        if self._table is None:
            self._table = torch.export.default_decompositions()
        found = self._table.get(op) or torch._decomp.decomposition_table.get(op)
        return found or (op.decompose if op._can_decompose() else None)


def _trace(origin: fx.Node, function: Callable[..., Any], names: list[str], symbols: Mapping[str, Symbol]) -> fx.Graph | None:
    """The decomposition traced on the node's own fake operands, with one placeholder for each of ``names``; None where it holds for some of
    the sizes only, such as those of the example inputs.
    """
    operands = {node.name: node.meta.get("val") for node in origin.all_input_nodes}
    if any(name not in operands for name in names):
        return None

    def call(*values: Any) -> Any:
        by_name = dict(zip(names, values, strict=True))
        args, kwargs = pytree.tree_map(lambda item: by_name[item.name] if isinstance(item, fx.Node) else item, (origin.args, origin.kwargs))
        return function(*args, **kwargs)

    environment = next((size.node.shape_env for each in operands.values() for size in _sizes(each)), None)
    known = len(environment.guards) if environment is not None else 0
    kept = dict(environment.replacements) if environment is not None else {}
    try:
        with symbolic_shapes_config.patch(backed_size_oblivious=True):  # sizes of 0 and 1 are not special, as in the export
            graph = make_fx(call)(*(operands[name] for name in names)).graph
    except Exception:  # whatever a decomposition raises for operands that it does not take: the op stays unsupported
        return None
    if environment is not None and any(SizeGuard(guard.expr, "", 0, by_model=False).fails(symbols) for guard in environment.guards[known:]):
        environment.replacements.clear()
        environment.replacements.update(kept)  # what it took for granted of sizes is not so
        return None
    return graph


def _sizes(value: Any) -> list[Any]:
    return [size for size in value.shape if isinstance(size, torch.SymInt)] if isinstance(value, torch.Tensor) else []

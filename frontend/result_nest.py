"""Reading how what a module returns is nested off its export."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import torch
import torch.export
import torch.fx
import torch.utils._pytree as pytree

from cgptc.ir.result_tree import MAXIMUM_DEPTH, Entries, Items, Output, Plain, ResultTree


def result_of(program: torch.export.ExportedProgram) -> ResultTree | None:
    """The nest of what the module returns; None where it is made of other classes than tuples, lists, dictionaries and dataclasses."""
    results = next(node for node in program.graph.nodes if node.op == "output").args[0]
    assert isinstance(results, (tuple, list))
    leaves: list[ResultTree] = []
    count = 0
    for result in results:
        if isinstance(result, torch.fx.Node):
            leaves.append(Output(count))
            count += 1
        elif result is None or isinstance(result, bool | int | str) or (isinstance(result, float) and math.isfinite(result)):
            leaves.append(Plain(result))
        else:
            return None
    spec = program.call_spec.out_spec
    return _tree(pytree.tree_unflatten(leaves, spec), MAXIMUM_DEPTH) if spec.num_leaves == len(leaves) else None


def _tree(nest: Any, depth: int) -> ResultTree | None:
    if isinstance(nest, Output | Plain):
        return nest
    if depth == 0:
        return None
    if isinstance(nest, tuple | list):
        items = [_tree(item, depth - 1) for item in nest]
        return None if None in items else Items(isinstance(nest, tuple), tuple(item for item in items if item is not None))
    if dataclasses.is_dataclass(nest) and not isinstance(nest, dict):
        nest = {field.name: getattr(nest, field.name) for field in dataclasses.fields(nest)}
    if not isinstance(nest, dict) or not all(isinstance(key, str | int) and not isinstance(key, bool) for key in nest):
        return None
    entries = [(key, tree) for key, item in nest.items() if (tree := _tree(item, depth - 1)) is not None]
    return Entries(tuple(entries)) if len(entries) == len(nest) else None

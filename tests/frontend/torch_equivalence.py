"""Comparing an imported graph with the module that it came from, both in float64."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.utils._pytree as pytree
from torch import nn

from cgptc.frontend.capture import Axes, capture
from cgptc.frontend.torch_dtypes import to_numpy
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.testing.tolerances import assert_t1


class Call(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, *xs: torch.Tensor) -> Any:
        return self.function(*xs)


def widened(value: Any) -> Any:
    """Floating-point tensors in float64, everything else as it is."""
    return value.double() if isinstance(value, torch.Tensor) and value.is_floating_point() else value


@contextlib.contextmanager
def wide_by_default() -> Iterator[None]:
    """What PyTorch makes from numbers and integers is float64 meanwhile."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def assert_same_results(graph: Graph, module: nn.Module, args: Sequence[Any]) -> None:
    """The graph, evaluated in float64, gives what the module gives in float64."""
    reference = copy.deepcopy(module).double()
    inputs = [value for value in pytree.tree_leaves(tuple(args)) if isinstance(value, torch.Tensor)]
    with torch.no_grad(), wide_by_default():
        expected = reference(
            *pytree.tree_map(lambda value: widened(value).clone() if isinstance(value, torch.Tensor) else value, tuple(args))
        )
    arrays = {value.name: to_numpy(tensor) for value, tensor in zip(graph.inputs, inputs, strict=True)}
    actual = evaluate_graph(graph, arrays, wide=True)
    results = [value for value in pytree.tree_leaves(expected) if isinstance(value, torch.Tensor)]
    assert len(results) == len(actual)
    for (name, array), tensor in zip(actual.items(), results, strict=True):
        assert_t1(to_numpy(tensor), np.asarray(array), depth=graph.node_count, where=name)


def assert_imports(
    target: Callable[..., Any],
    *args: Any,
    dynamic: Mapping[str, tuple[int, int] | None] | None = None,
    axes: Axes | None = None,
    also: Sequence[Sequence[Any]] = (),
) -> Graph:
    """Capture a module or function on ``args`` and compare there and on the other inputs ``also``."""
    module = target if isinstance(target, nn.Module) else Call(target)
    module.eval()
    graph = capture(module, args, dynamic=dynamic, axes=axes)
    for inputs in (args, *also):
        assert_same_results(graph, module, inputs)
    return graph

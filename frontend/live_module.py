"""Modules given in Python: captured as they stand, with weights that are read from their own parameters."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.utils._pytree as pytree

from cgptc.frontend.capture import Axes, Captured, bound_inputs, capture_with_result
from cgptc.frontend.source import Bounds, CapturedModel, TextModel
from cgptc.frontend.text_model import as_text_model
from cgptc.frontend.torch_dtypes import to_numpy
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.graph import Graph
from cgptc.ir.op import Array

Examples: TypeAlias = Sequence[Any] | Mapping[str, Any]
"""Example inputs: in the order of ``forward``'s parameters, or by their names."""

Dynamic: TypeAlias = Mapping[str, Bounds | None]


def capture_live(module: torch.nn.Module, examples: Examples, *, dynamic: Dynamic | None = None, axes: Axes | None = None) -> Graph:
    """The module's graph in evaluation mode; without ``dynamic`` every size that `default_dynamic` names stays symbolic.

    The module is left in the mode it was in. The errors are `capture`'s.
    """
    return _capture(module, examples, dynamic, axes).graph


def _capture(module: torch.nn.Module, examples: Examples, dynamic: Dynamic | None, axes: Axes | None) -> Captured:
    args, named = split_examples(examples)
    sizes = dynamic if dynamic is not None else default_dynamic([*args, *named.values()])
    with evaluating(module):
        return capture_with_result(module, args, named, dynamic=sizes, axes=axes)


def capture_module(
    module: torch.nn.Module, examples: Examples, *, dynamic: Dynamic | None = None, axes: Axes | None = None
) -> CapturedModel:
    """What the driver compiles; see `capture_live`."""
    args, named = split_examples(examples)
    captured = _capture(module, examples, dynamic, axes)
    text = text_model_of(captured.graph, module, args, named)
    return CapturedModel(
        captured.graph,
        type(module).__name__,
        "module",
        sum(parameter.numel() for parameter in module.parameters()),
        layer_count(module),
        text,
        reference=lambda: copy.deepcopy(module).eval(),
        result=captured.result,
    )


def split_examples(examples: Examples) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and named example inputs; a lone tensor is one positional input."""
    if isinstance(examples, Mapping):
        return (), dict(examples)
    return (examples,) if isinstance(examples, torch.Tensor) else tuple(examples), {}


def input_arrays(module: torch.nn.Module, examples: Examples) -> list[Array]:
    """Every tensor of the example inputs, in the order of ``forward``'s parameters."""
    return [to_numpy(tensor) for tensor in _tensors(bound_inputs(module, *split_examples(examples)))]


class OnTensors(torch.nn.Module):
    """A module as a function of the tensors in its inputs, in order; what else the example inputs hold stays as it is there."""

    def __init__(self, module: torch.nn.Module, examples: Examples) -> None:
        super().__init__()
        self.module = module
        self._leaves, self._spec = pytree.tree_flatten(split_examples(examples))

    def forward(self, *tensors: torch.Tensor) -> Any:
        given = iter(tensors)
        leaves = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in self._leaves]
        args, named = pytree.tree_unflatten(leaves, self._spec)
        return self.module(*args, **named)


def on_tensors(module: torch.nn.Module, examples: Examples) -> torch.nn.Module:
    """`OnTensors` where the inputs are nested or hold numbers; the module itself where they are plain tensors."""
    args, named = split_examples(examples)
    is_plain = named or all(isinstance(value, torch.Tensor) for value in args)
    return module if is_plain else OnTensors(module, examples)


@contextlib.contextmanager
def evaluating(module: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode meanwhile, then the mode of each submodule as it was."""
    training = [each for each in module.modules() if each.training]
    module.eval()
    try:
        yield
    finally:
        for each in training:
            each.training = True


def layer_count(module: torch.nn.Module) -> int:
    """The length of the longest list of blocks: modules of several parts, in no other list. Lists inside of blocks, such as experts, and
    lists of single operations do not count.
    """
    longest, pending = 0, [module]
    while pending:
        each = pending.pop()
        if not isinstance(each, torch.nn.ModuleList):
            pending += each.children()
        elif all(any(True for _ in block.children()) for block in each):
            longest = max(longest, len(each))
    return longest


def default_dynamic(examples: Sequence[Any]) -> dict[str, Bounds | None]:
    """Batch everywhere; the sequence too where an input is token-like, which is what `capture` names by itself."""
    tensors = [value for value in examples if isinstance(value, torch.Tensor) and value.ndim]
    found: dict[str, Bounds | None] = {"batch": None} if tensors else {}
    if any(value.ndim > 2 or (value.ndim == 2 and not value.is_floating_point()) for value in tensors):
        found["seq"] = None
    return found


def text_model_of(graph: Graph, module: torch.nn.Module, args: Sequence[Any], named: Mapping[str, Any] | None = None) -> TextModel | None:
    """`as_text_model` for a module whose results only look back; None for one that reads what comes after a token."""
    return as_text_model(graph) if _looks_back(module, bound_inputs(module, args, named or {})) else None


def _looks_back(module: torch.nn.Module, inputs: Mapping[str, Any]) -> bool:
    """Whether the results before the last token stay what they are when that token changes, as the module itself computes them.

    Attention may be causal in many spellings at this point; what the module does has only one.
    """
    name, ids = next(iter(inputs.items()), ("", None))
    if not isinstance(ids, torch.Tensor) or ids.dtype is not torch.int64 or ids.ndim != 2:
        return False
    if any(parameter.is_meta for parameter in module.parameters()):
        return True  # it cannot run; where it looks ahead, `add-cache` names the node that does
    if ids.shape[1] < 2:
        return False
    changed = ids.clone()
    changed[:, -1] = torch.where(ids[:, -1] == 0, 1, 0)
    with evaluating(module), torch.no_grad():
        try:
            results = [_tensors(module(**{**inputs, name: each})) for each in (ids, changed)]
        except Exception as error:  # whatever the user's code raises: torch.export saw shapes, not numbers
            what = f"{type(module).__name__} does not run on the example inputs: {type(error).__name__}: {error}"
            raise CompileError("capture-failed", what, fix="give inputs that the model takes") from error
    return all(before.ndim > 1 and torch.equal(before[:, :-1], after[:, :-1]) for before, after in zip(*results, strict=True))


def _tensors(result: Any) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(result) if isinstance(leaf, torch.Tensor)]

"""A compiled model as a PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.utils._pytree as pytree

from cgptc.frontend.leaf_names import leaf_name
from cgptc.frontend.torch_dtypes import to_numpy, to_torch
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.op import Array
from cgptc.ir.result_tree import ResultTree, filled, outputs_of


def _leaves(start: str, tree: Any) -> Iterator[tuple[str, torch.Tensor | None]]:
    """The tensors and Nones in a tree by the names that `capture` gives them. `UsageError` for anything else, which a compile fixes."""
    for path, leaf in pytree.tree_flatten_with_path(tree)[0]:
        name = leaf_name(start, path)
        if leaf is not None and not isinstance(leaf, torch.Tensor):
            what = f"an input is a {type(leaf).__name__}, and a compiled model takes tensors"
            raise UsageError("not-a-tensor", what, fix="leave it out: its value is that of the example inputs")
        yield name, leaf


class CompiledModule(torch.nn.Module):
    """Takes and gives tensors as the module that was compiled: by position or by name, in tuples and dictionaries as it took and gave them.

    Where ``result`` does not say how that was, one output comes as a tensor, those of a tuple as a tuple, those with names of their own
    as a dictionary. ``presents``, the outputs that continue a cache, come only where a past is given, and then everything comes by name.
    ``run`` computes outputs by name.
    """

    def __init__(
        self,
        input_names: Sequence[str],
        output_names: Sequence[str],
        presents: Collection[str],
        run: Callable[[Mapping[str, Array]], dict[str, Array]],
        result: ResultTree | None = None,
    ) -> None:
        super().__init__()
        self.input_names = tuple(input_names)
        self.output_names = tuple(output_names)
        self._presents = frozenset(presents)
        self._run = run
        self._result = result

    def forward(self, *args: Any, **named: Any) -> Any:
        """Raises `UsageError` for inputs that the model does not take."""
        leaves = [leaf for _, leaf in _leaves("", args)]
        if len(leaves) > len(self.input_names):  # a None where the example inputs had None too
            leaves = [leaf for leaf in leaves if leaf is not None]
        if len(leaves) > len(self.input_names):
            raise UsageError("too-many-inputs", f"{len(leaves)} inputs were given, the model has {', '.join(self.input_names)}")
        given = {name: leaf for name, leaf in zip(self.input_names, leaves, strict=False) if leaf is not None}
        for start, value in named.items():
            for name, leaf in _leaves(start, value):
                if leaf is None:
                    continue
                if name in given:
                    raise UsageError("input-twice", f"'{name}' is given both by position and by name")
                given[name] = leaf
        outputs = self._run({name: to_numpy(tensor.detach().cpu()) for name, tensor in given.items()})
        found = {name: to_torch(outputs[name]) for name in self.output_names}
        if any(name.startswith("past_key_values.") for name in given):
            return found
        plain = {name: tensor for name, tensor in found.items() if name not in self._presents}
        if self._result is not None and len(outputs_of(self._result)) == len(plain):
            return filled(self._result, tuple(plain.values()))
        if len(plain) == 1:
            return next(iter(plain.values()))
        if list(plain) == [f"output_{index}" for index in range(len(plain))]:
            return tuple(plain.values())
        return plain

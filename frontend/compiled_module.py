"""A compiled model as a PyTorch module."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TypeAlias

import torch

from cgptc.frontend.torch_dtypes import to_numpy, to_torch
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.op import Array

Result: TypeAlias = "torch.Tensor | tuple[torch.Tensor, ...] | dict[str, torch.Tensor]"


class CompiledModule(torch.nn.Module):
    """Takes and gives tensors as the module that was compiled: by position or by name.

    One output comes as a tensor, those of a tuple as a tuple, those with names of their own as a dictionary. ``presents``, the outputs
    that continue a cache, come only where a past is given, and then everything comes by name. ``run`` computes outputs by name.
    """

    def __init__(
        self,
        input_names: Sequence[str],
        output_names: Sequence[str],
        presents: Collection[str],
        run: Callable[[Mapping[str, Array]], dict[str, Array]],
    ) -> None:
        super().__init__()
        self.input_names = tuple(input_names)
        self.output_names = tuple(output_names)
        self._presents = frozenset(presents)
        self._run = run

    def forward(self, *args: torch.Tensor, **named: torch.Tensor) -> Result:
        """Raises `UsageError` for inputs that the model does not take."""
        if len(args) > len(self.input_names):
            raise UsageError("too-many-inputs", f"{len(args)} inputs were given, the model has {', '.join(self.input_names)}")
        given = dict(zip(self.input_names, args, strict=False))
        for name in named:
            if name in given:
                raise UsageError("input-twice", f"'{name}' is given both by position and by name")
        given |= named
        outputs = self._run({name: to_numpy(tensor.detach().cpu()) for name, tensor in given.items()})
        found = {name: to_torch(outputs[name]) for name in self.output_names}
        if any(name.startswith("past_key_values.") for name in given):
            return found
        plain = {name: tensor for name, tensor in found.items() if name not in self._presents}
        if len(plain) == 1:
            return next(iter(plain.values()))
        if list(plain) == [f"output_{index}" for index in range(len(plain))]:
            return tuple(plain.values())
        return plain

"""Capturing a module whose parameters are on the meta device: they stand on the CPU meanwhile, in memory that is never touched."""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Iterator

import torch

_NO_RESERVE = {"linux": 0x4000, "darwin": 0x40}.get(sys.platform, 0)
"""MAP_NORESERVE: address space without a claim on memory."""


def _untouched(like: torch.Tensor) -> torch.nn.Parameter:
    """A CPU parameter of the same type and shape over anonymous pages, which take no memory until they are written."""
    if not like.numel():
        return torch.nn.Parameter(torch.empty(like.shape, dtype=like.dtype), requires_grad=False)
    pages = mmap.mmap(-1, like.numel() * like.element_size(), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _NO_RESERVE)
    return torch.nn.Parameter(torch.frombuffer(pages, dtype=like.dtype).view(like.shape), requires_grad=False)


@contextlib.contextmanager
def parameters_on_cpu(module: torch.nn.Module) -> Iterator[None]:
    """Meta parameters replaced by CPU ones without content while the block runs; tied ones stay tied.

    Inputs, buffers and what the model makes are on the CPU as in real use, so that model code needs no care for devices.
    """
    stand_ins: dict[int, torch.nn.Parameter] = {}
    replaced: list[tuple[torch.nn.Module, str, torch.nn.Parameter]] = []
    try:
        for submodule in module.modules():
            for name, parameter in submodule._parameters.items():
                if parameter is not None and parameter.is_meta:
                    replaced.append((submodule, name, parameter))
                    if id(parameter) not in stand_ins:
                        stand_ins[id(parameter)] = _untouched(parameter)
                    submodule._parameters[name] = stand_ins[id(parameter)]
        yield
    finally:
        for submodule, name, parameter in replaced:
            submodule._parameters[name] = parameter

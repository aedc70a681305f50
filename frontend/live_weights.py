"""Weights of a live module: references to its parameters, and the contents of its buffers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from cgptc.frontend.torch_dtypes import FROM_TORCH, to_numpy
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.op import Array
from cgptc.ir.weights import EMPTY_STORE, MemoryStore, Stored, Weight, WeightStore, dense

INLINE_BYTES = 256
"""Buffers and constants up to this size are held in the graph itself."""


@dataclass(frozen=True)
class TensorStore:
    """A store over live tensors. Tensors on the meta device have no bytes, and reading one raises KeyError."""

    tensors: Mapping[str, torch.Tensor]

    def read(self, name: str, start: int, stop: int) -> Array:
        tensor = self.tensors[name].detach()
        if tensor.is_meta:
            raise KeyError(name)
        rows = to_numpy(tensor[start:stop] if tensor.ndim else tensor)
        return np.array(rows, order="C")


@dataclass(frozen=True)
class OverlaidStore:
    """Tensors of ``upper``, and those it lacks from ``lower``."""

    upper: MemoryStore
    lower: WeightStore

    def read(self, name: str, start: int, stop: int) -> Array:
        store = self.upper if name in self.upper.tensors else self.lower
        return store.read(name, start, stop)


@dataclass(frozen=True)
class ModuleWeights:
    """Every parameter, buffer and lifted constant by name, and the store that they are read from."""

    weights: Mapping[str, Weight]
    store: WeightStore


def canonical_names(module: torch.nn.Module) -> dict[str, str]:
    """Each parameter's name to the first name of the same tensor: tied parameters share one."""
    first: dict[object, str] = {}
    names: dict[str, str] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        identity: object = id(parameter)
        if not parameter.is_meta and parameter.numel():
            identity = (parameter.data_ptr(), parameter.shape, parameter.stride(), parameter.dtype)
        names[name] = first.setdefault(identity, name)
    return names


def module_weights(
    module: torch.nn.Module,
    constants: Mapping[str, torch.Tensor],
    given: Mapping[str, Weight] | None = None,
    store: WeightStore | None = None,
) -> ModuleWeights:
    """References for a module's tensors.

    Parameters come from ``given`` and ``store`` where passed (a checkpoint's), else from the module itself. Buffers and ``constants``
    (lifted by the exporter) are taken by content, which is why they must not be on the meta device; those in ``given`` are not.
    """
    weights: dict[str, Weight] = {}
    contents = MemoryStore({})
    names = canonical_names(module)
    parameters = dict(module.named_parameters(remove_duplicate=False))
    for name, canonical in names.items():
        if given is not None:
            weight = given.get(name) or given.get(canonical)
            if weight is None:
                raise CompileError(
                    "missing-weight", f"no weight is given for the parameter '{name}'", fix="check the names of the checkpoint"
                )
            weights[name] = weight
        else:
            tensor = parameters[canonical]
            weights[name] = Stored(canonical, FROM_TORCH[tensor.dtype], tuple(tensor.shape))
    for name, tensor in (*module.named_buffers(remove_duplicate=False), *constants.items()):
        if given is not None and name in given:
            weights[name] = given[name]
        elif name not in weights and tensor.dtype in FROM_TORCH:
            weights[name] = _content(name, tensor, contents)
    if store is None:
        live = any(not tensor.is_meta for tensor in parameters.values())
        store = TensorStore({name: parameters[name] for name in set(names.values())}) if live and given is None else EMPTY_STORE
    return ModuleWeights(weights, OverlaidStore(contents, store) if contents.tensors else store)


def _content(name: str, tensor: torch.Tensor, contents: MemoryStore) -> Weight:
    if tensor.is_meta:
        raise CompileError("missing-weight", f"the buffer '{name}' has no content", fix="build the module's buffers on the CPU")
    array = np.array(to_numpy(tensor), order="C")
    if array.nbytes <= INLINE_BYTES:
        return dense(array)
    for known, content in contents.tensors.items():
        if content.dtype == array.dtype and content.shape == array.shape and content.tobytes() == array.tobytes():
            return Stored(known, FROM_TORCH[tensor.dtype], array.shape)
    return contents.add(name, array)

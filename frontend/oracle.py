"""PyTorch as the reference: a module run eagerly on numpy inputs, in its own types or wholly in float64."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.utils._pytree as pytree
from torch.overrides import TorchFunctionMode

from cgptc.frontend.torch_dtypes import TO_TORCH, to_numpy, to_torch
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.dtypes import DType
from cgptc.ir.op import Array

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_NARROWING_METHODS = {torch.Tensor.float, torch.Tensor.half, torch.Tensor.bfloat16}


class _Widening(TorchFunctionMode):
    """Every narrower float type that code names is float64: ``.float()``, ``.to(torch.float32)``, ``softmax(dtype=torch.float32)``."""

    def __torch_function__(self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _NARROWING_METHODS:
            return args[0].double()
        args, kwargs = pytree.tree_map(_widened_dtype, (tuple(args), dict(kwargs or {})))
        return func(*args, **kwargs)


def _widened_dtype(value: Any) -> Any:
    return torch.float64 if isinstance(value, torch.dtype) and value in _NARROW else value


@contextlib.contextmanager
def wide_by_default() -> Iterator[None]:
    """Meanwhile PyTorch makes float64 of every narrower float type that code names."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widening():
            yield
    finally:
        torch.set_default_dtype(before)


@contextlib.contextmanager
def _every_row_computed() -> Iterator[None]:
    """Without the fast path of `nn.TransformerEncoder`, which gives zeros for padded positions instead of what the layers say."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)


def wide_copy(module: torch.nn.Module) -> torch.nn.Module:
    """The module with parameters and floating-point buffers in float64; shares nothing with the original."""
    return copy.deepcopy(module).double()


def rounded_copy(module: torch.nn.Module, dtype: DType) -> torch.nn.Module:
    """The module with what a checkpoint of it holds, parameters and persistent buffers, rounded to ``dtype`` and in its own types; shares
    nothing with the original.
    """
    return _with_stored(module, lambda tensor: tensor.to(TO_TORCH[dtype]).to(tensor.dtype))


def narrow_copy(module: torch.nn.Module, dtype: DType) -> torch.nn.Module:
    """The module as a checkpoint in ``dtype`` gives it: tensors that none holds, such as the frequencies of rotary positions, stay in
    their types. Shares nothing with the original.
    """
    return _with_stored(module, lambda tensor: tensor.to(TO_TORCH[dtype]))


def unstored_names(module: torch.nn.Module) -> frozenset[str]:
    """The buffers that no checkpoint of the module holds."""
    owners = module.named_modules()
    return frozenset(f"{path}.{name}".lstrip(".") for path, owner in owners for name in owner._non_persistent_buffers_set)


def _with_stored(module: torch.nn.Module, convert: Callable[[torch.Tensor], torch.Tensor]) -> torch.nn.Module:
    made = copy.deepcopy(module)
    for parameter in made.parameters():
        parameter.data = convert(parameter.data) if parameter.is_floating_point() else parameter.data
    for owner in made.modules():
        for name, tensor in owner._buffers.items():
            if tensor is not None and tensor.is_floating_point() and name not in owner._non_persistent_buffers_set:
                owner._buffers[name] = convert(tensor)
    return made


def evaluate_module(
    module: torch.nn.Module,
    inputs: Mapping[str, Array],
    *,
    wide: bool = False,
    output_names: Sequence[str] | None = None,
) -> dict[str, Array]:
    """The outputs by name for inputs by the names of ``forward``'s parameters, in evaluation mode and without gradients.

    Where a name is not a parameter's, since the graph's inputs were named for runtimes, all inputs go in their order.
    ``wide`` computes in float64 what the module would compute if no float type were narrower, casts in its code included; pass a
    `wide_copy`. Outputs that are no tensors are left out; they are named ``output`` where there is one and no name is given.
    Raises `CompileError` where the module itself does not take the inputs.
    """
    module.eval()
    tensors = {name: to_torch(array) for name, array in inputs.items()}
    if wide:
        tensors = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    accepted = getattr(module, "input_names", None) or inspect.signature(module.forward).parameters
    by_name = tensors.keys() <= set(accepted)
    with torch.no_grad(), _every_row_computed(), wide_by_default() if wide else contextlib.nullcontext():
        try:
            result = module(**tensors) if by_name else module(*tensors.values())
        except Exception as error:  # whatever the user's code raises
            first = next(iter(str(error).splitlines()), "")
            raise CompileError(
                "reference-failed",
                f"{type(module).__name__}{' in float64' if wide else ''} fails on drawn inputs: {type(error).__name__}: {first}",
                fix="in Python, cgptc.verify(artifact, module, inputs) compares on inputs of your own",
                details=[f"  {name}: {array.dtype} {list(array.shape)}" for name, array in inputs.items()],
            ) from error
    found = [value for value in pytree.tree_leaves(result) if isinstance(value, torch.Tensor)]
    names = output_names or (["output"] if len(found) == 1 else [f"output_{index}" for index in range(len(found))])
    return {name: to_numpy(value) for name, value in zip(names, found, strict=True)}


@dataclass(frozen=True)
class ModuleOutput:
    """The tensors that one call of a submodule returned."""

    path: str
    arrays: tuple[Array, ...]


def submodule_outputs(module: torch.nn.Module, inputs: Mapping[str, Array]) -> list[ModuleOutput]:
    """What every submodule of a `wide_copy` returned in one run in float64, in the order in which they finished."""
    found: list[ModuleOutput] = []
    handles = []
    for path, submodule in module.named_modules():

        def note(_module: Any, _arguments: Any, output: Any, path: str = path) -> None:
            leaves = (leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, torch.Tensor))
            found.append(ModuleOutput(path, tuple(to_numpy(leaf).copy() for leaf in leaves)))

        handles.append(submodule.register_forward_hook(note))
    try:
        evaluate_module(module, inputs, wide=True)
    finally:
        for handle in handles:
            handle.remove()
    return found

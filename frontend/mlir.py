"""What was captured as MLIR, through torch-mlir (extra ``mlir``).

torch-mlir's importer takes a `torch.export` program, but finds no state for buffers that are not persistent, and so fails alone on GPT-Neo,
GPT-J, LLaMA and BERT. Here those buffers are made persistent on a copy before export.
"""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cgptc.ir.diagnostics import CompileError, UsageError
from cgptc.ir.dims import Dim, Expr
from cgptc.ir.graph import Graph

if TYPE_CHECKING:
    import torch

DIALECTS = ("torch", "linalg-on-tensors", "stablehlo")
"""Forms that torch-mlir gives."""

ELEMENT_LIMIT = 16
"""Constants with more elements than this are printed without their content."""

FIXED_NOTE = "// for the sizes below only: torch-mlir has no StableHLO for symbolic ones of this model\n"
"""What precedes the text of a module whose sizes had to be fixed."""

MASK = "attention_mask"

SIZES = {"batch": 2, "seq": 8}
"""Example sizes of symbols; any other symbol is 3."""


def mlir_module(module: torch.nn.Module, args: tuple[Any, ...], dialect: str, dynamic_shapes: Any = None) -> Any:
    """torch-mlir's module for ``module`` on inputs like ``args``.

    Raises `UsageError` where torch-mlir is missing, `CompileError` where it fails.
    """
    import torch

    if dialect not in DIALECTS:
        raise UsageError("unknown-dialect", f"there is no MLIR form '{dialect}'", fix=f"choose one of {', '.join(DIALECTS)}")
    try:
        from torch_mlir import fx
    except ImportError as error:
        raise UsageError("no-torch-mlir", "torch-mlir is not installed", fix="pip install 'cgptc[mlir]'") from error
    persistent = copy.deepcopy(module).eval()
    for each in persistent.modules():
        each._non_persistent_buffers_set.clear()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            program = torch.export.export(persistent, args, dynamic_shapes=dynamic_shapes, strict=False)
            return fx.export_and_import(program, output_type=dialect)
        except Exception as error:  # whatever the model's code, torch.export or torch-mlir raises
            first = next((line for line in str(error).splitlines() if "error:" in line), str(error).splitlines()[0] if str(error) else "")
            raise CompileError(
                "torch-mlir-failed",
                f"torch-mlir gives no '{dialect}' for this model: {first.split('error:')[-1].strip()[:200]}",
                fix="try --mlir torch",
            ) from error


def mlir_text(module: Any) -> str:
    """The text of `mlir_module`'s result; large constants without content, and no locations of this machine."""
    text: str = module.operation.get_asm(large_elements_limit=ELEMENT_LIMIT, enable_debug_info=False)
    return text


def example_inputs(graph: Graph, module: torch.nn.Module) -> tuple[tuple[torch.Tensor, ...], Any]:
    """Ids of 0 and masks of 1 for the inputs of a graph that was captured from ``module``, and the axes of them that are dynamic.

    A mask that the module defaults is left out: it then attends without one.
    """
    import torch

    from cgptc.frontend.torch_dtypes import TO_TORCH

    automatic = torch.export.Dim.AUTO
    parameters = inspect.signature(module.forward).parameters
    is_left_out = MASK in parameters and parameters[MASK].default is not inspect.Parameter.empty
    wanted = [value for value in graph.inputs if not (value.name == MASK and is_left_out)]
    args = tuple(
        torch.full(tuple(map(_size, value.type.shape)), int(value.name == MASK), dtype=TO_TORCH[value.type.dtype]) for value in wanted
    )
    dynamic = tuple({axis: automatic for axis, dim in enumerate(value.type.shape) if isinstance(dim, Expr)} for value in wanted)
    return args, dynamic


def _size(dim: Dim, sizes: Mapping[str, int] = SIZES) -> int:
    return dim if isinstance(dim, int) else sizes.get(str(dim), 3)

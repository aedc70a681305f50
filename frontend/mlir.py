"""What was captured as MLIR, through torch-mlir (extra ``mlir``).

torch-mlir's importer takes a `torch.export` program, but finds no state for buffers that are not persistent, and so fails alone on GPT-Neo,
GPT-J, LLaMA and BERT. Here those buffers are made persistent on a copy before export.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cgptc.ir.diagnostics import CompileError, UsageError
from cgptc.ir.dims import Dim, Expr
from cgptc.ir.dtypes import i64
from cgptc.ir.graph import Graph

if TYPE_CHECKING:
    import torch

DIALECTS = ("torch", "linalg-on-tensors", "stablehlo")
"""Forms that torch-mlir gives."""

ELEMENT_LIMIT = 16
"""Constants with more elements than this are printed without their content."""

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
        program = torch.export.export(persistent, args, dynamic_shapes=dynamic_shapes, strict=False)
        try:
            return fx.export_and_import(program, output_type=dialect)
        except Exception as error:
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


def example_inputs(graph: Graph) -> tuple[tuple[torch.Tensor, ...], Any]:
    """Zeros for the inputs of a captured graph but a mask, which models default, and the axes of them that are dynamic."""
    import torch

    from cgptc.frontend.torch_dtypes import TO_TORCH

    automatic = torch.export.Dim.AUTO
    wanted = [value for value in graph.inputs if not (value.name == "attention_mask" and graph.inputs[0].type.dtype is i64)]
    shapes = [tuple(_size(dim) for dim in value.type.shape) for value in wanted]
    args = tuple(torch.zeros(shape, dtype=TO_TORCH[value.type.dtype]) for shape, value in zip(shapes, wanted, strict=True))
    dynamic = tuple({axis: automatic for axis, dim in enumerate(value.type.shape) if isinstance(dim, Expr)} for value in wanted)
    return args, dynamic


def _size(dim: Dim, sizes: Mapping[str, int] = SIZES) -> int:
    return dim if isinstance(dim, int) else sizes.get(str(dim), 3)

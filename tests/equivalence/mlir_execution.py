"""Runs what torch-mlir makes of a module, in MLIR's own compiler: linalg on tensors, to loops, to LLVM, to machine code in this process.

torch-mlir's Python package holds MLIR's passes and its execution engine, but no backend that joins them; this pipeline does. It shares no
kernel with PyTorch's operators, onnxruntime or numpy: every product is three loops that LLVM compiled.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
import torch
from torch_mlir.execution_engine import ExecutionEngine
from torch_mlir.ir import RankedTensorType, UnitAttr
from torch_mlir.passmanager import PassManager
from torch_mlir.runtime import get_ranked_memref_descriptor

from cgptc.frontend.mlir import mlir_module
from cgptc.ir.op import Array

PIPELINE = (
    "func.func(refback-generalize-tensor-pad)",
    "convert-elementwise-to-linalg",
    "refback-mlprogram-bufferize",
    "one-shot-bufferize{copy-before-write bufferize-function-boundaries function-boundary-type-conversion=identity-layout-map}",
    "buffer-results-to-out-params{modify-public-functions=true}",
    "func.func(refback-munge-memref-copy)",  # a copy as loops: the runtime library with MLIR's own is not in the package
    "func.func(tm-tensor-to-loops)",
    "func.func(convert-linalg-to-loops)",
    "func.func(lower-affine)",
    "convert-scf-to-cf",
    "memref-expand",
    "expand-strided-metadata",
    "lower-affine",
    "arith-expand",
    "func.func(convert-math-to-llvm)",
    "convert-math-to-libm",
    "convert-arith-to-llvm",
    "convert-index-to-llvm",
    "finalize-memref-to-llvm",
    "convert-func-to-llvm",
    "convert-cf-to-llvm",
    "reconcile-unrealized-casts",
)
"""From linalg on tensors to LLVM; results become buffers that the caller passes after the inputs."""

ELEMENTS = {"f32": np.float32, "f64": np.float64, "i64": np.int64, "i32": np.int32, "i1": np.bool_}


def run_in_mlir(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> list[Array]:
    """What ``module`` gives for exactly these inputs, sizes included."""
    lowered = mlir_module(module, inputs, "linalg-on-tensors")
    (function,) = (each for each in lowered.body.operations if each.operation.name == "func.func")
    results = [_empty(type_) for type_ in function.type.results]
    with lowered.context:
        function.attributes["llvm.emit_c_interface"] = UnitAttr.get()
        for step in PIPELINE:
            PassManager.parse(f"builtin.module({step})").run(lowered.operation)
    arrays = [*(np.ascontiguousarray(tensor.detach().numpy()) for tensor in inputs), *results]
    engine = ExecutionEngine(lowered, opt_level=0)
    engine.invoke("main", *(ctypes.pointer(ctypes.pointer(get_ranked_memref_descriptor(array))) for array in arrays))
    return results


def _empty(type_: Any) -> Array:
    """An array for a result, of NaN where it has one: an element that is never written must not look right."""
    tensor = RankedTensorType(type_)
    element = ELEMENTS[str(tensor.element_type)]
    return np.full(tensor.shape, np.nan if np.issubdtype(element, np.floating) else 0, element)

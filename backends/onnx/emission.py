"""From a legal graph to files. Imports onnx-ir; `backend` imports this only when something is emitted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import onnx_ir

from cgptc.backends.onnx.cuda_kernels import without_kernel
from cgptc.backends.onnx.external_data import attach, byte_count, place, write_weights
from cgptc.backends.onnx.interface_names import CACHED_FORMS, GROUPED_QUERY
from cgptc.backends.onnx.lowering import lower
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.backends.registry import Emitted, Refusal
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.graph import Graph


def emit_model(graph: Graph, model_file: Path, options: OnnxOptions) -> Emitted:
    """Write the model, and its weights beside it (``<model_file>.data``) where they are not small.

    `CompileError` lists what has no lowering, before anything is written.
    """
    lowered = lower(graph, options)
    if lowered.refusals:
        raise refused(lowered.refusals)
    weights = list(lowered.initializers.weights.items())
    placements = place(weights)
    data_file = model_file.with_name(f"{model_file.name}.data")
    digests = {data_file.name: write_weights(data_file, weights, placements, graph.store)} if placements else {}
    attach(weights, placements, data_file.name, graph.store)
    model_file.write_bytes(onnx_ir.to_proto(lowered.model).SerializeToString(deterministic=True))
    forms = lowered.model.metadata_props.get(CACHED_FORMS, "")
    return Emitted(
        files=(model_file.name, *digests),
        digests=digests,
        facts={
            "nodes": len(lowered.model.graph),
            "opset": options.opset,
            "ops": options.ops,
            "weight_bytes": sum(byte_count(weight) for _, weight in weights),
            "weight_count": len(weights),
            "cached_attention": forms,
            "new_tokens_of_a_batch_with_a_past": "one" if GROUPED_QUERY in forms else "any",
            **({"nodes_without_cuda_kernel": list(map(str, without_kernel(lowered.model)))} if options.ep == "cuda" else {}),
        },
    )


def refused(refusals: Sequence[Refusal]) -> CompileError:
    """One error for all nodes that cannot be lowered."""
    count = len(refusals)
    return CompileError(
        "unsupported-op",
        f"onnx cannot lower {count} node{'s' if count != 1 else ''}",
        details=[line for refusal in refusals for line in refusal.lines()],
    )

"""The ONNX backend."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx_ir

from cgptc.backends.onnx.cost import OnnxCostModel
from cgptc.backends.onnx.external_data import attach, byte_count, place, write_weights
from cgptc.backends.onnx.lowering import legal_ops, lower
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.backends.onnx.session import OnnxSession
from cgptc.backends.registry import Emitted, Refusal
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.graph import Graph
from cgptc.ir.op import Op

MODEL_FILE = "model.onnx"
DATA_FILE = "model.onnx.data"
DEFAULT_PIPELINE = (
    "canonicalize,fuse-linear,fuse-activations,fuse-norms,fuse-attention,canonicalize,cse,normalize-masks,canonicalize,cse,dead-code,"
    "add-cache,canonicalize,cse,dead-code,legalise"
)
"""What runs where the user names no passes: everything whole, masks understood, then the cache where the model is to have one."""


@dataclass(frozen=True)
class OnnxBackend:
    """Writes ``model.onnx``, and ``model.onnx.data`` where the weights are not small."""

    name: str = "onnx"
    options: type[OnnxOptions] = OnnxOptions

    def default_pipeline(self, options: OnnxOptions) -> str:
        return DEFAULT_PIPELINE

    def legal_ops(self, options: OnnxOptions) -> frozenset[type[Op]]:
        return legal_ops(options.ops)

    def check(self, graph: Graph, options: OnnxOptions) -> Sequence[Refusal]:
        return lower(graph, options).refusals

    def emit(self, graph: Graph, folder: Path, options: OnnxOptions) -> Emitted:
        lowered = lower(graph, options)
        if lowered.refusals:
            raise refused(lowered.refusals)
        weights = list(lowered.initializers.weights.items())
        placements = place(weights)
        if placements:
            write_weights(folder / DATA_FILE, weights, placements, graph.store)
        attach(weights, placements, DATA_FILE, graph.store)
        proto = onnx_ir.to_proto(lowered.model)
        (folder / MODEL_FILE).write_bytes(proto.SerializeToString(deterministic=True))
        return Emitted(
            files=(MODEL_FILE, DATA_FILE) if placements else (MODEL_FILE,),
            facts={
                "nodes": len(lowered.model.graph),
                "opset": options.opset,
                "ops": options.ops,
                "weight_bytes": sum(byte_count(weight) for _, weight in weights),
                "weight_count": len(weights),
            },
        )

    def load(self, folder: Path, options: OnnxOptions) -> OnnxSession:
        return OnnxSession.open(folder / MODEL_FILE, provider=options.ep)

    def cost_model(self, options: OnnxOptions) -> OnnxCostModel:
        return OnnxCostModel()


def refused(refusals: Sequence[Refusal]) -> CompileError:
    """One error for all nodes that cannot be lowered."""
    count = len(refusals)
    return CompileError(
        "unsupported-op",
        f"onnx cannot lower {count} node{'s' if count != 1 else ''}",
        details=[line for refusal in refusals for line in refusal.lines()],
    )


BACKEND = OnnxBackend()

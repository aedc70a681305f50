"""The ONNX backend. Loading a model imports onnxruntime alone, emitting one onnx-ir alone, each when it happens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cgptc.backends.onnx.cost import OnnxCostModel
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.backends.onnx.session import OnnxSession
from cgptc.backends.onnx.staged_session import OnnxStage, StagedOnnxSession
from cgptc.backends.registry import Emitted, Refusal
from cgptc.ir.graph import Graph
from cgptc.ir.op import Op
from cgptc.ir.stage_plan import PLAN_FILE
from cgptc.ir.staged import is_staged

MODEL_FILE, DATA_FILE = "model.onnx", "model.onnx.data"
_CACHE = "normalize-masks,canonicalize,cse,dead-code,add-cache,canonicalize,cse,dead-code,legalise"
PIPELINES = (
    f"canonicalize,cse,fuse-softmax,fuse-attention,sink-reshapes,canonicalize,cse,{_CACHE}",
    "canonicalize,fuse-linear,fuse-activations,fuse-norms,fuse-embedding,fuse-softmax,fuse-attention,sink-reshapes,canonicalize,cse,"
    f"fuse-rotary,merge-views,{_CACHE}",
)
"""By level. 0 is what the KV cache needs: attention and masks understood. 1 makes everything else whole, too."""

DEFAULT_PIPELINE = PIPELINES[-1]
"""What runs where the user names neither passes nor a level."""


@dataclass(frozen=True)
class OnnxBackend:
    """Writes ``model.onnx``, and ``model.onnx.data`` where the weights are not small; a staged graph as ``stage-0.onnx`` and so on."""

    name: str = "onnx"
    options: type[OnnxOptions] = OnnxOptions

    def default_pipeline(self, options: OnnxOptions, level: int = 2) -> str:
        return PIPELINES[min(level, len(PIPELINES) - 1)]

    def legal_ops(self, options: OnnxOptions) -> frozenset[type[Op]]:
        from cgptc.backends.onnx.lowering import legal_ops

        return legal_ops(options.ops)

    def check(self, graph: Graph, options: OnnxOptions) -> Sequence[Refusal]:
        from cgptc.backends.onnx.lowering import lower

        return lower(graph, options).refusals

    def emit(self, graph: Graph, folder: Path, options: OnnxOptions) -> Emitted:
        if is_staged(graph):
            from cgptc.backends.onnx.staged_emission import emit_stages

            return emit_stages(graph, folder, options)
        from cgptc.backends.onnx.emission import emit_model

        return emit_model(graph, folder / MODEL_FILE, options)

    def load(self, folder: Path, options: OnnxOptions) -> OnnxSession | StagedOnnxSession:
        if (folder / PLAN_FILE).is_file():
            return StagedOnnxSession.open(folder, options.ep)
        return OnnxSession.open(folder / MODEL_FILE, provider=options.ep)

    def load_stage(self, folder: Path, index: int, options: OnnxOptions) -> OnnxStage:
        return OnnxStage.open(folder, index, options.ep)

    def cost_model(self, options: OnnxOptions) -> OnnxCostModel:
        return OnnxCostModel()


BACKEND = OnnxBackend()

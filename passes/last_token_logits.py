"""Logits of the last token only: all that generation needs of a prefill."""

from __future__ import annotations

from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.graph import Graph
from cgptc.ir.ops.shape import Slice
from cgptc.passes.manager import Pass, PassContext


@dataclass(frozen=True)
class LastTokenLogits(Pass, name="last-token-logits", optional=False):
    """The output of that name over ``[batch, seq, …]`` becomes ``[batch, 1, …]``, its last token's; `sink-slices` then saves the work."""

    output: str = "logits"

    def run(self, graph: Graph, context: PassContext) -> bool:
        outputs = list(graph.outputs)
        for index, (name, value) in enumerate(outputs):
            if name != self.output or value.type.rank < 3 or value.type.shape[1] == 1:
                continue
            length = value.type.shape[1]
            build = Builder(graph)
            if value.producer is not None:
                build.location, build.stage = value.producer.location, value.producer.stage
            last = build(Slice(1, length - 1, length), value)
            last.name = value.name
            outputs[index] = (name, last)
            graph.set_outputs(outputs)
            return True
        return False

"""Dead code elimination."""

from __future__ import annotations

from dataclasses import dataclass

from cgptc.ir.graph import Graph
from cgptc.passes.manager import Pass, PassContext


@dataclass(frozen=True)
class DeadCode(Pass, name="dead-code"):
    """Erase nodes that no output needs."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        changed = False
        for node in graph.reversed_nodes:
            context.count("nodes visited")
            if not any(value.use_count for value in node.results):
                graph.erase(node)
                changed = True
        return changed

"""Common subexpression elimination."""

from __future__ import annotations

from dataclasses import dataclass

from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.loc import union
from cgptc.ir.op import Op
from cgptc.passes.manager import Pass, PassContext


@dataclass(frozen=True)
class CommonSubexpressions(Pass, name="cse"):
    """Merge nodes of one stage with equal op and operands; the first one takes the locations of both."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        seen: dict[tuple[Op, tuple[Value | None, ...], int | None], Node] = {}
        changed = False
        for node in graph.nodes:
            context.count("nodes visited")
            key = (node.op, _ordered(node), node.stage)
            first = seen.setdefault(key, node)
            if first is node:
                continue
            for old, new in zip(node.results, first.results, strict=True):
                new.name = new.name or old.name
                graph.replace_uses(old, new)
            graph.set_location(first, union((first.location, node.location)))
            graph.erase(node)
            changed = True
        return changed


def _ordered(node: Node) -> tuple[Value | None, ...]:
    """The operands; those of a commutative op in an order that does not depend on how they were written."""
    if type(node.op).commutative and len(node.operands) == 2:
        return tuple(sorted(node.operands, key=id))
    return node.operands

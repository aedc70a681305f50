"""Decompose what a target cannot lower, then say all that is left."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.graph import Graph, Node
from cgptc.ir.op import Op, is_composite
from cgptc.passes.manager import Pass, PassContext
from cgptc.passes.rewrite import erase_dead, inserted_between

SHOWN = 20
"""Nodes that an error lists."""


@dataclass(frozen=True)
class Legalise(Pass, name="legalise", optional=False):
    """Decompose composite operations until the target lowers every node. Raises `CompileError` with all that remain."""

    def run(self, graph: Graph, context: PassContext) -> bool:
        if context.legal is None:
            return False
        changed = decompose_until_legal(graph, context.legal)
        illegal = [node for node in graph.nodes if type(node.op) not in context.legal]
        if illegal:
            raise unsupported(context.target, illegal)
        return changed


def decompose_until_legal(graph: Graph, legal: Collection[type[Op]]) -> bool:
    """Replace composite nodes that are not legal by their decomposition, again and again."""
    changed = False
    pending = list(graph.nodes)
    while pending:
        node = pending.pop()
        if node.alive and type(node.op) not in legal and is_composite(node.op):
            pending += _decompose(graph, node)
            changed = True
    return changed


def _decompose(graph: Graph, node: Node) -> list[Node]:
    """Replace one node; the nodes that stand for it now."""
    previous = node._previous
    build = Builder(graph, before=node, location=node.location, stage=node.stage)
    made = node.op.decompose(build, *node.operands)
    if made is None:
        return []
    created = inserted_between(graph, previous, node)
    results = made if isinstance(made, tuple) else (made,)
    for old, new in zip(node.results, results, strict=True):
        new.name = new.name or old.name
        graph.replace_uses(old, new)
    erase_dead(graph, [node])
    return created


def unsupported(target: str, nodes: Collection[Node]) -> CompileError:
    """The error that lists every node a target cannot lower."""
    details: list[str] = []
    for node in list(nodes)[:SHOWN]:
        details += [f"  --> {node.location}", f"      {node!r}"]
    if len(nodes) > SHOWN:
        details.append(f"  … and {len(nodes) - SHOWN} more")
    count = f"{len(nodes)} node{'s' if len(nodes) > 1 else ''}"
    return CompileError(
        "unsupported-op", f"{target} cannot lower {count}", details=details, fix="cgptc check MODEL shows what each target supports"
    )

"""Choosing layers by globs over the names that users know: modules and stored weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from cgptc.ir.diagnostics import UsageError
from cgptc.ir.graph import Graph, Node
from cgptc.ir.ops.constant import Constant
from cgptc.ir.weight_expressions import leaves
from cgptc.ir.weights import Stored, Weight

SHOWN = 6
"""Names that an error lists."""


def weight_of(node: Node, operand: int) -> Weight | None:
    """The weight that an operand of ``node`` is; None where it is absent or computed."""
    value = node.operands[operand] if operand < len(node.operands) else None
    return value.op.weight if value is not None and isinstance(value.op, Constant) else None


HEADS = {"logits": "lm_head"}
"""What the layer that gives an output is called where the model has no module for it, as with a tied head."""


def names_of(node: Node, graph: Graph) -> tuple[str, ...]:
    """The modules that a node stands for, the stored tensors that it reads, and what gives an output by its usual name, each once."""
    paths = [frame.path for frame in node.location.frames if frame.path]
    weights = [value.op.weight for value in node.inputs if isinstance(value.op, Constant)]
    stored = [leaf.name for weight in weights for leaf in leaves(weight) if isinstance(leaf, Stored)]
    heads = [HEADS[name] for name, value in graph.outputs if value.producer is node and name in HEADS]
    return tuple(dict.fromkeys([*paths, *stored, *heads]))


def matches(names: Iterable[str], glob: str) -> bool:
    """Whether a glob names one of ``names``, or whole trailing or leading parts of it: ``h.*.mlp`` names
    ``transformer.h.0.mlp.c_fc.weight``.
    """
    forms = (glob, f"*.{glob}", f"{glob}.*", f"*.{glob}.*")
    return any(fnmatchcase(name, form) for name in names for form in forms)


def chosen(graph: Graph, nodes: Iterable[Node], only: Sequence[str], keep: Sequence[str], what: str) -> list[Node]:
    """The nodes that some glob of ``only`` names (all where it is empty) and none of ``keep``.

    `UsageError` for a glob that names none of the nodes: it would do nothing.
    """
    named = [(node, names_of(node, graph)) for node in nodes]
    for glob in (*only, *keep):
        if not any(matches(names, glob) for _, names in named):
            known = sorted({name for _, names in named for name in names})
            more = ", …" if len(known) > SHOWN else ""
            raise UsageError("no-match", f"'{glob}' names no {what}", fix=f"there are {', '.join(known[:SHOWN])}{more}" if known else "")
    return [
        node
        for node, names in named
        if (not only or any(matches(names, glob) for glob in only)) and not any(matches(names, glob) for glob in keep)
    ]

"""Rewrites: a pattern, and a builder of what replaces it, applied until nothing changes."""

from __future__ import annotations

import inspect
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from cgptc.ir.builder import Builder
from cgptc.ir.graph import Graph, Node, Value
from cgptc.ir.loc import union
from cgptc.ir.op import is_composite
from cgptc.passes.manager import ROUNDED, PassContext
from cgptc.passes.pattern import Match, Miss, OpPattern, Pattern, match, operations


@dataclass(frozen=True)
class Decline:
    """A builder's refusal, with the reason that ``explain`` shows."""

    reason: str


@dataclass(frozen=True)
class Rewrite:
    """``pattern`` becomes what ``build`` gives. ``subject`` groups rewrites in reports, such as "attention".

    A near miss, one in which at least ``near`` nodes matched, is reported under the subject; of several at a node the nearest.
    """

    name: str
    pattern: OpPattern
    build: Callable[..., Value | Decline | None]
    parameters: tuple[str, ...]
    subject: str = ""
    near: int = 2

    @property
    def extends(self) -> bool:
        """Whether it adds to an operation that is whole already, so that not doing it leaves nothing in pieces."""
        return any(is_composite(part.op) for part in operations(self.pattern))

    @property
    def summary(self) -> str:
        """The first line of the builder's docstring."""
        return (self.build.__doc__ or "").strip().splitlines()[0] if self.build.__doc__ else ""


def rewrite(pattern: Pattern, *, subject: str = "", near: int = 2) -> Callable[[Callable[..., Value | Decline | None]], Rewrite]:
    """Decorator: the function ``(build, *variables)`` gives what replaces the root's result, None or a `Decline` to leave it."""
    if not isinstance(pattern, OpPattern):
        raise TypeError("a rewrite's pattern starts with an operation")

    def wrap(function: Callable[..., Value | Decline | None]) -> Rewrite:
        parameters = tuple(inspect.signature(function).parameters)[1:]
        return Rewrite(function.__name__.replace("_", "-"), pattern, function, parameters, subject, near)

    return wrap


def apply_rewrites(graph: Graph, rewrites: Sequence[Rewrite], context: PassContext) -> bool:
    """Apply rewrites until none matches; whether anything changed.

    Near-linear: a node is looked at again only when an operand of it was replaced. Raises RuntimeError naming the rules that keep
    undoing each other.
    """
    by_root: dict[type, list[Rewrite]] = {}
    for rule in rewrites:
        by_root.setdefault(rule.pattern.op, []).append(rule)
    queue = deque(graph.nodes)
    queued = set(queue)
    misses: dict[Node, dict[str, tuple[Rewrite, Miss]]] = {}
    applied: list[str] = []
    limit = 64 * len(queue) + 1024
    while queue:
        node = queue.popleft()
        queued.discard(node)
        if not node.alive:
            continue
        context.count("nodes visited")
        misses.pop(node, None)
        for rule in by_root.get(type(node.op), ()):
            context.count("patterns tried")
            outcome = _try(graph, node, rule, context)
            if isinstance(outcome, Miss):
                if rule.subject and outcome.depth >= rule.near and not rule.extends:
                    nearest = misses.setdefault(node, {})
                    if rule.subject not in nearest or outcome.depth >= nearest[rule.subject][1].depth:
                        nearest[rule.subject] = (rule, outcome)
                continue
            if outcome is None:
                continue
            misses.pop(node, None)
            applied.append(rule.name)
            if len(applied) > limit:
                raise RuntimeError(f"rewrites do not end; the last were {', '.join(dict.fromkeys(applied[-16:]))}")
            for changed in outcome:
                if changed.alive and changed not in queued:
                    queue.append(changed)
                    queued.add(changed)
            break
    for node, nearest in misses.items():
        for subject, (rule, miss) in nearest.items() if node.alive else ():
            context.missed(subject, node.location, f"{rule.name}: {miss.reason}", node=node)
    return bool(applied)


def _try(graph: Graph, node: Node, rule: Rewrite, context: PassContext) -> Miss | list[Node] | None:
    """Nodes to look at again after rewriting; a Miss, or None where nothing was done."""
    root = node.results[rule.pattern.result]
    found = match(rule.pattern, root)
    if isinstance(found, Miss):
        return found
    if len({matched.stage for matched in found.nodes}) > 1:
        return Miss(len(found.nodes), "it would merge two stages", root)
    return replace_match(graph, node, root, found, rule, context)


def replace_match(graph: Graph, node: Node, root: Value, found: Match, rule: Rewrite, context: PassContext) -> Miss | list[Node] | None:
    """Build the replacement before ``node``, move ``root``'s uses to it and drop what died."""
    location = union(matched.location for matched in found.nodes)
    build = Builder(graph, before=node, location=location, stage=node.stage)
    arguments: list[Any] = [found.values.get(name) for name in rule.parameters]
    previous = node._previous
    if context.rewrites_left is not None and context.rewrites_left <= 0:
        return None
    replacement = rule.build(build, *arguments)
    created = inserted_between(graph, previous, node)
    if isinstance(replacement, Value) and replacement.type != root.type:
        if replacement.type.dtype != root.type.dtype:
            raise TypeError(f"rewrite '{rule.name}' changes a result's type from {root.type} to {replacement.type}")
        # Broadcasting against what the pattern takes for a mere number grew the result.
        replacement = Decline(f"the result would be {replacement.type} instead of {root.type}")
    if replacement is None or isinstance(replacement, Decline):
        for new in reversed(created):
            if not any(result.use_count for result in new.results):
                graph.erase(new)
        return Miss(len(found.nodes), replacement.reason, root) if isinstance(replacement, Decline) else None
    context.take_rewrite(rule.name, location)
    if found.rounded:
        context.count(ROUNDED)
    if replacement.producer is not None and not replacement.name and replacement.producer in created:
        replacement.name = root.name
    users = list(root.users)
    graph.replace_uses(root, replacement)
    producers = [operand.producer for matched in found.nodes for operand in matched.inputs if operand.producer is not None]
    erase_dead(graph, found.nodes)
    if rule.subject:
        context.done(rule.subject, location, rule.name, node=replacement.producer, of=found.nodes)
    return [*created, *users, *producers]


def inserted_between(graph: Graph, previous: Node | None, node: Node) -> list[Node]:
    """The nodes that now stand between two that were neighbours; ``previous`` None is the start of the graph."""
    current = previous._next if previous is not None else graph._first
    created: list[Node] = []
    while current is not None and current is not node:
        created.append(current)
        current = current._next
    return created


def erase_dead(graph: Graph, nodes: Sequence[Node]) -> int:
    """Erase those of ``nodes`` that are unused, and whatever only they used; how many were erased."""
    pending = list(nodes)
    count = 0
    while pending:
        node = pending.pop()
        if not node.alive or any(result.use_count for result in node.results):
            continue
        producers = [operand.producer for operand in node.inputs if operand.producer is not None]
        graph.erase(node)
        count += 1
        pending += producers
    return count

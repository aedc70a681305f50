"""Every wait ends. PEs are deterministic, every queue has one writer and one reader, and counts are static: then one abstract run decides
for every schedule (Kahn; Parks for bounded queues).

The run that is looked for goes step by step. Each collective, started with empty queues, must complete on its own and leave them empty:
then running steps one after another is a complete run of a region, and whatever overlaps happen, none can stall. Between regions the
tokens are items of streams with their real depths.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cgptc.backends.wafer.affine import value_of
from cgptc.backends.wafer.clock import talks
from cgptc.backends.wafer.collectives import Action, Expansion, Pattern
from cgptc.backends.wafer.faults import Issue
from cgptc.backends.wafer.program import ITEM, Entry, Program, Region
from cgptc.backends.wafer.resolve import iterations
from cgptc.backends.wafer.steps import Loop, Receive, Send, Step
from cgptc.backends.wafer.verify.corners import corners
from cgptc.backends.wafer.verify.fabric import uses
from cgptc.backends.wafer.verify.likeness import Kinds

MAX_NAMED = 10


def wait_issues(program: Program, kinds: Kinds) -> Iterator[Issue]:
    """All broken rules of this group."""
    capacity = program.machine.queue_words
    completes: set[Pattern] = set()

    def broken(region: Region) -> Iterator[Issue]:
        for pattern in dict.fromkeys(use.pattern for use in uses(program, region)):
            if pattern in completes:
                continue
            stuck = stalled(pattern.expand(), 2 * capacity + 1, capacity)
            if stuck:
                yield Issue("deadlock", f"region '{region.name}'", f"'{pattern.kind}' by {pattern.algorithm}: {'; '.join(stuck)}")
            else:
                completes.add(pattern)

    yield from kinds.issues(broken)
    # Every item sends and receives alike, so once all queues have been full and empty the rest repeats.
    most = 4 + 2 * sum(stream.depth for stream in program.streams)
    for entry in program.entries:
        for corner in corners(program, entry):
            scalars = {name: value for name, value in corner.items() if name != ITEM}
            waiting = tokens(program, entry, scalars, most)
            if waiting:
                yield Issue("deadlock", f"entry '{entry.name}'", waiting)
                break


def tokens(program: Program, entry: Entry, scalars: Mapping[str, int], most: int) -> str:
    """Run the items of all streams, at most ``most`` of each, through queues of their depths; who waits for what where it stalls."""
    inside = dict.fromkeys((stream.name for stream in program.streams), 0)
    depth = {stream.name: stream.depth for stream in program.streams}
    items = min(value_of(entry.items, scalars), most)
    ways = {region.name: _talk(region, entry.name, items, scalars) for region in program.regions}
    following: dict[str, Send | Receive] = {}
    pending = list(ways)
    while pending:
        moved = False
        for name in pending:
            while True:
                step = following.pop(name, None) or next(ways[name], None)
                if step is None:
                    break
                sends = isinstance(step, Send)
                if inside[step.stream] == (depth[step.stream] if sends else 0):
                    following[name] = step
                    break
                inside[step.stream] += 1 if sends else -1
                moved = True
        pending = [name for name in pending if name in following]
        if pending and not moved:
            return "; ".join(f"'{name}' waits {_reason(following[name])}" for name in sorted(pending))
    return ""


def _reason(step: Send | Receive) -> str:
    return f"for room in stream '{step.stream}'" if isinstance(step, Send) else f"for an item of stream '{step.stream}'"


def _talk(region: Region, entry: str, items: int, scalars: Mapping[str, int]) -> Iterator[Send | Receive]:
    """What a region sends and receives, item by item."""
    steps = [step for step in region.steps(entry) if isinstance(step, (Send, Receive)) or (isinstance(step, Loop) and talks(step))]
    for item in range(items):
        pending: list[tuple[Step, dict[str, int]]] = [(step, {**scalars, ITEM: item}) for step in reversed(steps)]
        while pending:
            step, environment = pending.pop()
            if isinstance(step, Loop):
                pending.extend((inner, one) for one in reversed(list(iterations(step, environment))) for inner in reversed(step.steps))
            elif isinstance(step, (Send, Receive)):
                yield step


def stalled(expansion: Expansion, words: int, capacity: int) -> list[str]:
    """Run an expansion with messages of ``words`` through queues of ``capacity``; who waits for what where it stalls, else nothing."""
    inside: dict[tuple[int, int, int], int] = {}
    turn = [0] * len(expansion.turns)
    left: list[dict[int, int]] = [_fresh(expansion, position, 0, words) for position in range(len(turn))]
    active = set(range(len(turn)))
    while True:
        moved = False
        for position in sorted(active):
            while turn[position] < len(expansion.turns[position]):
                actions = expansion.turns[position][turn[position]]
                for index in list(left[position]):
                    count = _move(actions[index], position, left[position][index], inside, capacity)
                    moved = moved or count > 0
                    left[position][index] -= count
                    if left[position][index] == 0:
                        del left[position][index]
                if left[position]:
                    break
                turn[position] += 1
                left[position] = _fresh(expansion, position, turn[position], words)
            else:
                active.discard(position)
                moved = True
        if not active:
            over = [key for key, count in inside.items() if count]
            return [f"{len(over)} queues are not empty at the end, first {over[0]}"] if over else []
        if not moved:
            return [_waiting(expansion, position, turn[position], min(left[position])) for position in sorted(active)[:MAX_NAMED]]


def _waiting(expansion: Expansion, position: int, turn: int, index: int) -> str:
    action = expansion.turns[position][turn][index]
    state = "full" if action.kind == "send" else "empty"
    return f"position {position} waits to {action.kind} on colour {action.message.colour}, whose queue is {state}"


def _fresh(expansion: Expansion, position: int, turn: int, words: int) -> dict[int, int]:
    turns = expansion.turns[position]
    return dict.fromkeys(range(len(turns[turn])), words) if turn < len(turns) else {}


def _move(action: Action, position: int, words: int, inside: dict[tuple[int, int, int], int], capacity: int) -> int:
    message = action.message
    if action.kind == "send":
        keys = [(position, other, message.colour) for other in message.destinations]
        count = min(words, *(capacity - inside.get(key, 0) for key in keys))
        for key in keys:
            inside[key] = inside.get(key, 0) + count
        return count
    key = (message.source, position, message.colour)
    count = min(words, inside.get(key, 0))
    inside[key] = inside.get(key, 0) - count
    return count

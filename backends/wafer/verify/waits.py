"""Every wait ends. PEs are deterministic, every queue has one writer and one reader, and counts are static: then one abstract run decides
for every schedule (Kahn; Parks for bounded queues).

The run that is looked for goes step by step. Each collective, started with empty queues, must complete on its own and leave them empty:
then running steps one after another is a complete run of a region, and whatever overlaps happen, none can stall. Between regions the
tokens are items of streams with their real depths.
"""

from __future__ import annotations

from collections.abc import Iterator

from cgptc.backends.wafer.clock import timeline
from cgptc.backends.wafer.collectives import Action, Expansion
from cgptc.backends.wafer.faults import ExecutionError, Issue
from cgptc.backends.wafer.program import ITEM, Program
from cgptc.backends.wafer.verify.fabric import uses
from cgptc.backends.wafer.verify.steps import corners

MAX_NAMED = 10


def wait_issues(program: Program) -> Iterator[Issue]:
    """All broken rules of this group."""
    capacity = program.machine.queue_words
    for region in program.regions:
        done = set()
        for use in uses(program, region):
            if use.pattern not in done:
                done.add(use.pattern)
                stuck = stalled(use.pattern.expand(), 2 * capacity + 1, capacity)
                if stuck:
                    yield Issue(
                        "deadlock", f"region '{region.name}'", f"'{use.pattern.kind}' by {use.pattern.algorithm}: {'; '.join(stuck)}"
                    )
    # Every item sends and receives alike, so once all queues have been full and empty the rest repeats.
    most = 4 + 2 * sum(stream.depth for stream in program.streams)
    for entry in program.entries:
        for corner in corners(program, entry):
            scalars = {name: value for name, value in corner.items() if name != ITEM}
            try:
                timeline(program, entry.name, scalars, most=most)
            except ExecutionError as error:
                yield Issue("deadlock", f"entry '{entry.name}'", error.what)
                break


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

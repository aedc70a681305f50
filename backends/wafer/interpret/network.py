"""The queues between PEs of one run, and the links that messages walk."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from numpy.typing import NDArray

from cgptc.backends.wafer.interpret.account import Account
from cgptc.backends.wafer.machine import Machine

Array = NDArray[Any]
Work: TypeAlias = Generator[None, None, None]
"""What a PE does until it ends; it yields where it must wait."""

Point = tuple[int, int]


@dataclass
class Queue:
    """From one PE to another: whole payloads, of which so many words have entered and not left."""

    capacity: int
    payloads: deque[Array] = field(default_factory=deque)
    inside: int = 0

    @property
    def full(self) -> bool:
        return self.inside >= self.capacity

    def put(self, payload: Array) -> None:
        """One payload enters as a whole."""
        self.payloads.append(payload)
        self.inside += 1

    def take(self) -> Array:
        """One payload leaves as a whole."""
        self.inside -= 1
        return self.payloads.popleft()


@dataclass(eq=False)
class Network:
    """All queues, by what tells them apart. ``progress`` counts what moved: a pass without any is one in which all waited."""

    machine: Machine
    account: Account
    progress: int = 0
    _queues: dict[Hashable, Queue] = field(default_factory=dict)

    def queue(self, key: Hashable, capacity: int) -> Queue:
        """The queue of that name, which is made when it is first asked for."""
        return self._queues.setdefault(key, Queue(capacity))

    def left_over(self) -> list[Hashable]:
        """The queues that something is still in."""
        return [key for key, queue in self._queues.items() if queue.inside]

    def walk(self, links: Iterable[tuple[int, int, str]], words: int) -> None:
        """Count words over links, each named by the PE that it leaves and its direction."""
        for x, y, direction in links:
            self.account.hop(x, y, direction, words)


def straight(start: Point, end: Point) -> Iterator[tuple[int, int, str]]:
    """Links of a straight way."""
    (x, y), (end_x, end_y) = start, end
    while x != end_x:
        yield x, y, "east" if end_x > x else "west"
        x += 1 if end_x > x else -1
    while y != end_y:
        yield x, y, "south" if end_y > y else "north"
        y += 1 if end_y > y else -1

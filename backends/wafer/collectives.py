"""Collectives along a line of PEs. One declaration, `Pattern`, gives what must agree:

* `Pattern.expand`: the messages, and what each position does in which order;
* `Pattern.apply`: the same over whole regions at once;
* `Pattern.cost`: the counts C, E, N, L, D of the cost model, in closed form;
* `Pattern.loads`: words over each link.

Positions count from 0 eastward or southward. Colours are indices into the colours that the step is given.

Reductions are lists of *rounds*: in a round, disjoint receivers each combine what one sender holds into their own. Both the expansion
and the region-wide form follow the rounds, so that values are combined in one order. Source of the algorithms and of their counts:
"Near-Optimal Wafer-Scale Reduce", HPDC 2024; the interleaved ring is MeshGEMM's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.machine import Machine

Kind = Literal["shift", "broadcast", "reduce", "allreduce", "gather"]
Algorithm = Literal["neighbour", "interleaved", "multicast", "chain", "two-phase", "tree", "direct"]
Combine = Literal["add", "max", "or"]
Combiner = Callable[[NDArray[Any], NDArray[Any]], NDArray[Any]]

ALGORITHMS: dict[str, tuple[str, ...]] = {
    "shift": ("neighbour", "interleaved"),
    "broadcast": ("multicast",),
    "reduce": ("chain", "two-phase", "tree"),
    "allreduce": ("chain", "two-phase", "tree"),
    "gather": ("direct",),
}


@dataclass(frozen=True)
class Message:
    """One part of the payload from a position to others along the line. ``phase`` orders messages that reuse a colour's routes."""

    source: int
    destinations: tuple[int, ...]
    colour: int
    phase: int = 0

    @property
    def hops(self) -> int:
        """Links crossed: routers on the way copy, so a link is crossed once."""
        return max(0, max(self.destinations) - self.source) + max(0, self.source - min(self.destinations))

    def routes(self) -> Iterator[tuple[int, str, tuple[str, ...]]]:
        """``(position, input port, output ports)`` at every router that the message touches; ports are - (back), + (on) and R."""
        low, high = min(self.source, *self.destinations), max(self.source, *self.destinations)
        for position in range(low, high + 1):
            outputs = [*("-" for _ in range(low < position <= self.source)), *("+" for _ in range(self.source <= position < high))]
            if position in self.destinations:
                outputs.insert(0, "R")
            yield position, "R" if position == self.source else "-" if position > self.source else "+", tuple(outputs)


@dataclass(frozen=True)
class Action:
    """What a position does with a message: send its own payload, or receive. ``combine`` False stores; ``slot`` is a gather's place."""

    kind: Literal["send", "receive"]
    message: Message
    combine: bool = False
    slot: int = 0


Turn = tuple[Action, ...]
"""Actions that go on at the same time; a turn ends when all have."""


@dataclass(frozen=True)
class Expansion:
    """All messages of a collective on one line, and per position its turns in order."""

    messages: tuple[Message, ...]
    turns: tuple[tuple[Turn, ...], ...]


@dataclass(frozen=True)
class Counts:
    """The figures of the cost model: see `Machine.message_line_cycles`. ``wavelets`` counts words sent."""

    contention: int
    energy: int
    links: int
    distance: int
    depth: int
    wavelets: int

    def cycles(self, machine: Machine) -> int:
        return machine.message_line_cycles(
            contention=self.contention, energy=self.energy, links=self.links, distance=self.distance, depth=self.depth
        )


@dataclass(frozen=True)
class Round:
    """Receivers, each of which combines what the sender of the same rank holds into its own."""

    receivers: range
    senders: range
    colour: int
    phase: int = 0


@dataclass(frozen=True)
class Pattern:
    """A collective on a line of ``size`` positions.

    ``root`` is where a reduction ends and a broadcast starts; ``group`` the group size of two-phase; ``hops`` a shift's distance (negative
    is backward), ``ring`` whether it wraps around.
    """

    kind: Kind
    algorithm: Algorithm
    size: int
    root: int = 0
    group: int = 0
    hops: int = 0
    ring: bool = False

    def __post_init__(self) -> None:
        allowed = ALGORITHMS.get(self.kind, ())
        if self.algorithm not in allowed:
            raise ProgramError("collective", f"'{self.kind}' has no algorithm {self.algorithm!r}", fix=f"one of {', '.join(allowed)}")
        if self.size < 1 or not 0 <= self.root < self.size:
            raise ProgramError("collective", f"root {self.root} does not lie on a line of {self.size}")
        if self.algorithm in ("two-phase", "tree") and self.root not in (0, self.size - 1):
            raise ProgramError("collective", f"'{self.algorithm}' ends at an end of the line, not at {self.root} of {self.size}")
        if self.algorithm == "two-phase" and self.group < 1:
            raise ProgramError("collective", "'two-phase' needs a group size")
        if self.algorithm == "interleaved" and self.hops not in (1, -1):
            raise ProgramError("collective", f"an interleaved ring shifts by 1 or -1, not {self.hops}")
        if self.algorithm == "neighbour" and not (0 < abs(self.hops) < max(self.size, 2)):
            raise ProgramError("collective", f"a shift by {self.hops} does not stay on a line of {self.size}")

    @property
    def colour_count(self) -> int:
        """Colours that the pattern needs, whatever its size and root, so that a step's colours do not depend on run-time values."""
        if self.kind == "shift":
            return 4 if self.algorithm == "interleaved" else abs(self.hops) + 1 + (abs(self.hops) if self.ring else 0)
        reduction = {"chain": 4, "two-phase": 4, "tree": 2}.get(self.algorithm, 0)
        return {"broadcast": 1, "reduce": reduction, "allreduce": reduction + 1, "gather": 2}[self.kind]

    @cached_property
    def rounds(self) -> tuple[Round, ...]:
        """The rounds of the reduction part."""
        rounds: list[Round] = []
        size = self.size
        if self.algorithm == "chain":
            right, left = size - 1 - self.root, self.root
            for step in range(max(right, left)):
                if step < right:
                    receiver = size - 2 - step
                    rounds.append(Round(range(receiver, receiver + 1), range(receiver + 1, receiver + 2), receiver % 2))
                if step < left:
                    rounds.append(Round(range(step + 1, step + 2), range(step, step + 1), 2 + step % 2))
            return tuple(rounds)
        if self.algorithm == "two-phase":
            group = self.group
            for step in range(min(group, size) - 2, -1, -1):
                senders = range(step + 1, size, group)
                rounds.append(Round(range(step, size, group)[: len(senders)], senders, step % 2))
            leaders = range(0, size, group)
            for leader in range(len(leaders) - 2, -1, -1):
                rounds.append(Round(leaders[leader : leader + 1], leaders[leader + 1 : leader + 2], 2 + leader % 2))
        elif self.algorithm == "tree":
            for phase in range(_log2(size)):
                stride = 1 << phase
                senders = range(stride, size, 2 * stride)
                rounds.append(Round(range(0, size, 2 * stride)[: len(senders)], senders, phase % 2, phase))
        if self.root:
            last = size - 1
            return tuple(Round(_mirrored(one.receivers, last), _mirrored(one.senders, last), one.colour, one.phase) for one in rounds)
        return tuple(rounds)

    @cached_property
    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Receivers and senders of the reduction part, message by message."""
        found = [(receiver, sender) for one in self.rounds for receiver, sender in zip(one.receivers, one.senders, strict=True)]
        receivers, senders = np.array(found, np.int64).reshape(-1, 2).T.copy()
        return receivers, senders

    def expand(self) -> Expansion:
        """The messages of one line, and each position's turns."""
        return _expand(self)

    def apply(self, source: NDArray[Any], target: NDArray[Any], combiner: Combiner) -> None:
        """Run on all lines at once: arrays ``[segments, size, …]`` of equal shape (a gather's target has an axis of ``size`` after those).

        Every position's payload is in ``source``; results go to ``target`` as the positions' own turns would leave them.
        """
        if self.kind == "shift":
            target[...] = 0
            sources, places = self.shift_places
            target[:, places] = source[:, sources]
            return
        if self.kind == "gather":
            for position in range(self.size):
                target[:, position, position] = source[:, position]
                target[:, self.root, position] = source[:, position]
            return
        if self.kind == "broadcast":
            target[...] = source[:, self.root : self.root + 1]
            return
        self.reduce(source, target, combiner)
        if self.kind == "allreduce":
            target[...] = target[:, self.root : self.root + 1].copy()

    def reduce(self, source: NDArray[Any], target: NDArray[Any], combiner: Combiner) -> None:
        """The reduction part of `apply` alone: the root then has the result."""
        if target is not source:
            target[...] = source
        for one in self.rounds:
            receivers, senders = _slice(one.receivers), _slice(one.senders)
            target[:, receivers] = combiner(target[:, receivers], target[:, senders])

    def cost(self, words: int) -> Counts:
        """C, E, N, L, D and wavelets for ``words`` wavelets of payload per position, in closed form."""
        size, links = self.size, self.size - 1
        if size == 1 or words == 0:
            return Counts(0, 0, links, 0, 0, 0)
        reach = max(self.root, links - self.root)
        multicast = Counts(words, words * links, links, reach, 1, words)
        match self.kind:
            case "broadcast":
                return multicast
            case "gather":
                energy = words * (self.root * (self.root + 1) + (links - self.root) * (links - self.root + 1)) // 2
                return Counts(words * links, energy, links, reach, 1, words * links)
            case "shift":
                return self._shift_cost(words)
        reduction = self._reduction_cost(words)
        if self.kind == "reduce":
            return reduction
        # Reduction and multicast follow each other, so their times add; as counts: words, hops and messages of both in sequence.
        return Counts(
            reduction.contention + multicast.contention,
            reduction.energy + multicast.energy,
            links,
            reduction.distance + multicast.distance,
            reduction.depth + 1,
            reduction.wavelets + words,
        )

    def cycles(self, words: int, machine: Machine) -> int:
        """Cycles of the collective by the adopted formula; an allreduce is its two parts in sequence."""
        if self.kind != "allreduce" or self.size == 1 or words == 0:
            return self.cost(words).cycles(machine)
        reduce = Pattern("reduce", self.algorithm, self.size, self.root, self.group)
        broadcast = Pattern("broadcast", "multicast", self.size, self.root)
        return reduce.cost(words).cycles(machine) + broadcast.cost(words).cycles(machine)

    def loads(self, words: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Words over each link ``i → i + 1``, and over each ``i + 1 → i``."""
        onward, backward = _unit_loads(self)
        return onward * words, backward * words

    @cached_property
    def shift_places(self) -> tuple[list[int], list[int]]:
        """Sources of a shift, and where each one's payload goes; those that would leave the line are not among them."""
        sources = list(range(self.size))
        if self.algorithm == "interleaved":
            targets = [_ring_next(source, self.size) for source in sources]
            return (sources, targets) if self.hops > 0 else (targets, sources)
        if self.ring:
            return sources, [(source + self.hops) % self.size for source in sources]
        sources = [source for source in sources if 0 <= source + self.hops < self.size]
        return sources, [source + self.hops for source in sources]

    def _shift_cost(self, words: int) -> Counts:
        size, links = self.size, self.size - 1
        if self.algorithm == "interleaved":
            return Counts(words, 2 * words * links, 2 * links, min(2, links), 1, words * size)
        hops = abs(self.hops)
        straight = words * hops * (size - hops)
        if not self.ring:
            return Counts(words, straight, links, hops, 1, words * (size - hops))
        return Counts(words, 2 * straight, 2 * links, max(hops, size - hops), 1, words * size)

    def _reduction_cost(self, words: int) -> Counts:
        size, links = self.size, self.size - 1
        wavelets = words * links
        if self.algorithm == "chain":
            reach = max(self.root, links - self.root)
            return Counts(words * (2 if 0 < self.root < links else 1), wavelets, links, reach, reach, wavelets)
        if self.algorithm == "two-phase":
            groups = math.ceil(size / self.group)
            energy = words * (size - groups + self.group * (groups - 1))
            arrivals = (1 if self.group > 1 else 0) + (1 if groups > 1 else 0)
            return Counts(words * arrivals, energy, links, links, min(self.group, size) - 1 + groups - 1, wavelets)
        depth = _log2(size)
        energy = sum((1 << phase) * len(range(1 << phase, size, 2 << phase)) for phase in range(depth))
        return Counts(words * depth, words * energy, links, links, depth, wavelets)


@lru_cache(maxsize=4096)
def _expand(pattern: Pattern) -> Expansion:
    messages: list[Message] = []
    turns: list[list[Turn]] = [[] for _ in range(pattern.size)]

    def transfer(message: Message, *, combine: bool = False, slot: int = 0) -> None:
        messages.append(message)
        turns[message.source].append((Action("send", message),))
        for destination in message.destinations:
            turns[destination].append((Action("receive", message, combine, slot),))

    if pattern.kind == "shift":
        pairs = list(zip(*pattern.shift_places, strict=True))
        sends: dict[int, Action] = {}
        receives: dict[int, Action] = {}
        for source, target in pairs:
            if source == target:
                continue
            message = Message(source, (target,), _shift_colour(pattern, source, target))
            messages.append(message)
            sends[source], receives[target] = Action("send", message), Action("receive", message)
        for position in range(pattern.size):
            turn = tuple(action for action in (sends.get(position), receives.get(position)) if action is not None)
            if turn:
                turns[position].append(turn)
        return Expansion(tuple(messages), tuple(tuple(one) for one in turns))
    if pattern.kind == "gather":
        order = [*range(pattern.root + 1, pattern.size), *range(pattern.root - 1, -1, -1)]
        for source in order:
            transfer(Message(source, (pattern.root,), int(source < pattern.root), abs(source - pattern.root) - 1), slot=source)
        return Expansion(tuple(messages), tuple(tuple(one) for one in turns))
    if pattern.kind in ("reduce", "allreduce"):
        for one in pattern.rounds:
            for receiver, sender in zip(one.receivers, one.senders, strict=True):
                transfer(Message(sender, (receiver,), one.colour, one.phase), combine=True)
    if pattern.kind in ("broadcast", "allreduce") and pattern.size > 1:
        others = tuple(position for position in range(pattern.size) if position != pattern.root)
        transfer(Message(pattern.root, others, pattern.colour_count - 1))
    return Expansion(tuple(messages), tuple(tuple(one) for one in turns))


def _shift_colour(pattern: Pattern, source: int, target: int) -> int:
    if pattern.algorithm == "interleaved":
        return 2 * (source % 2) + (source // 2) % 2
    hops = abs(pattern.hops)
    wraps = (target - source) * pattern.hops < 0
    if not wraps:
        return source % (hops + 1)
    return hops + 1 + (source if pattern.hops < 0 else pattern.size - 1 - source)


@lru_cache(maxsize=4096)
def _unit_loads(pattern: Pattern) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Words over each link for a payload of one word, by marking where messages start and stop using links."""
    onward = np.zeros(pattern.size + 1, np.int64)
    backward = np.zeros(pattern.size + 1, np.int64)
    pairs: list[tuple[int, int]] = []
    if pattern.kind == "shift":
        pairs = list(zip(*pattern.shift_places, strict=True))
    if pattern.kind == "gather":
        pairs = [(source, pattern.root) for source in range(pattern.size)]
    for one in pattern.rounds:
        pairs.extend(zip(one.senders, one.receivers, strict=True))
    if pattern.kind in ("broadcast", "allreduce"):
        pairs.extend([(pattern.root, 0), (pattern.root, pattern.size - 1)])
    for source, target in pairs:
        onward[source if target > source else target] += target > source
        onward[target] -= target > source
        backward[target] += target < source
        backward[source if target < source else target] -= target < source
    return np.cumsum(onward)[: pattern.size - 1], np.cumsum(backward)[: pattern.size - 1]


def _ring_next(position: int, size: int) -> int:
    """The interleaved ring: even positions pass on two to the right, odd ones two to the left, and the ends turn around."""
    if size == 1:
        return 0
    if position % 2 == 0:
        return position + 2 if position + 2 < size else position + 1 if position + 1 < size else position - 1
    return position - 2 if position > 1 else 0


def _slice(places: range) -> slice:
    stop: int | None = places[-1] + (1 if places.step > 0 else -1)
    return slice(places[0], None if stop == -1 else stop, places.step)


def _mirrored(places: range, last: int) -> range:
    return range(last - places.start, last - places[-1] - 1, -places.step) if len(places) else range(0)


def _log2(size: int) -> int:
    return (size - 1).bit_length()

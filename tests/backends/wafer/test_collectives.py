"""A collective's expansion, region-wide form, closed-form counts and link loads say the same; published cycles are met."""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import pytest

from cgptc.backends.wafer.collectives import Message, Pattern
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.machine import WSE2


def _patterns(size: int) -> list[Pattern]:
    found = [Pattern("broadcast", "multicast", size, root) for root in range(size)]
    found += [Pattern("gather", "direct", size, root) for root in range(size)]
    for kind in ("reduce", "allreduce"):
        found += [Pattern(kind, "chain", size, root) for root in range(size)]  # type: ignore[arg-type]
        for root in {0, size - 1}:
            found += [Pattern(kind, "two-phase", size, root, group) for group in range(1, size + 2)]  # type: ignore[arg-type]
            found.append(Pattern(kind, "tree", size, root))  # type: ignore[arg-type]
    found += [Pattern("shift", "neighbour", size, hops=hops, ring=ring) for hops in range(1 - size, size) if hops for ring in (False, True)]
    found += [Pattern("shift", "interleaved", size, hops=hops) for hops in (1, -1)]
    return found


ALL = [pattern for size in range(1, 10) for pattern in _patterns(size)]


def _run_messages(pattern: Pattern, source: np.ndarray) -> np.ndarray:
    """The definition: positions take their turns in order, and wait for what they receive."""
    size = pattern.size
    expansion = pattern.expand()
    if pattern.kind == "gather":
        held = [np.zeros((size, *source.shape[1:]), source.dtype) for _ in range(size)]
        for position in range(size):
            held[position][position] = source[position]
    else:
        held = [source[position].copy() for position in range(size)]
        if pattern.kind == "shift":
            lonely = pattern.algorithm == "interleaved" and size == 1
            held = [source[position] * 0 if not lonely else source[position] for position in range(size)]
    inbox: dict[tuple[Message, int], np.ndarray] = {}
    progress = [0] * size
    sent: set[tuple[int, int]] = set()
    while any(progress[position] < len(expansion.turns[position]) for position in range(size)):
        moved = False
        for position in range(size):
            if progress[position] == len(expansion.turns[position]):
                continue
            turn = expansion.turns[position][progress[position]]
            for action in turn:
                if action.kind == "send" and (position, progress[position]) not in sent:
                    content = source[position] if pattern.kind in ("shift", "gather") else held[position]
                    for destination in action.message.destinations:
                        inbox[action.message, destination] = content.copy()
            sent.add((position, progress[position]))
            receives = [action for action in turn if action.kind == "receive"]
            if any((action.message, position) not in inbox for action in receives):
                continue
            for action in receives:
                arrived = inbox.pop((action.message, position))
                if action.combine:
                    held[position] = held[position] + arrived
                elif pattern.kind == "gather":
                    held[position][action.slot] = arrived
                else:
                    held[position] = arrived
            progress[position] += 1
            moved = True
        assert moved, f"{pattern} stalls"
    assert not inbox, "every message is received"
    return np.stack(held)


@pytest.mark.parametrize("size", range(1, 10))
def test_messages_and_region_wide_form_give_the_same_bits(size: int) -> None:
    source = np.random.default_rng(size).standard_normal((2, size, 3)).astype(np.float32)
    for pattern in _patterns(size):
        shape = (2, size, size, 3) if pattern.kind == "gather" else source.shape
        target = np.zeros(shape, np.float32)
        pattern.apply(source, target, np.add)
        for segment in range(2):
            np.testing.assert_array_equal(target[segment], _run_messages(pattern, source[segment]), err_msg=str(pattern))


def test_reductions_reach_the_sum_and_shifts_their_target() -> None:
    for pattern in ALL:
        source = np.arange(1, pattern.size + 1, dtype=np.int64).reshape(1, -1)
        target = np.zeros((1, pattern.size, pattern.size) if pattern.kind == "gather" else source.shape, np.int64)
        pattern.apply(source, target, np.add)
        if pattern.kind == "reduce":
            assert target[0, pattern.root] == source.sum()
        elif pattern.kind == "allreduce":
            assert (target == source.sum()).all()
        elif pattern.kind == "broadcast":
            assert (target == pattern.root + 1).all()
        elif pattern.kind == "gather":
            np.testing.assert_array_equal(target[0, pattern.root], source[0])


@pytest.mark.parametrize("size", range(1, 12))
def test_the_interleaved_ring_is_one_cycle_of_at_most_two_hops(size: int) -> None:
    pattern = Pattern("shift", "interleaved", size, hops=1)
    following = dict(zip(*pattern.shift_places, strict=True))
    place, seen = 0, []
    for _ in range(size):
        seen.append(place)
        place = following[place]
    assert place == 0
    assert sorted(seen) == list(range(size))
    assert all(message.hops <= 2 for message in pattern.expand().messages)


def test_closed_form_counts_equal_the_expansion() -> None:
    for pattern in ALL:
        expansion = pattern.expand()
        words = 3
        counts = pattern.cost(words)
        assert counts.energy == words * sum(message.hops for message in expansion.messages), pattern
        assert counts.wavelets == words * len(expansion.messages), pattern
        if pattern.kind == "allreduce" or pattern.size == 1:
            continue
        into, out = defaultdict(int), defaultdict(int)
        for message in expansion.messages:
            out[message.source] += words
            for destination in message.destinations:
                into[destination] += words
        assert counts.contention == max(*into.values(), *out.values()), pattern
        longest = max(max(abs(other - message.source) for other in message.destinations) for message in expansion.messages)
        assert counts.distance >= longest, pattern
        assert counts.depth >= _depth(pattern), pattern
        if (pattern.algorithm, pattern.size & (pattern.size - 1)) != ("tree", 0) and pattern.algorithm not in ("chain", "two-phase"):
            continue
        if pattern.algorithm != "two-phase" or pattern.size % pattern.group == 0:
            assert counts.depth == _depth(pattern), pattern


def test_nothing_to_move_costs_nothing() -> None:
    for pattern in ALL:
        nothing = pattern.cost(0)
        assert (nothing.contention, nothing.energy, nothing.depth, nothing.wavelets) == (0, 0, 0, 0), pattern
        if pattern.size == 1:
            assert pattern.cost(9) == nothing, pattern


def _depth(pattern: Pattern) -> int:
    """Longest chain of messages of which each waits for the one before."""
    ready = [0] * pattern.size
    for message in pattern.expand().messages if pattern.kind in ("reduce", "broadcast") else ():
        arrival = ready[message.source] + 1
        for destination in message.destinations:
            ready[destination] = max(ready[destination], arrival)
    return max(ready) or 1


def test_the_routes_of_a_message_are_a_tree_from_its_source_to_exactly_its_destinations() -> None:
    """Every router takes it from where the one before gave it, and nothing leaves the last."""
    step = {"-": -1, "+": 1}
    for message in {message for pattern in ALL for message in pattern.expand().messages}:
        routers = {position: (entry, outputs) for position, entry, outputs in message.routes()}
        reached: dict[int, str] = {}
        pending = [(message.source, "R")]
        while pending:
            position, entry = pending.pop()
            assert position not in reached
            reached[position] = entry
            pending += [(position + step[port], "+" if port == "-" else "-") for port in routers[position][1] if port != "R"]
        assert reached == {position: entry for position, (entry, _) in routers.items()}
        assert {position for position, (_, outputs) in routers.items() if "R" in outputs} == set(message.destinations)


def test_link_loads_equal_the_expansion() -> None:
    for pattern in ALL:
        onward, backward = np.zeros(pattern.size - 1, np.int64), np.zeros(pattern.size - 1, np.int64)
        for message in pattern.expand().messages:
            for link in range(message.source, max(message.destinations)):
                onward[link] += 5
            for link in range(min(message.destinations), message.source):
                backward[link] += 5
        found = pattern.loads(5)
        np.testing.assert_array_equal(found[0], onward, err_msg=str(pattern))
        np.testing.assert_array_equal(found[1], backward, err_msg=str(pattern))


def test_a_router_has_one_configuration_per_colour_and_phase_and_at_most_four_per_colour() -> None:
    for pattern in ALL:
        configurations: dict[tuple[int, int, int], set[object]] = defaultdict(set)
        per_colour: dict[tuple[int, int], set[object]] = defaultdict(set)
        for message in pattern.expand().messages:
            assert message.colour < pattern.colour_count
            for position, entry, outputs in message.routes():
                configurations[position, message.colour, message.phase].add((entry, outputs))
                per_colour[position, message.colour].add((entry, outputs))
        assert all(len(found) == 1 for found in configurations.values()), pattern
        assert all(len(found) <= 4 for found in per_colour.values()), pattern


@pytest.mark.parametrize(
    ("group", "published"),
    [(2, 10055), (4, 9421), (8, 9117), (16, 8989), (32, 8973), (64, 9061), (128, 9297), (256, 9800), (512, 7218)],
)
def test_two_phase_reduce_meets_the_published_cycles_within_two_percent(group: int, published: int) -> None:
    """512 PEs, 4,096 f32 words: the figures that fixed the formula."""
    pattern = Pattern("reduce", "two-phase", 512, group=group)
    assert abs(pattern.cycles(4096, WSE2) / published - 1) < 0.02


def test_broadcast_costs_words_and_line_and_two_ramps() -> None:
    assert Pattern("broadcast", "multicast", 100).cycles(7, WSE2) == 7 + 100 + 4


def test_chain_beats_two_phase_only_for_long_payloads() -> None:
    chain, grouped = Pattern("reduce", "chain", 512), Pattern("reduce", "two-phase", 512, group=23)
    assert chain.cycles(8, WSE2) > grouped.cycles(8, WSE2)
    assert chain.cycles(4096, WSE2) < grouped.cycles(4096, WSE2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("reduce", "multicast", 4),
        ("reduce", "chain", 4, 4),
        ("reduce", "tree", 4, 2),
        ("reduce", "two-phase", 4),
        ("shift", "neighbour", 4),
        ("shift", "interleaved", 4, 0, 0, 2),
        ("scatter", "chain", 4),
    ],
)
def test_patterns_that_mean_nothing_are_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(ProgramError):
        Pattern(*arguments)  # type: ignore[arg-type]

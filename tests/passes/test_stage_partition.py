"""Cutting a chain into stages: against every cut there is."""

from __future__ import annotations

from itertools import combinations, pairwise

from hypothesis import given
from hypothesis import strategies as st

from cgptc.passes.stage_partition import Chain, Item, Load, Segment, partition, slowest_stages, smallest_limit

loads = st.builds(Load, st.integers(0, 9).map(float), st.integers(0, 9))


@st.composite
def chains(draw: st.DrawFn) -> Chain:
    segments = tuple(
        draw(st.lists(st.builds(Segment, st.integers(0, 20).map(float), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8))
    )
    items = []
    for _ in range(draw(st.integers(0, 5))):
        touching = sorted(draw(st.sets(st.integers(0, len(segments) - 1), min_size=1)))
        items.append(Item(touching[0], tuple(touching[1:]), draw(loads), draw(loads), draw(loads), draw(st.integers(0, 5))))
    return Chain(segments, tuple(items))


def every_cut(chain: Chain, stages: int) -> list[tuple[int, ...]]:
    length = len(chain.segments)
    return [(*inner, length) for inner in combinations(range(1, length), stages - 1)]


def stage_loads(chain: Chain, ends: tuple[int, ...]) -> list[Load]:
    return [chain.load(start, stop) for start, stop in pairwise((0, *ends))]


def value(chain: Chain, ends: tuple[int, ...]) -> tuple[float, float]:
    times = [load.time for load in stage_loads(chain, ends)]
    return max(times), sum(time * time for time in times)


def fits(chain: Chain, ends: tuple[int, ...], limit: int | None) -> bool:
    return limit is None or all(load.bytes <= limit for load in stage_loads(chain, ends))


@given(chains(), st.integers(1, 9), st.none() | st.integers(0, 60))
def test_the_slowest_stage_is_as_fast_as_that_of_the_best_of_all_cuts(chain: Chain, stages: int, limit: int | None) -> None:
    within = [ends for ends in every_cut(chain, stages) if fits(chain, ends, limit)]
    found = partition(chain, stages, limit)
    if not within:
        assert found is None
        return
    assert found is not None
    assert fits(chain, found, limit)
    assert value(chain, found) == min(value(chain, ends) for ends in within)


@given(chains(), st.none() | st.integers(0, 60))
def test_each_number_of_stages_gets_its_own_optimum(chain: Chain, limit: int | None) -> None:
    for stages, slowest in enumerate(slowest_stages(chain, 9, limit), 1):
        expected = [value(chain, ends)[0] for ends in every_cut(chain, stages) if fits(chain, ends, limit)]
        assert slowest == min(expected, default=float("inf"))


@given(chains(), st.integers(1, 4))
def test_the_smallest_limit_is_the_first_that_suffices(chain: Chain, stages: int) -> None:
    stages = min(stages, len(chain.segments))
    limit = smallest_limit(chain, stages)
    assert partition(chain, stages, limit) is not None
    assert partition(chain, stages, limit - 1) is None


def test_equal_layers_are_shared_out_evenly() -> None:
    chain = Chain((Segment(2.0),) * 12)
    assert partition(chain, 4) == (3, 6, 9, 12)


def test_a_heavy_head_leaves_the_layers_to_the_other_stages() -> None:
    chain = Chain((*[Segment(1.0)] * 6, Segment(3.0)))
    assert partition(chain, 3) == (3, 6, 7)


def test_a_value_that_is_dear_to_move_is_not_cut() -> None:
    handed = Item(1, (2,), sent=Load(9.0), received=Load(9.0))
    assert partition(Chain((Segment(1.0),) * 4), 2) == (2, 4)
    assert partition(Chain((Segment(1.0),) * 4, (handed,)), 2) in {(1, 4), (3, 4)}


def test_a_long_chain_is_cut_evenly() -> None:
    chain = Chain((Segment(1.0),) * 4_000, tuple(Item(place, (place + 1,), sent=Load(0.5), received=Load(0.5)) for place in range(3_999)))
    ends = partition(chain, 8)
    assert ends is not None
    assert [stop - start for start, stop in pairwise((0, *ends))] == [500] * 8

"""The sampler against its definition, written out row by row."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgptc.ir.diagnostics import CgptcError, UsageError
from cgptc.runtime import sampler as sampler_module
from cgptc.runtime.sampler import Candidates, Sampler, Sampling, candidates

Matrix = npt.NDArray[np.float64]


@st.composite
def logits(draw: st.DrawFn) -> Matrix:
    """Batches with many ties, since ties are where selections go wrong."""
    rows, columns = draw(st.integers(1, 4)), draw(st.integers(1, 12))
    values = draw(st.lists(st.sampled_from([-3.0, -1.0, 0.0, 0.5, 2.0, 10.0]), min_size=rows * columns, max_size=rows * columns))
    return np.array(values).reshape(rows, columns)


def by_definition(row: list[float], sampling: Sampling) -> list[float]:
    """Sort by logit, lower ids first among equals; keep k; keep the shortest prefix that reaches p; normalise."""
    order = sorted(range(len(row)), key=lambda index: (-row[index], index))
    kept = order[: sampling.top_k or len(row)]
    weights = {index: math.exp((row[index] - max(row)) / sampling.temperature) for index in kept}
    total = math.fsum(weights.values())
    if sampling.top_p is not None:
        prefix, mass = [], 0.0
        for index in kept:
            prefix.append(index)
            mass += weights[index] / total
            if mass >= sampling.top_p:
                break
        weights = {index: weights[index] for index in prefix}
        total = math.fsum(weights.values())
    return [weights.get(index, 0.0) / total for index in range(len(row))]


def distribution(found: Candidates, vocabulary: int) -> Matrix:
    """Candidates as probabilities of the whole vocabulary."""
    weights = np.zeros((len(found.weights), vocabulary))
    np.put_along_axis(weights, found.columns, found.weights, axis=1)
    return weights / weights.sum(axis=1, keepdims=True)


samplings = st.builds(
    Sampling,
    st.sampled_from([0.1, 0.7, 1.0, 3.0]),
    st.none() | st.integers(1, 14),
    st.none() | st.sampled_from([0.05, 0.31, 0.77, 0.97]),
    st.integers(0, 1000),
)


@given(logits(), samplings, st.sampled_from([1, 3, 1024]))
def test_candidates_are_those_of_a_full_sort_however_few_are_looked_at_first(matrix: Matrix, sampling: Sampling, first: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampler_module, "NUCLEUS", first)
        found = distribution(candidates(matrix, sampling), matrix.shape[1])
    expected = np.array([by_definition(list(row), sampling) for row in matrix])
    assert ((found > 0) == (expected > 0)).all()
    assert np.abs(found - expected).max() <= 64 * np.finfo(np.float64).eps


@given(logits(), samplings)
def test_tokens_are_those_drawn_from_a_full_sort(matrix: Matrix, sampling: Sampling) -> None:
    chosen = Sampler(sampling, len(matrix))(matrix)
    for number, row in enumerate(matrix):
        sums = np.cumsum(by_definition(list(row), sampling))
        uniform = np.random.default_rng([sampling.seed, number]).random()
        assert chosen[number] == int(np.argmax(sums > uniform * sums[-1]))


def test_a_flat_vocabulary_needs_more_than_are_looked_at_first() -> None:
    matrix = np.random.default_rng(0).standard_normal((2, 3 * sampler_module.NUCLEUS)) / 100
    found = candidates(matrix, Sampling(1.0, top_p=0.9))
    assert ((found.weights > 0).sum(axis=1) > 2 * sampler_module.NUCLEUS).all()


@given(logits())
def test_greedy_takes_the_lowest_id_of_the_largest_logit(matrix: Matrix) -> None:
    chosen = Sampler(Sampling(), len(matrix))(matrix)
    assert [int(token) for token in chosen] == [list(row).index(max(row)) for row in matrix]


@given(logits(), st.integers(0, 1000))
def test_top_k_of_one_is_greedy(matrix: Matrix, seed: int) -> None:
    greedy = Sampler(Sampling(), len(matrix))(matrix)
    assert (Sampler(Sampling(1.0, top_k=1, seed=seed), len(matrix))(matrix) == greedy).all()


@given(logits(), st.integers(0, 1000))
def test_a_seed_repeats_and_rows_do_not_depend_on_their_number(matrix: Matrix, seed: int) -> None:
    sampling = Sampling(1.0, seed=seed)
    whole, again, first = Sampler(sampling, len(matrix)), Sampler(sampling, len(matrix)), Sampler(sampling, 1)
    for _ in range(3):
        chosen = whole(matrix)
        assert (chosen == again(matrix)).all()
        assert chosen[0] == first(matrix[:1])[0]


def test_draw_takes_the_column_that_the_uniform_number_falls_into() -> None:
    weights = np.array([[0.25, 0.0, 0.5, 0.25]])
    fall = {0.0: 0, 0.2499: 0, 0.25: 2, 0.7499: 2, 0.75: 3, np.nextafter(1.0, 0.0): 3}
    for uniform, column in fall.items():
        assert Candidates(np.array([[4, 5, 6, 7]]), weights).draw(np.array([uniform]))[0] == column + 4


def test_frequencies_follow_the_probabilities() -> None:
    matrix = np.tile(np.log([0.5, 0.3, 0.2]), (3000, 1))
    counts = np.bincount(Sampler(Sampling(1.0, seed=7), len(matrix))(matrix), minlength=3) / len(matrix)
    # Five standard deviations of a binomial share.
    assert (np.abs(counts - [0.5, 0.3, 0.2]) < 5 * np.sqrt(0.25 / len(matrix))).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_logits_that_are_not_finite_are_an_error(bad: float) -> None:
    with pytest.raises(CgptcError, match="row 1"):
        Sampler(Sampling(), 2)(np.array([[0.0, 1.0], [bad, 0.0]]))


def test_minus_infinity_masks_a_token() -> None:
    matrix = np.array([[-np.inf, 0.0, -np.inf]])
    for sampling in (Sampling(), Sampling(1.0), Sampling(1.0, top_k=2), Sampling(1.0, top_p=0.9)):
        assert Sampler(sampling, 1)(matrix)[0] == 1


@pytest.mark.parametrize(
    ("temperature", "top_k", "top_p", "seed"),
    [
        (-1.0, None, None, 0),
        (math.nan, None, None, 0),
        (1.0, 0, None, 0),
        (1.0, None, 0.0, 0),
        (1.0, None, 1.5, 0),
        (0.0, 5, None, 0),
        (1.0, None, None, -1),
    ],
)
def test_what_cannot_be_sampled_is_refused(temperature: float, top_k: int | None, top_p: float | None, seed: int) -> None:
    with pytest.raises(UsageError):
        Sampling(temperature, top_k, top_p, seed)


def test_a_choice_without_temperature_samples_at_one_and_nothing_is_greedy() -> None:
    assert Sampling.of().greedy
    assert Sampling.of(top_k=5) == Sampling(1.0, top_k=5)
    assert Sampling.of(seed=3) == Sampling(1.0, seed=3)
    assert Sampling.of(temperature=0.0).greedy

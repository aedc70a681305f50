"""The generation loop over a model small enough to work out by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgptc.ir.diagnostics import UsageError
from cgptc.ir.op import Array
from cgptc.runtime.engine import CachedEngine, CausalInterface, DecoderEngine, RereadingEngine
from cgptc.runtime.generation import TextModel, generate, left_padded, new_token_count
from cgptc.runtime.sampler import Sampling

VOCABULARY = 11
INTERFACE = CausalInterface(pasts=(("past", "present"),))


class Counting:
    """A session whose likeliest next token is the sum of what it has read, weighted by position, modulo its vocabulary.

    Its cache holds what was read, so a token that is dropped, doubled or moved changes the answer.
    """

    def __init__(self) -> None:
        self.lengths: list[int] = []

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        ids = inputs["input_ids"]
        self.lengths.append(ids.shape[1])
        past = inputs.get("past", np.zeros((len(ids), 0), np.int64))
        present = np.concatenate([past, ids], axis=1)
        mask = inputs["attention_mask"]
        assert mask.shape == present.shape
        positions = np.maximum(np.cumsum(mask, axis=1) - 1, 0)
        totals = np.cumsum(present * mask * (positions + 1), axis=1)[:, -ids.shape[1] :]
        return {"logits": -np.abs((totals % VOCABULARY)[:, :, None] - np.arange(VOCABULARY)).astype(np.float32), "present": present}


def by_hand(prompt: Sequence[int], count: int, stop: frozenset[int] = frozenset()) -> list[int]:
    read, made = list(prompt), []
    while len(made) < count:
        made.append(sum(token * (place + 1) for place, token in enumerate(read)) % VOCABULARY)
        if made[-1] in stop:
            break
        read.append(made[-1])
    return made


prompts = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6), min_size=1, max_size=3)


@given(prompts, st.integers(1, 8), st.frozensets(st.integers(0, VOCABULARY - 1), max_size=3), st.booleans())
def test_every_row_equals_the_same_prompt_alone(batch: list[list[int]], count: int, stop: frozenset[int], cached: bool) -> None:
    engine: DecoderEngine = CachedEngine(Counting(), INTERFACE) if cached else RereadingEngine(Counting(), INTERFACE)
    steps = list(generate(engine, TextModel(VOCABULARY, stop=stop), batch, max_new_tokens=count))
    for row, prompt in enumerate(batch):
        made = [step[row] for step in steps]
        expected = by_hand(prompt, count, stop)
        assert made[: len(expected)] == expected
        assert all(token is None for token in made[len(expected) :])
    assert len(steps) == max(len(by_hand(prompt, count, stop)) for prompt in batch)


def test_a_prompt_is_read_once_and_then_token_by_token() -> None:
    session = Counting()
    list(generate(CachedEngine(session, INTERFACE), TextModel(VOCABULARY), [[1, 2, 3]], max_new_tokens=4))
    assert session.lengths == [3, 1, 1, 1]  # the last token is never read


def test_an_engine_forgets_the_generation_before() -> None:
    engine = CachedEngine(Counting(), INTERFACE)
    first = list(generate(engine, TextModel(VOCABULARY), [[1, 2]], max_new_tokens=3))
    list(generate(engine, TextModel(VOCABULARY), [[5, 6], [7, 8]], max_new_tokens=2))
    assert list(generate(engine, TextModel(VOCABULARY), [[1, 2]], max_new_tokens=3)) == first


def test_sampling_repeats_by_seed() -> None:
    def run(seed: int) -> list[tuple[int | None, ...]]:
        engine = CachedEngine(Counting(), INTERFACE)
        return list(generate(engine, TextModel(VOCABULARY), [[1]], Sampling(2.0, seed=seed), 20))

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_a_prompt_may_fill_every_position_and_no_more() -> None:
    assert new_token_count(TextModel(VOCABULARY, context=8), [8], 1) == 1
    assert new_token_count(TextModel(VOCABULARY, context=8), [3, 6], None) == 3
    with pytest.raises(UsageError, match="at most 1,"):
        new_token_count(TextModel(VOCABULARY, context=8), [8], 2)
    with pytest.raises(UsageError, match=r"9 tokens.*8 positions"):
        new_token_count(TextModel(VOCABULARY, context=8), [9], None)


@pytest.mark.parametrize("batch", [[], [[]], [[1], []], [[VOCABULARY]], [[-1]]])
def test_a_prompt_that_the_model_cannot_read_is_refused_before_it_runs(batch: list[list[int]]) -> None:
    session = Counting()
    with pytest.raises(UsageError):
        generate(CachedEngine(session, INTERFACE), TextModel(VOCABULARY), batch)
    assert session.lengths == []


def test_padding_is_on_the_left() -> None:
    ids, mask = left_padded([[1, 2, 3], [4]])
    assert ids.tolist() == [[1, 2, 3], [0, 0, 4]]
    assert mask.tolist() == [[True, True, True], [False, False, True]]


class Unmasked:
    """A session without a mask: the next token is the sum of all that is read, padding too, modulo the vocabulary."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        assert list(inputs) == ["input_ids"]
        totals = np.cumsum(inputs["input_ids"] + 1, axis=1) % VOCABULARY
        return {"logits": -np.abs(totals[:, :, None] - np.arange(VOCABULARY)).astype(np.float32)}


def test_rows_of_a_model_without_a_mask_are_not_padded() -> None:
    prompts = [[1, 2, 3], [4], [5, 6], [7]]

    def made(rows: list[list[int]]) -> list[tuple[int | None, ...]]:
        engine = RereadingEngine(Unmasked(), CausalInterface(mask=None))
        return list(zip(*generate(engine, TextModel(VOCABULARY, 32, frozenset()), rows, max_new_tokens=5), strict=True))

    assert made(prompts) == [made([prompt])[0] for prompt in prompts]

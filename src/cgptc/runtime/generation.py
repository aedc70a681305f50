"""The generation loop: prefill once, then a token per row and step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from cgptc.ir.diagnostics import UsageError
from cgptc.runtime.engine import DecoderEngine, Ids, Mask
from cgptc.runtime.sampler import GREEDY, Sampler, Sampling

DEFAULT_NEW_TOKENS = 64
"""How many tokens a generation makes where nobody says."""


@dataclass(frozen=True)
class TextModel:
    """What generation must know about a model: its vocabulary, the most positions it has (None: no limit), where it ends."""

    vocabulary: int
    context: int | None = None
    stop: frozenset[int] = field(default_factory=frozenset)


def new_token_count(model: TextModel, prompt_lengths: Sequence[int], asked: int | None) -> int:
    """How many tokens to make. `UsageError` where the model has too few positions for prompt and new tokens.

    The last new token is never read, so it needs no position.
    """
    longest = max(prompt_lengths)
    room = None if model.context is None else model.context - longest + 1
    if room is not None and room < 1:
        what = f"the prompt has {longest} tokens and the model has {model.context} positions"
        raise UsageError("context", what, fix="shorten the prompt")
    if asked is None:
        return DEFAULT_NEW_TOKENS if room is None else min(DEFAULT_NEW_TOKENS, room)
    if asked < 1:
        raise UsageError("bad-value", f"max-new-tokens {asked} makes no token", fix="give 1 or more")
    if room is not None and asked > room:
        what = f"the prompt has {longest} tokens, the model {model.context} positions, so {asked} new tokens do not fit"
        raise UsageError("context", what, fix=f"ask for at most {room}, or shorten the prompt")
    return asked


def left_padded(prompts: Sequence[Sequence[int]]) -> tuple[Ids, Mask]:
    """Prompts in one batch that ends together: ids ``[batch, longest]`` and where they are not padding."""
    longest = max(map(len, prompts))
    ids = np.zeros((len(prompts), longest), np.int64)
    mask = np.zeros((len(prompts), longest), np.bool_)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        mask[row, longest - len(prompt) :] = True
    return ids, mask


def require_prompts(model: TextModel, prompts: Sequence[Sequence[int]]) -> None:
    """`UsageError` where there is no prompt, an empty one, or an id that the model does not have."""
    if not prompts:
        raise UsageError("no-prompt", "there is no prompt", fix="give at least one")
    for number, prompt in enumerate(prompts, 1):
        which = f"prompt {number}" if len(prompts) > 1 else "the prompt"
        if not prompt:
            raise UsageError("empty-prompt", f"{which} has no tokens", fix="give at least one token to go on from")
        for token in prompt:
            if not 0 <= token < model.vocabulary:
                what = f"{which} has the id {token}, and the model has {model.vocabulary} tokens"
                raise UsageError("bad-token", what, fix=f"ids are 0 to {model.vocabulary - 1}")


def generate(
    engine: DecoderEngine,
    model: TextModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling = GREEDY,
    max_new_tokens: int | None = None,
) -> Iterator[tuple[int | None, ...]]:
    """Make tokens, one tuple per step with an id per row, None for rows that have ended. A stop token is given, then its row ends.

    Errors are raised here, before the first step.
    """
    require_prompts(model, prompts)
    count = new_token_count(model, list(map(len, prompts)), max_new_tokens)
    return _steps(engine, model, prompts, Sampler(sampling, len(prompts)), count)


def _steps(
    engine: DecoderEngine, model: TextModel, prompts: Sequence[Sequence[int]], sampler: Sampler, count: int
) -> Iterator[tuple[int | None, ...]]:
    ids, mask = left_padded(prompts)
    running: npt.NDArray[np.bool_] = np.ones(len(prompts), np.bool_)
    logits = engine.prefill(ids, mask)
    for step in range(count):
        tokens = sampler(logits)
        yield tuple(int(token) if alive else None for token, alive in zip(tokens, running, strict=True))
        running &= ~np.isin(tokens, list(model.stop))
        if step + 1 == count or not running.any():
            return
        logits = engine.step(tokens)

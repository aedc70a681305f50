"""What a system must offer to be timed, and what it may offer besides."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt


class Peer(ABC):
    """A loaded model. ``form`` is the precision of its weights; ``folder`` holds what `prepare` wrote, and ``hf``, the model."""

    @abstractmethod
    def __init__(self, folder: Path, form: str, threads: int) -> None: ...

    @classmethod
    @abstractmethod
    def prepare(cls, folder: Path, form: str) -> None:
        """Convert or export into ``folder``; not timed."""

    @abstractmethod
    def prefill(self, ids: list[int]) -> int:
        """Forget everything, read a prompt and give the likeliest next token."""


@runtime_checkable
class Steps(Protocol):
    """A peer that goes on token by token."""

    def prefill(self, ids: list[int]) -> int: ...

    def step(self, token: int) -> int:
        """Read one more token and give the likeliest next."""
        ...


@runtime_checkable
class Decodes(Protocol):
    """A peer that has no call for one token, but one for many."""

    def decode(self, ids: list[int], count: int) -> tuple[list[int], list[float]]:
        """``count`` greedy tokens after the first behind a prompt, which comes with them, and the seconds of each, or of all divided."""
        ...


@runtime_checkable
class Scores(Protocol):
    """A peer that tells what it thinks of every token of a text."""

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        """Logits [tokens, vocabulary] after each token."""
        ...


def decode_by_steps(peer: Steps, ids: list[int], count: int) -> tuple[list[int], list[float]]:
    """As `Decodes.decode`."""
    made, seconds = [peer.prefill(ids)], []
    for _ in range(count):
        start = time.perf_counter()
        made.append(peer.step(made[-1]))
        seconds.append(time.perf_counter() - start)
    return made, seconds


def loss(peer: Scores, windows: list[list[int]]) -> float:
    """Nats per token that a peer needs for texts, each token but a window's first foreseen once."""
    total, count = 0.0, 0
    for window in windows:
        logits = peer.logits(window[:-1]).astype(np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        chosen = logits[np.arange(len(window) - 1), window[1:]]
        total += float((np.log(np.exp(logits).sum(axis=1)) - chosen).sum())
        count += len(window) - 1
    return total / count

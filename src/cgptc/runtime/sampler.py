"""Choosing the next token from logits, for a whole batch at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from cgptc.ir.diagnostics import CgptcError, Exit, UsageError

Logits = npt.NDArray[np.floating]
Tokens = npt.NDArray[np.int64]
Weights = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Sampling:
    """How to choose: ``temperature`` 0 takes the largest logit (the lowest id among equals), anything above draws from
    ``softmax(logits / temperature)``, cut to the ``top_k`` largest and then to the smallest set whose probability reaches
    ``top_p``. Among equal logits lower ids come first. ``seed`` starts one random stream per row.
    """

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.temperature) and self.temperature >= 0):
            raise UsageError(
                "bad-value", f"temperature {self.temperature} is not a number of at least 0", fix="0 takes the likeliest token"
            )
        if self.top_k is not None and self.top_k < 1:
            raise UsageError("bad-value", f"top-k {self.top_k} keeps no token", fix="give 1 or more")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise UsageError("bad-value", f"top-p {self.top_p} is not above 0 and at most 1", fix="0.9 is usual")
        if self.seed < 0:
            raise UsageError("bad-value", f"seed {self.seed} is negative", fix="give 0 or more")
        if self.greedy and (self.top_k is not None or self.top_p is not None):
            raise UsageError("bad-value", "top-k and top-p choose among nothing at temperature 0", fix="give a temperature above 0")

    @classmethod
    def of(
        cls, temperature: float | None = None, top_k: int | None = None, top_p: float | None = None, seed: int | None = None
    ) -> Sampling:
        """What a user asks for: greedy where nothing is given, temperature 1 where only top-k, top-p or a seed is."""
        if temperature is None:
            temperature = 0.0 if top_k is None and top_p is None and seed is None else 1.0
        return cls(temperature, top_k, top_p, seed or 0)

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


GREEDY = Sampling()

NUCLEUS = 1024
"""How many of the likeliest tokens are looked at first for ``top_p``; a trained model rarely needs more."""


class Sampler:
    """Draws the tokens of one generation: ``sampler(logits)`` once per step, ``logits`` ``[batch, vocabulary]``.

    A row's draws depend on the seed, the row's number and the step alone.
    """

    def __init__(self, sampling: Sampling, batch: int) -> None:
        self._sampling = sampling
        self._streams = [np.random.default_rng([sampling.seed, row]) for row in range(0 if sampling.greedy else batch)]

    def __call__(self, logits: Logits) -> Tokens:
        """The chosen id of each row, ``[batch]``. Raises `CgptcError` where a row holds NaN or nothing but minus infinity."""
        require_finite(logits)
        if self._sampling.greedy:
            likeliest: Tokens = np.argmax(logits, axis=1).astype(np.int64)
            return likeliest
        uniform = np.array([stream.random() for stream in self._streams])
        return candidates(logits, self._sampling).draw(uniform)


def require_finite(logits: Logits) -> None:
    """`CgptcError` where a row has no largest logit."""
    largest = logits.max(axis=1)  # NaN wins every comparison of numpy's maximum
    if not np.isfinite(largest).all():
        (row, *_) = np.flatnonzero(~np.isfinite(largest))
        what = f"the logits of row {row} are not finite"
        raise CgptcError("not-finite", what, exit=Exit.MISMATCH, fix="compile with a wider --dtype, or check the model's weights")


@dataclass(frozen=True)
class Candidates:
    """What a token is drawn from: ``columns`` i64 [batch, n], ascending in each row, with their ``weights`` [batch, n], zero for none."""

    columns: Tokens
    weights: Weights

    def draw(self, uniform: Weights) -> Tokens:
        """The column where each row's running sum first exceeds ``uniform`` (in [0, 1)) times its total."""
        sums = np.cumsum(self.weights, axis=1)
        places = np.argmax(sums > uniform[:, None] * sums[:, -1:], axis=1)
        chosen: Tokens = self.columns[np.arange(len(places)), places]
        return chosen


def candidates(logits: Logits, sampling: Sampling) -> Candidates:
    """What `Sampling` means above temperature 0. The vocabulary is sorted whole only where `NUCLEUS` tokens do not reach ``top_p``."""
    values = logits if logits.dtype.itemsize >= 4 else logits.astype(np.float32)  # numpy has no fast selection among narrower ones
    rows, width = values.shape
    if sampling.top_k is not None and sampling.top_k < width:
        width = sampling.top_k
        chosen = largest(values, np.full(rows, width), np.partition(values, -width, axis=1)[:, -width])
        columns: Tokens = np.nonzero(chosen)[1].reshape(rows, width).astype(np.int64, copy=False)
        values = np.take_along_axis(values, columns, axis=1)
    else:
        columns = np.broadcast_to(np.arange(width, dtype=np.int64), values.shape)
    top = values.max(axis=1, keepdims=True)
    weights = exponentials(values, top, sampling.temperature)
    if sampling.top_p is not None and sampling.top_p < 1:
        masses = sampling.top_p * weights.sum(axis=1, keepdims=True)
        counts, limits = nucleus(values, masses, lambda best: exponentials(best, top, sampling.temperature))
        weights[~largest(values, counts, limits)] = 0
    return Candidates(columns, weights)


def exponentials(values: Logits, top: Logits, temperature: float) -> Weights:
    """``exp((values - top) / temperature)`` in f64."""
    result: Weights = np.subtract(values, top, dtype=np.float64)
    result /= temperature
    np.exp(result, out=result)  # in place: for a whole vocabulary new memory costs more than the arithmetic
    return result


def nucleus(values: Logits, masses: Weights, weigh: Callable[[Logits], Weights]) -> tuple[Tokens, Logits]:
    """How many of each row's largest values weigh ``masses`` [batch, 1] or more (all, where rounding leaves none), and the last of them."""
    width = values.shape[1]
    first = min(NUCLEUS, width)
    best = np.sort(np.partition(values, width - first, axis=1)[:, width - first :], axis=1)[:, ::-1]
    reached = np.cumsum(weigh(best), axis=1)
    if first < width and (reached[:, -1:] < masses).any():
        best = np.sort(values, axis=1)[:, ::-1]
        reached = np.cumsum(weigh(best), axis=1)
    counts = np.minimum((reached < masses).sum(axis=1) + 1, width)
    return counts, np.take_along_axis(best, counts[:, None] - 1, axis=1)[:, 0]


def largest(values: Logits, counts: Tokens, limits: Logits) -> npt.NDArray[np.bool_]:
    """Where each row's ``counts`` largest values are, lower columns first among equals; ``limits`` holds the smallest of them."""
    kept: npt.NDArray[np.bool_] = values >= limits[:, None]
    surplus = kept.sum(axis=1) - counts
    for row in np.flatnonzero(surplus):
        equal = np.flatnonzero(values[row] == limits[row])
        kept[row, equal[len(equal) - surplus[row] :]] = False
    return kept

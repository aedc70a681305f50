"""Choosing the next token from logits, for a whole batch at once."""

from __future__ import annotations

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
        return draw(probabilities(logits, self._sampling), uniform)


def require_finite(logits: Logits) -> None:
    """`CgptcError` where a row has no largest logit."""
    largest = logits.max(axis=1)  # NaN wins every comparison of numpy's maximum
    if not np.isfinite(largest).all():
        (row, *_) = np.flatnonzero(~np.isfinite(largest))
        what = f"the logits of row {row} are not finite"
        raise CgptcError("not-finite", what, exit=Exit.MISMATCH, fix="compile with a wider --dtype, or check the model's weights")


def probabilities(logits: Logits, sampling: Sampling) -> Weights:
    """What `Sampling` means: the distribution that a token is drawn from, ``[batch, vocabulary]``, rows summing to 1."""
    scaled = logits.astype(np.float64) / sampling.temperature
    if sampling.top_k is not None and sampling.top_k < scaled.shape[1]:
        scaled = np.where(largest(scaled, np.full(len(scaled), sampling.top_k)), scaled, -np.inf)
    weights: Weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    weights /= weights.sum(axis=1, keepdims=True)
    if sampling.top_p is not None and sampling.top_p < 1:
        reached = np.cumsum(-np.sort(-weights, axis=1), axis=1)
        kept = np.minimum((reached < sampling.top_p).sum(axis=1) + 1, weights.shape[1])
        weights = np.where(largest(weights, kept), weights, 0)
        weights /= weights.sum(axis=1, keepdims=True)
    return weights


def largest(values: Weights, counts: npt.NDArray[np.integer]) -> npt.NDArray[np.bool_]:
    """Where each row's ``counts`` largest values are, lower columns first among equals."""
    limits = np.empty(len(values))
    for count in np.unique(counts):
        rows = counts == count
        limits[rows] = np.partition(values[rows], -count, axis=1)[:, -count]
    above = values > limits[:, None]
    equal = values == limits[:, None]
    missing = counts - above.sum(axis=1)
    kept: npt.NDArray[np.bool_] = above | (equal & (np.cumsum(equal, axis=1) <= missing[:, None]))
    return kept


def draw(weights: Weights, uniform: Weights) -> Tokens:
    """The column where each row's running sum first exceeds ``uniform`` (in [0, 1)) times its total."""
    sums = np.cumsum(weights, axis=1)
    columns: Tokens = np.argmax(sums > uniform[:, None] * sums[:, -1:], axis=1).astype(np.int64)
    return columns

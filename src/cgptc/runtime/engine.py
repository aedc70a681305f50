"""Next-token logits from whatever runs the model: the seam between a target's session and the generation loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from cgptc.ir.op import Array

Ids = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Logits = npt.NDArray[np.floating]


class Session(Protocol):
    """What a backend loads: outputs by name from inputs by name."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]: ...


class DecoderEngine(Protocol):
    """A causal model that remembers what it has read."""

    def prefill(self, ids: Ids, mask: Mask) -> Logits:
        """Forget everything and read ``ids [batch, seq]``; ``mask`` is False on left padding. Gives the logits ``[batch, vocabulary]``
        after the last token."""
        ...

    def step(self, ids: Ids) -> Logits:
        """Read one more token per row, ``ids [batch]``, and give the logits after it ``[batch, vocabulary]``."""
        ...


@runtime_checkable
class DecodingSession(Protocol):
    """A session that keeps the cache itself, where it need not become numpy arrays."""

    def decoder(self) -> DecoderEngine:
        """A decoder over the session's model, which is a cached causal one with a mask."""
        ...


@runtime_checkable
class SessionWithNotes(Protocol):
    """A session that has more to say: what its runs would take on the machine it stands for, or which parts of this one it uses."""

    def notes(self) -> tuple[str, ...]:
        """Lines for a reader, of the session and all its runs so far."""
        ...


@dataclass(frozen=True)
class CausalInterface:
    """Names of a causal model's inputs and outputs: ``pasts`` pairs each past input with the output that continues it."""

    ids: str = "input_ids"
    mask: str | None = "attention_mask"
    logits: str = "logits"
    pasts: tuple[tuple[str, str], ...] = ()


class CachedEngine:
    """Feeds each call's present keys and values to the next."""

    def __init__(self, session: Session, interface: CausalInterface) -> None:
        self._session = session
        self._interface = interface
        self._mask: Mask = np.zeros((0, 0), np.bool_)
        self._pasts: dict[str, Array] = {}

    def prefill(self, ids: Ids, mask: Mask) -> Logits:
        self._mask, self._pasts = mask, {}
        return self._read(ids)

    def step(self, ids: Ids) -> Logits:
        self._mask = np.concatenate([self._mask, np.ones((len(ids), 1), np.bool_)], axis=1)
        return self._read(ids[:, None])

    def _read(self, ids: Ids) -> Logits:
        interface = self._interface
        inputs: dict[str, Array] = {interface.ids: ids, **self._pasts}
        if interface.mask is not None:
            inputs[interface.mask] = self._mask.astype(np.int64)
        outputs = self._session.run(inputs)
        self._pasts = {past: outputs[present] for past, present in interface.pasts}
        logits: Logits = outputs[interface.logits][:, -1]
        return logits


class RereadingEngine:
    """For a model without a cache: reads the whole text again at every step."""

    def __init__(self, session: Session, interface: CausalInterface) -> None:
        self._session = session
        self._interface = interface
        self._ids: Ids = np.zeros((0, 0), np.int64)
        self._mask: Mask = np.zeros((0, 0), np.bool_)

    def prefill(self, ids: Ids, mask: Mask) -> Logits:
        self._ids, self._mask = ids, mask
        return self._read()

    def step(self, ids: Ids) -> Logits:
        self._ids = np.concatenate([self._ids, ids[:, None]], axis=1)
        self._mask = np.concatenate([self._mask, np.ones((len(ids), 1), np.bool_)], axis=1)
        return self._read()

    def _read(self) -> Logits:
        if self._interface.mask is not None or self._mask.all():
            return self._logits(self._ids, self._mask)
        # Without a mask a model would read padding as tokens: rows of each length go by themselves.
        padding = (~self._mask).sum(axis=1)
        parts = {int(count): padding == count for count in np.unique(padding)}
        found = {count: self._logits(self._ids[rows, count:], self._mask[rows, count:]) for count, rows in parts.items()}
        first = next(iter(found.values()))
        logits: Logits = np.empty((len(padding), first.shape[1]), first.dtype)
        for count, rows in parts.items():
            logits[rows] = found[count]
        return logits

    def _logits(self, ids: Ids, mask: Mask) -> Logits:
        inputs: dict[str, Array] = {self._interface.ids: ids}
        if self._interface.mask is not None:
            inputs[self._interface.mask] = mask.astype(np.int64)
        logits: Logits = self._session.run(inputs)[self._interface.logits][:, -1]
        return logits

"""Generation with the cache inside onnxruntime: keys and values never become numpy arrays on the way."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cgptc.backends.onnx.interface_names import IDS, LOGITS, MASK, present_of
from cgptc.backends.onnx.session import OnnxSession, Port, empty_past
from cgptc.backends.onnx.tensors import to_array, to_value
from cgptc.ir.op import Array

if TYPE_CHECKING:
    import onnxruntime

GROWTH = 256
"""Tokens that a shared buffer is rounded up to. A full one is doubled, so that copying stays in proportion to the text."""


class Decoder(Protocol):
    """A causal model that remembers what it has read."""

    def prefill(self, ids: Array, mask: Array) -> Array:
        """Forget everything and read ``ids`` i64 [batch, seq]; ``mask`` bool is false on left padding. Gives logits [batch, vocabulary]."""
        ...

    def step(self, ids: Array) -> Array:
        """Read one more token per row, ``ids`` i64 [batch], and give the logits after it [batch, vocabulary]."""
        ...


def decoder_of(session: OnnxSession) -> Decoder:
    """The fastest decoder that the model's attention allows. The model takes ``input_ids``, ``attention_mask`` and a past."""
    return SharedDecoder(session) if session.shares_cache else GrowingDecoder(session)


class GrowingDecoder:
    """Each call's present, as onnxruntime allocated it, is the next one's past."""

    def __init__(self, session: OnnxSession) -> None:
        self._session = session
        self._mask = np.zeros((0, 0), np.bool_)
        self._past: dict[str, onnxruntime.OrtValue] = {}

    def prefill(self, ids: Array, mask: Array) -> Array:
        self._mask = mask.astype(np.bool_)
        self._past = {port.name: to_value(empty_past(port, len(ids), 0), port.dtype) for port in self._session.pasts}
        return self._read(ids)

    def step(self, ids: Array) -> Array:
        self._mask = np.concatenate([self._mask, np.ones((len(ids), 1), np.bool_)], axis=1)
        return self._read(ids[:, None])

    def _read(self, ids: Array) -> Array:
        session = self._session
        feeds = {**self._past, **session.last_token_only, IDS: session.value(IDS, ids), MASK: session.value(MASK, self._mask)}
        names = [LOGITS, *map(present_of, self._past)]
        logits, *presents = session.call(names, feeds)
        self._past = dict(zip(self._past, presents, strict=True))
        return to_array(logits)[:, -1]


class SharedDecoder:
    """Past and present lie in one buffer per tensor, longer than the text: a step binds nothing, copies nothing and allocates nothing."""

    def __init__(self, session: OnnxSession) -> None:
        self._session = session
        self._length = 0
        self._mask = np.zeros((0, 0), np.int64)
        self._cache: dict[str, Array] = {}
        self._ids = np.zeros((0, 1), np.int64)
        self._logits = np.zeros((0, 1, 0))
        self._binding: onnxruntime.IOBinding | None = None

    def prefill(self, ids: Array, mask: Array) -> Array:
        batch, length = ids.shape
        capacity = -(-(length + 1) // GROWTH) * GROWTH
        self._length = length
        self._mask = np.zeros((batch, capacity), self._session.port(MASK).dtype.numpy)
        self._mask[:, :length] = mask
        self._cache = {port.name: empty_past(port, batch, capacity) for port in self._session.pasts}
        self._binding = None
        logits = self._session.empty_logits(batch, length)
        self._run(self._bind(ids, logits))
        return logits[:, -1]

    def step(self, ids: Array) -> Array:
        if self._length == self._mask.shape[1]:
            self._grow()
        if self._binding is None:
            self._ids = np.zeros((len(ids), 1), self._session.port(IDS).dtype.numpy)
            self._logits = self._session.empty_logits(len(ids), 1)
            self._binding = self._bind(self._ids, self._logits)
        self._ids[:, 0] = ids
        self._mask[:, self._length] = 1
        self._length += 1
        self._run(self._binding)
        return self._logits[:, -1].copy()

    def _grow(self) -> None:
        capacity = 2 * self._length
        self._mask = _lengthened(self._mask, 1, capacity)
        self._cache = {name: _lengthened(array, 2, capacity) for name, array in self._cache.items()}
        self._binding = None

    def _bind(self, ids: Array, logits: Array) -> onnxruntime.IOBinding:
        binding = self._session.session.io_binding()
        binding.bind_ortvalue_input(IDS, self._session.value(IDS, ids))
        binding.bind_ortvalue_input(MASK, self._session.value(MASK, self._mask))
        for name, value in self._session.last_token_only.items():
            binding.bind_ortvalue_input(name, value)
        for port, array in self._caches():
            value = to_value(array, port.dtype)
            binding.bind_ortvalue_input(port.name, value)
            binding.bind_ortvalue_output(present_of(port.name), value)
        binding.bind_ortvalue_output(LOGITS, to_value(logits, self._session.port(LOGITS).dtype))
        return binding

    def _caches(self) -> Iterator[tuple[Port, Array]]:
        for port in self._session.pasts:
            yield port, self._cache[port.name]

    def _run(self, binding: onnxruntime.IOBinding) -> None:
        self._session.call_bound(binding)


def _lengthened(array: Array, axis: int, length: int) -> Array:
    """``array`` with zeros behind it along an axis."""
    longer = np.zeros((*array.shape[:axis], length, *array.shape[axis + 1 :]), array.dtype)
    longer[(slice(None),) * axis + (slice(0, array.shape[axis]),)] = array
    return longer

"""What a reduction leaves at its root, for all lines of a region at once, in the order of the pattern's messages."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from cgptc.backends.wafer.arithmetic.formats import COMBINERS, Format, merged
from cgptc.backends.wafer.arithmetic.threads import in_threads
from cgptc.backends.wafer.collectives import Combine, Pattern

Array = NDArray[Any]

LANES = 16
"""Lines that are reduced side by side: a cache line of float32."""

WORTH_A_THREAD = 1 << 18
"""Sums that take much longer than a thread's start."""


def line_totals(form: Format, combine: Combine, pattern: Pattern, payload: Array) -> Array:
    """The root's result ``[segments, 1, lines, …]`` of payloads ``[segments, positions, lines, …]``, which are the carriers of a format."""
    if combine == "or":
        return merged(form, payload, 1)
    if form.rounding != "none" or not form.is_float:
        found = planes_like(payload)
        pattern.reduce(payload, found, partial(COMBINERS[combine], form))
        return found[:, pattern.root : pattern.root + 1]
    segments, _, lines, *rest = payload.shape
    given = payload.reshape(*payload.shape[:3], math.prod(rest))
    totals = np.empty((given.shape[3], segments, lines), payload.dtype)
    backwards = abs(given.strides[1]) < abs(given.strides[2])

    def part(share: range) -> None:
        _reduce(given, totals, *pattern.pairs, pattern.root, combine == "max", backwards, share.start, share.stop)

    in_threads(part, range(given.shape[3]), given.size // WORTH_A_THREAD)
    return np.moveaxis(totals.reshape(*rest, segments, 1, lines), (-3, -2, -1), (0, 1, 2))


def planes_like(lines: Array) -> Array:
    """An empty array like ``[segments, positions, lines, …]`` with PEs innermost, as the region's buffers have them."""
    segments, size, others, *rest = lines.shape
    return np.moveaxis(np.empty((*rest, segments, size, others), lines.dtype), (-3, -2, -1), (0, 1, 2))


@njit(cache=True, nogil=True)
def _reduce(given, totals, receivers, senders, root, largest, backwards, start, stop):  # type: ignore[no-untyped-def]
    segments, size, lines, _ = given.shape
    held = np.empty((size, LANES), given.dtype)
    for element in range(start, stop):
        for segment in range(segments):
            for first in range(0, lines, LANES):
                count = min(LANES, lines - first)
                # Along the way in which the payloads lie in memory.
                if backwards:
                    for lane in range(count):
                        for position in range(size):
                            held[position, lane] = given[segment, position, first + lane, element]
                else:
                    for position in range(size):
                        for lane in range(count):
                            held[position, lane] = given[segment, position, first + lane, element]
                for at in range(len(receivers)):
                    own, come = held[receivers[at]], held[senders[at]]
                    if largest:
                        for lane in range(LANES):
                            left, right = own[lane], come[lane]
                            own[lane] = left if left >= right or left != left else right
                    else:
                        for lane in range(LANES):
                            own[lane] = own[lane] + come[lane]
                for lane in range(count):
                    totals[element, segment, first + lane] = held[root, lane]

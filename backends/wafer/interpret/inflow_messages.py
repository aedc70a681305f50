"""What comes from off the wafer: the host's side of it, and a PE's."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import numpy as np

from cgptc.backends.wafer.arithmetic.formats import format_of, multiply_add
from cgptc.backends.wafer.inflow import edge_of
from cgptc.backends.wafer.interpret.mesh import Element
from cgptc.backends.wafer.interpret.network import Array, Network, Work, straight
from cgptc.backends.wafer.layout import Layout
from cgptc.backends.wafer.program import Inflow
from cgptc.backends.wafer.resolve import Placed
from cgptc.backends.wafer.steps import Absorb

END: Array = np.array([-1, 0], np.float64)
"""The control wavelet behind a PE's non-zeros."""


def feed(net: Network, inflow: Inflow, elements: Iterable[Element], parcels: Mapping[str, Array], items: int) -> Work:
    """The host's side: every PE's part of every parcel, item after item, into queues that have room."""
    form = format_of(inflow.dtype)
    elements = list(elements)
    for _ in range(items):
        for parcel in inflow.parcels:
            for one in elements:
                tile = parcels[parcel.tensor][one.row, one.column]
                if parcel.nonzeros is None:
                    queue = net.queue(("inflow", (one.x, one.y)), inflow.depth)
                    sent, words = [tile], form.words(math.prod(parcel.layout.extents(one.column, one.row)))
                else:
                    queue = net.queue(("wavelets", (one.x, one.y)), net.machine.queue_words)
                    sent, words = [*wavelets(tile), END], int(np.count_nonzero(tile))
                for payload in sent:
                    while queue.full:
                        yield
                    queue.put(payload)
                    net.progress += 1
                _count(net, parcel.layout, one, words)


def take(net: Network, inflow: Inflow, one: Element, target: Placed) -> Work:
    """A PE's part of the next parcel, as it is."""
    queue = net.queue(("inflow", (one.x, one.y)), inflow.depth)
    while not queue.payloads:
        yield
    one.memory.write(target, queue.take().reshape(target.shape))
    net.progress += 1


def absorb(net: Network, step: Absorb, one: Element, total: Placed, x: Placed) -> Work:
    """One multiply-accumulate over the rows of x for each wavelet that arrives, until the control wavelet behind the last."""
    target, stored = format_of(step.format), format_of(total.buffer.dtype)
    sums = stored.carried(one.memory.read(total)).astype(target.carrier)
    given = format_of(x.buffer.dtype).carried(one.memory.read(x)).astype(target.carrier)
    queue = net.queue(("wavelets", (one.x, one.y)), net.machine.queue_words)
    while True:
        while not queue.payloads:
            yield
        place, value = queue.take()
        net.progress += 1
        if place == END[0]:
            break
        k, n = divmod(int(place), sums.shape[1])
        sums[:, n] = multiply_add(target, sums[:, n], given[:, k], target.carrier.type(value))
        net.account.macs += len(sums)
    one.memory.write(total, stored.stored(sums if stored is target else stored.round(sums)))


def wavelets(tile: Array) -> list[Array]:
    """``(place, value)`` of the non-zeros of a tile ``[k, n]``, row by row: the order in which a dense product adds them."""
    places = np.flatnonzero(tile)
    return [np.array([place, value], np.float64) for place, value in zip(places, tile.reshape(-1)[places], strict=True)]


def _count(net: Network, layout: Layout, one: Element, words: int) -> None:
    """Walk the links from the edge to a PE; of what all PEs of a line take, only those to the last one, as it comes once."""
    if edge_of(layout) == "west":
        if one.column == layout.width - 1:
            net.walk(straight((0, one.y), (one.x, one.y)), words)
    elif layout.cut_axis("rows") is not None or one.row == layout.height - 1:
        net.walk(straight((one.x, 0), (one.x, one.y)), words)

"""A PE's part of a stream between two regions: the pieces that it sends, and those that it takes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.interpret.mesh import Element
from cgptc.backends.wafer.interpret.network import Network, Point, Work, straight
from cgptc.backends.wafer.program import Rectangle, Stream
from cgptc.backends.wafer.resolve import Placed
from cgptc.backends.wafer.routes import Piece


def send(net: Network, stream: Stream, parts: Sequence[Piece], consumer: Rectangle, one: Element, source: Placed) -> Work:
    """Each piece that this PE holds, to all who take it, once all have room for it."""
    if not stream.source.holds(one.column, one.row):
        return
    content = one.memory.read(source).reshape(-1)
    form = format_of(stream.dtype)
    for number, piece in enumerate(parts):
        if piece.source != (one.column, one.row):
            continue
        targets = [(consumer.x + x, consumer.y + y) for x, y in piece.targets]
        queues = [net.queue((stream.name, number, at), stream.depth) for at in targets]
        while any(queue.full for queue in queues):
            yield
        for queue in queues:
            queue.put(content[list(piece.taken)])
        net.progress += 1
        _count(net, stream, (one.x, one.y), targets, form.words(len(piece.taken)))


def receive(net: Network, stream: Stream, parts: Sequence[Piece], one: Element, target: Placed) -> Work:
    """All pieces that this PE takes, put where they belong."""
    content = np.zeros(target.size, format_of(stream.dtype).storage)
    for number, piece in enumerate(parts):
        if (one.column, one.row) in piece.targets:
            queue = net.queue((stream.name, number, (one.x, one.y)), stream.depth)
            while not queue.payloads:
                yield
            content[list(piece.put)] = queue.take()
            net.progress += 1
    one.memory.write(target, content.reshape(target.shape))


def _count(net: Network, stream: Stream, source: Point, targets: Sequence[Point], words: int) -> None:
    """Walk each link of a piece's tree once."""
    links: set[tuple[int, int, str]] = set()
    for x, y in targets:
        corner = (x, source[1]) if stream.first == "x" else (source[0], y)
        links.update(straight(source, corner))
        links.update(straight(corner, (x, y)))
    net.walk(links, words)

"""A PE's part of a collective: what it sends along its line, turn by turn, and what it makes of what arrives."""

from __future__ import annotations

import numpy as np

from cgptc.backends.wafer.arithmetic.formats import COMBINERS, Format, format_of
from cgptc.backends.wafer.collectives import Action, Pattern
from cgptc.backends.wafer.interpret.mesh import Element
from cgptc.backends.wafer.interpret.network import Array, Network, Queue, Work, straight
from cgptc.backends.wafer.resolve import Environment, Placed, blocks, pattern_of
from cgptc.backends.wafer.steps import Collective

Key = tuple[tuple[int, int], tuple[int, int], int]


def collective(net: Network, step: Collective, one: Element, environment: Environment, source: Placed, target: Placed) -> Work:
    """All turns of one PE, as far as queues let it."""
    block = one.block(blocks(step.where, one.region.rectangle, environment))
    if block is None:
        return
    pattern, _ = pattern_of(step, block, environment)
    form = format_of(target.buffer.dtype)
    line, here = (block.columns, one.column) if step.along == "x" else (block.rows, one.row)
    start, position = line.start + (here - line.start) // pattern.size * pattern.size, (here - line.start) % pattern.size
    own = one.memory.read(source)
    held = _initial(pattern, position, own, one, target)
    for turn in pattern.expand().turns[position] if own.size else ():
        remaining = {index: form.words(own.size) for index in range(len(turn))}
        payload = own if step.kind in ("shift", "gather") else held
        while remaining:
            for index in list(remaining):
                action = turn[index]
                peers = action.message.destinations if action.kind == "send" else (action.message.source,)
                queues = [net.queue(_key(step, one, start + peer, action), net.machine.queue_words) for peer in peers]
                moved = _advance(action, queues, remaining[index], payload)
                if moved and action.kind == "send":
                    _count(net, step, one, position, action, moved)
                net.progress += moved
                remaining[index] -= moved
                if remaining[index] == 0:
                    del remaining[index]
                    if action.kind == "receive":
                        arrived = queues[0].payloads.popleft()
                        held = _taken(step, action, held, arrived, form)
                        one.memory.write(*((_slot(target, action.slot), arrived) if step.kind == "gather" else (target, held)))
            if remaining:
                yield
    if step.kind == "broadcast":
        one.memory.write(target, held)


def _initial(pattern: Pattern, position: int, own: Array, one: Element, target: Placed) -> Array:
    """What a position holds, and has in its target, before the first message."""
    if pattern.kind == "gather":
        one.memory.write(_slot(target, position), own)
    elif pattern.kind == "shift":
        sources, places = pattern.shift_places
        stays = (position, position) in zip(sources, places, strict=True)
        one.memory.write(target, own if stays else np.zeros_like(own))
    elif pattern.kind != "broadcast":
        one.memory.write(target, own)
    return own


def _taken(step: Collective, action: Action, held: Array, arrived: Array, form: Format) -> Array:
    if not action.combine:
        return arrived
    return form.stored(COMBINERS[step.combine](form, form.carried(held), form.carried(arrived)))


def _key(step: Collective, one: Element, peer: int, action: Action) -> Key:
    """The queue between two PEs of a line: by fabric coordinates and colour, so that later steps queue behind earlier ones."""
    me, box = (one.x, one.y), one.region.rectangle
    other = (box.x + peer, one.y) if step.along == "x" else (one.x, box.y + peer)
    colour = step.colours[action.message.colour]
    return (me, other, colour) if action.kind == "send" else (other, me, colour)


def _advance(action: Action, queues: list[Queue], words: int, payload: Array) -> int:
    """Words of a message that move now: into all destinations' queues as far as all have room, or out of this PE's queue."""
    if action.kind == "send":
        moved = min(words, *(queue.capacity - queue.inside for queue in queues))
        for queue in queues:
            queue.inside += moved
            if moved == words:
                queue.payloads.append(payload.copy())
        return moved
    moved = min(queues[0].inside, words)
    if moved == words and not queues[0].payloads:
        moved = 0
    queues[0].inside -= moved
    return moved


def _count(net: Network, step: Collective, one: Element, position: int, action: Action, words: int) -> None:
    """Walk a message's links: to the farthest destination on either side."""
    for far in (max(position, *action.message.destinations), min(position, *action.message.destinations)):
        end = (one.x + far - position, one.y) if step.along == "x" else (one.x, one.y + far - position)
        net.walk(straight((one.x, one.y), end), words)


def _slot(target: Placed, slot: int) -> Placed:
    """One position's place in a gather's target."""
    return Placed(target.buffer, target.shape[1:], target.strides[1:], target.offset + slot * target.strides[0])

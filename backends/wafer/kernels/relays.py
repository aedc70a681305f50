"""Which region gives a value to which: each from the nearest before it that has the value.

A value that several regions take goes from one to the next, so that it travels no further than the items do: a queue that spanned many
stages would fill and hold up the first one, and streams from one region to many would meet on its links.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Way:
    """A value goes from one region to another; both are numbers in the order of the regions."""

    value: str
    producer: int
    consumer: int

    @property
    def back(self) -> bool:
        """Whether it goes to a region that came before."""
        return self.producer > self.consumer

    def depth(self, least: int) -> int:
        """Items that the queue must hold so that it is never what the first of both waits for: one more for each region between."""
        return least + max(0, self.consumer - self.producer - 1)


def relayed(taken: Sequence[Collection[str]], made: Mapping[str, int], turned: Collection[int] = ()) -> list[Way]:
    """All ways, in the order of the regions that take: ``taken`` are each region's values, ``made`` says where a value comes from.

    A region of ``turned`` takes values from later ones too, and is the last to get them. What nobody makes is no way, nor is what only a
    later region does.
    """
    found: list[Way] = []
    holds = dict(made)
    for number in sorted(range(len(taken)), key=lambda one: (one in turned, one)):
        for value in taken[number]:
            producer = holds.get(value, number)
            if made.get(value, number) != number and (producer < number or number in turned):
                found.append(Way(value, producer, number))
                holds[value] = number
    return sorted(found, key=lambda way: way.consumer)

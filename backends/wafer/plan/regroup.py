"""A reshape as axes taken apart and joined: which kinds of axes the result's axes are made of."""

from __future__ import annotations

from collections.abc import Sequence

from cgptc.backends.wafer.axis_kinds import FEATURE, JOIN, ONE, is_time
from cgptc.ir.dims import Dim

Atom = tuple[str, Dim]
"""A kind of axis and its size."""


def regroup(atoms: Sequence[Atom], target: Sequence[Dim]) -> tuple[tuple[str, ...], tuple[int, ...]] | None:
    """The axes of a value of shape ``target`` whose elements are those of ``atoms`` in their order, and the sizes of its feature kinds.

    Features next to one another may be taken apart anywhere; tokens and rows stay whole. None where an axis would hold part of them.
    """
    pending: list[Atom] = []
    tokens = any(is_time(kind) for kind, _ in atoms)
    featured = any(kind == FEATURE for kind, _ in atoms)
    for kind, size in atoms:
        if kind == ONE or (kind == FEATURE and size == 1):  # what has one element may stand anywhere, also among tokens
            continue
        if kind == FEATURE and pending and pending[-1][0] == FEATURE:
            pending[-1] = (FEATURE, pending[-1][1] * size)
        else:
            pending.append((kind, size))
    axes: list[str] = []
    sizes: list[int] = []
    for number, dim in enumerate(target):
        kinds: list[str] = []
        left = dim
        while left != 1 or (not kinds and pending and pending[0][1] == 1 and pending[0][0] != FEATURE):
            if not pending:
                return None
            kind, size = pending.pop(0)
            if kind == FEATURE:
                taken = _share(left, size)
                if taken is None:
                    return None
                sizes.append(taken)
                assert isinstance(size, int)
                if size != taken:
                    pending.insert(0, (FEATURE, size // taken))
                size = taken
            rest = left // size
            if rest * size != left:
                return None
            kinds.append(kind)
            left = rest
        if not kinds:
            # Of one element: a head, or a last axis of one feature; beside a token that was picked, its time.
            feature = featured and (tokens or number == len(target) - 1)
            kinds.append(FEATURE if feature else ONE)
            sizes += [1] if feature else []
        axes.append(JOIN.join(kinds))
    if any(size != 1 for _, size in pending):
        return None
    return tuple(axes), tuple(sizes)


def _share(left: Dim, size: Dim) -> int | None:
    """How many of so many features an axis takes."""
    assert isinstance(size, int)
    if not isinstance(left, int) or left % size == 0:
        return size
    return left if size % left == 0 else None

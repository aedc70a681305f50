"""Which grids are worth pricing.

They lie in chains: rectangles of one shape, each within the next, the same for every machine, of which each has those that it holds. A
machine with more PEs so loses none, and what finds room or is fast on grids of a chain is so on every larger machine.
"""

from __future__ import annotations

from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.machine import Machine

SHAPES = ((1, 1), (4, 3), (3, 4), (3, 2), (2, 3))
"""Height to width."""

THIN = 3
"""How many times as long as it is wide a grid may be, but on a machine that is thinner."""

ALONE, AMONG = 8, 32
"""Up to it each side is worth pricing, beyond it half as many per doubling: of a region alone, and of several, whose PEs add up."""


def sides(largest: int, every: int) -> list[int]:
    """Shorter sides, the same whatever the largest; each up to ``every``."""
    found: list[int] = []
    side, step = 1, 1
    while side <= largest:
        found.append(side)
        if side == every * step:
            step *= 2
        side += step
    return found


def chains(machine: Machine, count: int) -> list[list[Grid]]:
    """For each shape the grids that the machine holds for one of ``count`` regions, from small to large."""
    found = []
    for height, width in SHAPES:
        least = min(height, width)
        shorter = sides(min(machine.width, machine.height), AMONG if count > 1 else ALONE)
        grids = [Grid(side * height // least, side * width // least) for side in shorter]
        found.append([grid for grid in grids if grid.height <= machine.height and grid.width <= machine.width])
    return found


def lines(machine: Machine, count: int) -> list[Grid]:
    """For one of ``count`` regions the grids as wide as a machine that is thin, from small to large; none of any other."""
    thick, long = sorted((machine.height, machine.width))
    longer = [side for side in sides(long, AMONG if count > 1 else ALONE) if side >= thick] if long > THIN * thick else []
    return [Grid(side, thick) if machine.height > machine.width else Grid(thick, side) for side in longer]


def whole(machine: Machine) -> Grid:
    """All of its PEs."""
    return Grid(machine.height, machine.width)


def cells(machine: Machine, count: int) -> list[Grid]:
    """Equal grids of which the machine holds ``count`` in rows and columns, no side more than three times the other but where the machine
    has no more PEs that way.
    """
    found: dict[Grid, None] = {}
    for columns in range(1, count + 1):
        grid = Grid(machine.height // -(-count // columns), machine.width // columns)
        thin = min(machine.height, machine.width) == min(grid.height, grid.width)
        if grid.height and grid.width and (thin or max(grid.height, grid.width) <= THIN * min(grid.height, grid.width)):
            found[grid] = None
    return list(found)


def tight(machine: Machine, count: int) -> list[Grid]:
    """Grids of all shapes, among them those that fill this machine: for what is better there, or has no room on those of chains."""
    nested = (grid for chain in chains(machine, count) for grid in chain)
    return list(dict.fromkeys([*nested, *cells(machine, count), *lines(machine, count), whole(machine)]))

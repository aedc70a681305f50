"""When which region works on which item, as SVG."""

from __future__ import annotations

from html import escape

from cgptc.backends.wafer.clock import Interval, Timeline
from cgptc.backends.wafer.report.colours import stage_colour
from cgptc.backends.wafer.report.floorplan import LETTER, shortened

WIDTH = 960.0
NAMES = 150.0
"""Room for the regions' names at the left."""

MOST_ITEMS = 16
"""Items that are drawn: the first ones, in which the pipeline fills."""


def timeline_svg(timeline: Timeline, stages: list[tuple[str, int]]) -> str:
    """A row per region, given with its stage; a block from an item's start to its finish, filled as high as it is at work in that time."""
    drawn = [one for one in timeline.intervals if one.item < MOST_ITEMS]
    end = max((one.finish for one in drawn), default=1) or 1
    row = max(9.0, min(26.0, 620 / max(len(stages), 1)))
    unit = (WIDTH - NAMES - 8) / end
    height = row * len(stages) + 26
    found: list[str] = []
    for number, (name, stage) in enumerate(stages):
        y = number * row
        size = min(11.0, row * 0.85)
        found.append(
            f'<text x="{NAMES - 6:.0f}" y="{y + row / 2 + size * 0.35:.1f}" font-size="{size:.1f}" text-anchor="end">'
            f"{escape(shortened(name, int((NAMES - 8) / (LETTER * size))))}</text>"
        )
        found.extend(_block(one, y, row, unit, stage) for one in drawn if one.region == name)
    base = row * len(stages)
    for tick in _ticks(end):
        x = NAMES + tick * unit
        found.append(f'<line x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{base + 4:.1f}" stroke="#bbb" stroke-width="0.5"/>')
        found.append(f'<text x="{x:.1f}" y="{base + 16:.1f}" font-size="10" text-anchor="middle" fill="#555">{tick:,}</text>')
    size_ = f'viewBox="0 0 {WIDTH:.0f} {height:.0f}" width="{WIDTH:.0f}" height="{height:.0f}"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size_} font-family="sans-serif">{"".join(found)}</svg>'


def _block(one: Interval, y: float, row: float, unit: float, stage: int) -> str:
    x, wide = NAMES + one.start * unit, max((one.finish - one.start) * unit, 0.4)
    span = max(one.finish - one.start, 1)
    inner = (row - 2) * min(one.busy / span, 1.0)
    title = f"{one.region}, item {one.item}: cycles {one.start:,} to {one.finish:,}, {one.busy:,} at work"
    number = f'<text x="{x + wide / 2:.1f}" y="{y + row / 2 + 3:.1f}" font-size="8" text-anchor="middle">{one.item}</text>'
    return (
        f'<g><title>{escape(title)}</title><rect x="{x:.2f}" y="{y + 1:.1f}" width="{wide:.2f}" height="{row - 2:.1f}" fill="#ececea" '
        f'stroke="#888" stroke-width="0.4"/><rect x="{x:.2f}" y="{y + row - 1 - inner:.1f}" width="{wide:.2f}" height="{inner:.1f}" '
        f'fill="{stage_colour(stage)}"/>{number if wide > 12 and row > 10 else ""}</g>'
    )


def _ticks(end: int) -> list[int]:
    """About eight round numbers from 0 to the end."""
    step = 1
    while end / step > 8:
        step *= 10 if end / step > 80 else 5 if end / step > 20 else 2
    return list(range(0, end + 1, step))

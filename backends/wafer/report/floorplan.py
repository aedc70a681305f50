"""The floorplan as SVG: every region where it lies, coloured by stage or by heat, labelled with what fits."""

from __future__ import annotations

from collections.abc import Callable
from html import escape

from cgptc.backends.wafer.program import Program, Rectangle, Region
from cgptc.backends.wafer.report.colours import stage_colour

DISCLAIMER = "modelled machine, not run on hardware, not affiliated with Cerebras"
SIDE = 960.0
"""Width of the longer side of the fabric, in SVG units."""

SMALLEST_TEXT, EASY_TEXT = 7.0, 10.0
"""Heights of letters: the least that are shown, and below which a name is rather cut."""

LETTER = 0.58
"""Width of a letter by its height, in the fonts that browsers take for sans-serif."""

Lines = tuple[str, ...]


def floorplan_svg(program: Program, labels: dict[str, Lines] | None = None) -> str:
    """A picture of where every region lies. ``labels`` are lines of text per region, most telling first; its name and kernels otherwise."""
    shown = labels if labels is not None else {region.name: region_label(region) for region in program.regions}
    body = map_of(
        program,
        lambda region: stage_colour(region.stage),
        lambda region: shown.get(region.name, (region.name,)),
        arrows=True,
    )
    width, height = extent(program)
    machine = program.machine
    used = sum(region.rectangle.area for region in program.regions)
    caption = f"{machine.name}: {used:,} of {machine.width * machine.height:,} PEs in {len(program.regions)} regions; {DISCLAIMER}."
    size = f'viewBox="0 0 {width:.0f} {height + 24:.0f}" width="{width:.0f}" height="{height + 24:.0f}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif">{body}'
        f'<text x="2" y="{height + 17:.0f}" font-size="12" fill="#444">{escape(caption)}</text></svg>\n'
    )


def region_label(region: Region) -> Lines:
    """The region's name, what module its parts share, and its kernels."""
    parts = dict.fromkeys(step.part for code in region.code for step in code.steps if step.part)
    kernels = dict.fromkeys(part.rsplit(": ", 1)[-1] for part in parts)
    return (region.name, f"{region.rectangle.width} × {region.rectangle.height} PEs", *kernels)


def frame(program: Program) -> Rectangle:
    """The part of the fabric that is drawn: all of it, or where a plan takes less than a twelfth of it, what surrounds the plan."""
    machine = program.machine
    right = max((region.rectangle.x + region.rectangle.width for region in program.regions), default=1)
    bottom = max((region.rectangle.y + region.rectangle.height for region in program.regions), default=1)
    if right * bottom * 12 < machine.width * machine.height:
        return Rectangle(0, 0, min(machine.width, right + right // 8 + 1), min(machine.height, bottom + bottom // 8 + 1))
    return Rectangle(0, 0, machine.width, machine.height)


def scale(program: Program) -> float:
    """SVG units per PE."""
    drawn = frame(program)
    return SIDE / max(drawn.width, drawn.height)


def extent(program: Program) -> tuple[float, float]:
    """Size of the map in SVG units."""
    drawn, unit = frame(program), scale(program)
    return drawn.width * unit, drawn.height * unit


def map_of(
    program: Program,
    colour: Callable[[Region], str],
    label: Callable[[Region], Lines],
    *,
    arrows: bool = False,
    text: Callable[[Region], str] = lambda _: "#1c2430",
) -> str:
    """The SVG elements of a map: the fabric, the regions with a colour each for their area and their ``text``, and where ``arrows`` the
    streams between them.
    """
    unit = scale(program)
    width, height = extent(program)
    found = [f'<rect width="{width:.1f}" height="{height:.1f}" fill="#f4f4f2" stroke="#999"/>']
    for region in program.regions:
        box, lines = region.rectangle, label(region)
        x, y, wide, high = box.x * unit, box.y * unit, box.width * unit, box.height * unit
        title = escape(" · ".join(lines))
        found.append(
            f'<g><title>{title}</title><rect x="{x:.1f}" y="{y:.1f}" width="{wide:.1f}" height="{high:.1f}" '
            f'fill="{colour(region)}" stroke="#5a6472" stroke-width="0.8"/>{_text(lines, x, y, wide, high, text(region))}</g>'
        )
    if arrows:
        found.extend(_arrows(program, unit))
    return "".join(found)


def _text(lines: Lines, x: float, y: float, wide: float, high: float, colour: str) -> str:
    """As many lines as fit, in letters that let the first one fit: or its end, where they were small; nothing where that has no room."""
    turned = high > 1.6 * wide and _size(lines[0], wide, high) < EASY_TEXT and _size(lines[0], high, wide) > _size(lines[0], wide, high)
    room, depth = (high, wide) if turned else (wide, high)
    size = min(15.0, max(_size(lines[0], room, depth), min(EASY_TEXT, (depth - 3) / 1.2)))
    if size < SMALLEST_TEXT:
        return ""
    heading = shortened(lines[0], int((room - 4) / (LETTER * size)))
    if len(heading) < min(4, len(lines[0])):
        return ""
    small = max(SMALLEST_TEXT, min([size * 0.78, *(_size(line, room, depth) for line in lines[1:])]))
    below = [shortened(line, int((room - 4) / (LETTER * small))) for line in lines[1 : 1 + int((depth - size * 1.35) / (small * 1.3))]]
    middle = f' transform="rotate(-90 {x + wide / 2:.1f} {y + high / 2:.1f})"' if turned else ""
    total = size * 1.1 + len(below) * small * 1.3
    top = y + high / 2 - total / 2 + size * 0.9
    centre = x + wide / 2
    spans = [f'<tspan x="{centre:.1f}" font-weight="600" font-size="{size:.1f}">{escape(heading)}</tspan>']
    spans += [f'<tspan x="{centre:.1f}" dy="{small * 1.3:.1f}" font-size="{small:.1f}">{escape(line)}</tspan>' for line in below]
    return f'<text y="{top:.1f}" text-anchor="middle" fill="{colour}"{middle}>{"".join(spans)}</text>'


def _size(line: str, wide: float, high: float) -> float:
    """The largest letters in which a line fits."""
    return min((wide - 4) / (LETTER * max(len(line), 1)), (high - 3) / 1.2)


def shortened(line: str, room: int) -> str:
    """A line in ``room`` letters: of a module path the last components, which tell more than the first, of all else the beginning."""
    if len(line) <= room:
        return line
    tails = (line[place + 1 :] for place, letter in enumerate(line) if letter == ".")
    tail = next((one for one in tails if len(one) < room), None)
    return f"…{tail}" if tail is not None else line[: max(room - 1, 0)] + "…"


def _arrows(program: Program, unit: float) -> list[str]:
    """One arrow per pair of regions that a stream joins; long ones, which skip stages, are thinner."""
    boxes = {region.name: region.rectangle for region in program.regions}
    pairs = dict.fromkeys((stream.producer, stream.consumer) for stream in program.streams)
    head = '<defs><marker id="head" viewBox="0 0 6 6" refX="5" refY="3" markerWidth="5" markerHeight="5" orient="auto">'
    found = [f'{head}<path d="M0 0L6 3L0 6z" fill="#20304a"/></marker></defs>']
    for producer, consumer in pairs:
        start, end = boxes[producer], boxes[consumer]
        (x1, y1), (x2, y2) = _ends(start, end)
        found.append(
            f'<line x1="{x1 * unit:.1f}" y1="{y1 * unit:.1f}" x2="{x2 * unit:.1f}" y2="{y2 * unit:.1f}" '
            f'stroke="#20304a" stroke-width="{1.4 if _touch(start, end) else 0.7}" opacity="0.75" marker-end="url(#head)"/>'
        )
    return found


def _touch(one: Rectangle, other: Rectangle) -> bool:
    return one.overlaps(Rectangle(other.x - 1, other.y - 1, other.width + 2, other.height + 2))


def _ends(start: Rectangle, end: Rectangle) -> tuple[tuple[float, float], tuple[float, float]]:
    """Where an arrow leaves and where it ends: across the shared side of neighbours, else from middle to middle."""
    x = _shared(start.x, start.width, end.x, end.width)
    y = _shared(start.y, start.height, end.y, end.height)
    reach_x, reach_y = min(start.width, end.width) * 0.08, min(start.height, end.height) * 0.08
    if _touch(start, end) and y is not None and x is None:
        edge = end.x if end.x > start.x else start.x
        sign = 1 if end.x > start.x else -1
        return (edge - sign * reach_x, y), (edge + sign * reach_x, y)
    if _touch(start, end) and x is not None:
        edge = end.y if end.y > start.y else start.y
        sign = 1 if end.y > start.y else -1
        return (x, edge - sign * reach_y), (x, edge + sign * reach_y)
    return (start.x + start.width / 2, start.y + start.height / 2), (end.x + end.width / 2, end.y + end.height / 2)


def _shared(first: int, length: int, other: int, other_length: int) -> float | None:
    """The middle of what two intervals share."""
    low, high = max(first, other), min(first + length, other + other_length)
    return (low + high) / 2 if high > low else None

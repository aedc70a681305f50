"""The report as one HTML file without scripts or links, in the manner of a vendor's compile report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path

import numpy as np

from cgptc.backends.wafer.clock import Timeline
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.program import Program
from cgptc.backends.wafer.report.charts import MOST_ITEMS, timeline_svg
from cgptc.backends.wafer.report.colours import heat_colour, text_on_heat
from cgptc.backends.wafer.report.figures import Figures, Part, Stage, kind_of, measure
from cgptc.backends.wafer.report.floorplan import DISCLAIMER, Lines, extent, floorplan_svg, frame, map_of
from cgptc.backends.wafer.report.picture import heat_picture
from cgptc.backends.wafer.routes import stream_cost

STYLE = """
body{font:14px/1.45 system-ui,sans-serif;color:#1c2430;background:#fff;max-width:1000px;margin:24px auto;padding:0 16px}
h1{font-size:22px;margin:0 0 2px}h2{font-size:16px;margin:30px 0 6px}p{margin:4px 0 8px}small,.note{color:#566}
.warn{background:#fff6df;border:1px solid #e8d39a;padding:6px 10px;border-radius:6px}
.cards{display:flex;flex-wrap:wrap;gap:10px;margin:14px 0}
.card{border:1px solid #d9dcda;border-radius:8px;padding:8px 12px;min-width:140px;max-width:280px}
.card b{display:block;font-size:19px}table{border-collapse:collapse;width:100%;font-size:13px}
th,td{padding:3px 8px;border-bottom:1px solid #e6e8e6;text-align:right;vertical-align:top}
th{background:#f4f5f3;position:sticky;top:0;font-weight:600}
th:first-child,td:first-child,td.l,th.l{text-align:left}.scroll{max-height:520px;overflow:auto;border:1px solid #e6e8e6}
figure{display:inline-block;margin:4px}svg,img{max-width:100%;height:auto}
img{image-rendering:pixelated;border:1px solid #999}.bar{display:inline-block;height:9px;background:#8fb3d9}
"""


def write_report(
    program: Program,
    timeline: Timeline,
    machine: Machine,
    path: Path,
    *,
    entry: str | None = None,
    scalars: Mapping[str, int] | None = None,
    title: str = "",
) -> None:
    """Write the page of one entry's run. ``timeline`` is that run's clock; ``entry`` and ``scalars`` as `measure` takes them.

    ``machine`` gives the seconds: the program's own, or one that differs in its clock only.
    """
    path.write_text(page(measure(program, timeline, entry, scalars), machine, title), encoding="utf-8")


def page(figures: Figures, machine: Machine, title: str = "", note: str = "") -> str:
    """The page's text. ``note`` is a sentence about the items, without its stop."""
    name = title or "Placed program"
    sections = (
        f"<h1>{escape(name)} on {escape(machine.name)}</h1>",
        f'<p class="warn">{_sentence()} Cycles are those of the placed program; see <i>docs/machine.md</i> for what is published, '
        "derived and assumed.</p>",
        f'<p class="note">{escape(note[0].upper() + note[1:])}.</p>' if note else "",
        _cards(figures, machine),
        "<h2>Floorplan</h2><p>Regions by stage; arrows are streams. Names and sizes show where there is room, and on hovering.</p>",
        floorplan_svg(figures.program, _labels(figures)),
        _bounds(figures),
        _pipeline(figures),
        _stages(figures),
        _kernels(figures, machine),
        _steps(figures.slowest),
        _memory(figures),
        _links(figures),
        _streams(figures),
    )
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(name)}</title><style>{STYLE}</style></head>'
        f"<body>{''.join(sections)}</body></html>\n"
    )


def _sentence() -> str:
    return f"{DISCLAIMER[0].upper()}{DISCLAIMER[1:]}."


def _labels(figures: Figures) -> dict[str, Lines]:
    labels: dict[str, Lines] = {}
    for stage in figures.stages:
        box = stage.region.rectangle
        kernels = dict.fromkeys(part.name.rsplit(": ", 1)[-1] for part in stage.parts if not part.name.startswith("streams:"))
        named = (stage.label,) if stage.label != stage.region.name else ()
        size = f"{box.width} × {box.height} PEs"
        labels[stage.region.name] = (stage.region.name, *named, size, f"{stage.busy:,.0f} cycles", *kernels)
    return labels


def _cards(figures: Figures, machine: Machine) -> str:
    items, interval = figures.items, figures.interval
    slowest = figures.slowest
    first = max((one.finish for one in figures.timeline.intervals if one.item == 0), default=0)
    fabric = machine.width * machine.height
    values = ", ".join(f"{name} {value:,}" for name, value in figures.scalars.items()) or "no scalars"
    cards = (
        (f"{figures.timeline.cycles:,}", "cycles", f"entry '{figures.entry.name}', {items:,} item{'s' * (items != 1)}; {values}"),
        (f"{interval:,.0f}", "cycles per item, steady" if items > 1 else "cycles of the item", f"the first one takes {first:,}"),
        (_rate(interval, machine), "items per second", f"at {machine.clock_hz / 1e9:g} GHz"),
        (f"{figures.used:,}", "PEs used", f"{figures.used / fabric:.1%} of {fabric:,}"),
        (f"{slowest.region.name}", "slowest stage", _why(slowest)),
    )
    shown = (f'<div class="card"><b>{escape(big)}</b>{what}<br><small>{escape(more)}</small></div>' for big, what, more in cards)
    return f'<div class="cards">{"".join(shown)}</div>'


def _why(stage: Stage) -> str:
    total = max(stage.compute + stage.talk, 1)
    largest = max(stage.parts, key=lambda part: part.cycles)
    return f"{stage.talk / total:.0%} of its cycles are messages; {largest.cycles / total:.0%} go to {largest.name}"


def _rate(cycles: float, machine: Machine) -> str:
    return f"{machine.clock_hz / cycles:,.0f}" if cycles else "–"


def _bounds(figures: Figures) -> str:
    rows = [
        (
            escape(one.name),
            f"{one.cycles:,.0f}",
            f"{figures.interval / one.cycles:,.1f} ×" if one.cycles >= 0.5 else "–",
            escape(one.reason),
        )
        for one in figures.bounds
    ]
    return (
        "<h2>Estimate and lower bounds</h2>"
        f"<p>The clock gives <b>{figures.interval:,.0f}</b> cycles per item. No schedule of this plan can go below any of these:</p>"
        + _table(("bound", "cycles per item", "estimate is", "why"), rows, left=(3,))
    )


def _pipeline(figures: Figures) -> str:
    names = [(stage.region.name, stage.region.stage) for stage in figures.stages]
    shown = f"the first {MOST_ITEMS} of {figures.items:,} items" if figures.items > MOST_ITEMS else "all items"
    text = (
        f"<p>Cycles from left to right, {shown}. A block lasts from an item's start to its finish; it is filled as high as the region "
        "works in that time, the rest is waiting.</p>"
    )
    return "<h2>Pipeline</h2>" + text + timeline_svg(figures.timeline, names)


def _stages(figures: Figures) -> str:
    top = max((stage.busy for stage in figures.stages), default=1) or 1
    rows = [
        (
            escape(stage.region.name),
            escape(stage.label),
            f"{stage.region.rectangle.width} × {stage.region.rectangle.height}",
            f"{stage.compute:,}",
            f"{stage.talk:,}",
            f"{stage.busy:,.0f}",
            f'<span class="bar" style="width:{80 * stage.busy / top:.0f}px"></span>',
            f"{stage.ideal:,.0f}",
        )
        for stage in figures.stages
    ]
    head = ("region", "module", "PEs", "compute", "messages", "busy per item", "of the slowest", "bound by compute")
    note = "<p>Cycles per item. Compute and messages are sums over steps; busy is what the clock counts, overlap in loops included.</p>"
    return "<h2>Stages</h2>" + note + _scrolled(_table(head, rows, left=(1, 6)), len(rows))


def _kernels(figures: Figures, machine: Machine) -> str:
    groups: dict[str, list[Part]] = {}
    for stage in figures.stages:
        for part in stage.parts:
            groups.setdefault(kind_of(part.name), []).append(part)
    rows = []
    for name, parts in groups.items():
        compute, talk = max(part.compute for part in parts), max(part.talk for part in parts)
        cycles = sum(part.cycles for part in parts)
        shares = sum(part.ideal for part in parts) / cycles if cycles else 0.0
        rows.append(
            (
                escape(name),
                f"{len(parts)}",
                f"{sum(part.active for part in parts):,}",
                f"{compute:,}",
                f"{talk:,}",
                _rate(compute, machine),
                _rate(talk, machine),
                _rate(compute + talk, machine),
                f"{shares:.1%}" if any(part.macs for part in parts) else "–",
            )
        )
    head = ("kernel", "times", "active PEs", "compute", "messages", "samples/s by compute", "by transmission", "together", "utilisation")
    note = (
        "<p>Kernels of equal layers are shown together: cycles are those of the slowest, active PEs of all. A sample is an item. "
        "Utilisation is the share of cycles that multiply-accumulates at full rate would take, padding of ragged tiles included.</p>"
    )
    return "<h2>Kernels</h2>" + note + _scrolled(_table(head, rows), len(rows))


def _steps(stage: Stage) -> str:
    rows = [
        (f"{number}", escape(one.part), escape(one.what), f"{one.turns:,}", f"{one.cycles:,}", f"{one.cycles / max(one.turns, 1):,.0f}")
        for number, one in enumerate(stage.steps, 1)
    ]
    head = ("step", "kernel", "what", "turns", "cycles", "each")
    note = f"<p>Of one item in '{escape(stage.region.name)}', as they follow each other; overlap in loops is not taken off.</p>"
    return "<h2>Steps of the slowest stage</h2>" + note + _scrolled(_table(head, rows, left=(1, 2)), len(rows))


def _memory(figures: Figures) -> str:
    usable = figures.machine.usable_bytes
    peaks = {stage.region.name: stage.peak_bytes / usable for stage in figures.stages}
    width, height = extent(figures.program)
    body = map_of(
        figures.program,
        lambda region: heat_colour(peaks.get(region.name, 0.0)),
        lambda region: (f"{peaks.get(region.name, 0.0):.0%}", region.name),
        text=lambda region: text_on_heat(peaks.get(region.name, 0.0)),
    )
    rows = [
        (
            escape(stage.region.name),
            f"{stage.weight_bytes:,}",
            f"{stage.state_bytes:,}",
            f"{stage.work_bytes:,}",
            f"{stage.queue_bytes:,}",
            f"{stage.peak_bytes:,}",
            f"{usable - stage.peak_bytes:,}",
            _heat(stage.peak_bytes / usable),
        )
        for stage in figures.stages
    ]
    head = ("region", "weights", "caches", "work", "queues", "peak", "free", "of usable")
    return (
        f"<h2>SRAM</h2><p>Share of the {usable:,} usable bytes of each PE ({figures.machine.reserved_bytes:,} more are reserved). "
        "All PEs of a region hold the same buffers.</p>"
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'font-family="sans-serif">{body}</svg>{_scrolled(_table(head, rows), len(rows))}'
    )


def _heat(share: float) -> str:
    return f'<span style="background:{heat_colour(share)};color:{text_on_heat(share)};padding:0 5px">{share:.0%}</span>'


def _links(figures: Figures) -> str:
    drawn, account = frame(figures.program), figures.account
    pictures = []
    for name, title in (("east", "eastward"), ("west", "westward"), ("south", "southward"), ("north", "northward")):
        words = np.asarray(getattr(account, name))[: drawn.height, : drawn.width]
        most = int(words.max(initial=0))
        pictures.append(
            f'<figure><img width="450" src="{heat_picture(words)}" alt="words over {title} links">'
            f"<figcaption>{title}: at most {most:,} wavelets per item</figcaption></figure>"
        )
    return (
        "<h2>Links</h2><p>Wavelets over each link for one item, collectives and streams; darkest is the most in that direction.</p>"
        + "".join(pictures)
    )


def _streams(figures: Figures) -> str:
    program, machine = figures.program, figures.machine
    rows = []
    for stream in (one.at(figures.scalars) for one in program.streams):
        cost = stream_cost(stream, program.region(stream.producer), program.region(stream.consumer), machine)
        rows.append(
            (
                escape(stream.name),
                escape(f"{stream.producer} → {stream.consumer}"),
                ", ".join(map(str, stream.colours)),
                f"{stream.depth}",
                f"{cost.wavelets:,}",
                f"{cost.phases:,}",
                f"{cost.distance:,}",
                f"{cost.cycles:,}",
            )
        )
    head = ("stream", "from → to", "colours", "queue", "wavelets", "phases", "hops", "cycles per item")
    return "<h2>Streams</h2>" + (_scrolled(_table(head, rows, left=(1,)), len(rows)) if rows else "<p>None: all work is in one region.</p>")


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], left: tuple[int, ...] = ()) -> str:
    def cells(kind: str, values: Sequence[str]) -> str:
        return "".join(f"<{kind}{' class=l' if i in left else ''}>{value}</{kind}>" for i, value in enumerate(values))

    body = "".join(f"<tr>{cells('td', row)}</tr>" for row in rows)
    return f"<table><thead><tr>{cells('th', head)}</tr></thead><tbody>{body}</tbody></table>"


def _scrolled(table: str, rows: int) -> str:
    return f'<div class="scroll">{table}</div>' if rows > 20 else table

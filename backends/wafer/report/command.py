"""The report of an artifact's folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cgptc.backends.wafer.boundary import loading, running
from cgptc.backends.wafer.clock import timeline
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.host import read_host
from cgptc.backends.wafer.host_check import check_host
from cgptc.backends.wafer.report.figures import Figures, measure
from cgptc.backends.wafer.report.floorplan import DISCLAIMER, floorplan_svg
from cgptc.backends.wafer.report.page import page
from cgptc.backends.wafer.serial import read_program
from cgptc.backends.wafer.verify import check


@dataclass(frozen=True)
class Reported:
    """What a report said."""

    figures: Figures

    def facts(self) -> dict[str, str | int | float]:
        """The figures that head the page."""
        found = self.figures
        return {
            "machine": f"{found.machine.name}   {DISCLAIMER}",
            "items": found.items,
            "cycles": found.timeline.cycles,
            "cycles per item": round(found.interval, 1),
            "slowest": found.slowest.region.name,
            **{f"bound by {bound.name}": round(bound.cycles, 1) for bound in found.bounds},
        }


def report_folder(folder: Path, output: Path, *, past: int, tokens: int) -> Reported:
    """Write the page, or the floorplan where ``output`` ends in .svg, for a run of ``tokens`` after ``past``.

    Raises `UsageError` for a run that the context has no room for, `MalformedError` for files that hold no program.
    """
    with loading(str(folder)):
        program = check(read_program(folder))
        host = check_host(read_host(folder), program)
    # Items that are whole rows know nothing of a past: as many rows as tokens are asked for, each as long as it may be.
    entry = program.entry(host.entry)
    longest = {one.name: one.high for one in entry.scalars}
    scalars = {**longest, "length": tokens} if host.whole else {"past": past, "length": max(1, min(tokens, host.context - past))}
    with running():
        if tokens < 1:
            raise ProgramError("scalars", f"a run of {tokens} tokens has nothing to report", fix="give --tokens 1 or more")
        refusal = entry.refusal(scalars)
        if refusal:
            raise ProgramError("scalars", refusal, fix="give another --past or --tokens")
        figures = measure(program, timeline(program, host.entry, scalars), host.entry, scalars)
    text = floorplan_svg(program) if output.suffix == ".svg" else page(figures, program.machine, "A placed model", host.filled)
    output.write_text(text, encoding="utf-8")
    return Reported(figures)

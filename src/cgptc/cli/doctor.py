"""``cgptc doctor``: what this machine offers."""

from __future__ import annotations

from cgptc.cli.command import command
from cgptc.cli.screen import Screen, table
from cgptc.driver.environment import survey


@command("doctor")
def doctor(screen: Screen) -> None:
    """Show the versions of everything cgptc uses, and what is missing."""
    findings = survey()
    rows = [(finding.name, finding.version or "missing", finding.note) for finding in findings]
    value = {finding.name: {"version": finding.version, "note": finding.note, "ok": finding.ok} for finding in findings}
    screen.result(table(rows), value)

"""Time and peak memory of ``cgptc plan`` for every Cerebras-GPT preset on a machine, by strategy, each in a process of its own.

A plan runs on one core, so that processor time is what a quiet machine takes; both are told. What does not fit is in the table with what
it missed by. Runs are kept where ``--results`` says, and a later call makes only those that are missing there.

    python benchmarks/plan_presets.py [--machine wse2] [--dtype f16] [--strategies auto resident …] [--results plans.json]
        [--write docs/machine.md]
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass

from kept_runs import KeptRuns, add_flags, publish

from cgptc import __version__
from cgptc.frontend.presets import PRESETS

STRATEGIES = ("auto", "pipeline", "resident", "weight-streaming")
DOES_NOT_FIT = 6


@dataclass(frozen=True)
class Run:
    """One plan: seconds, processor seconds, peak resident bytes, what the command printed as JSON, and its first line where it has none."""

    seconds: float
    cpu_seconds: float
    peak_bytes: int
    facts: dict[str, object]
    refusal: str = ""


def run(preset: str, machine: str, dtype: str, strategy: str, objective: str) -> Run:
    """Plan one preset. RuntimeError where the command fails for another reason than lack of room."""
    command = [sys.executable, "-m", "cgptc", "plan", preset, "--machine", machine, "--dtype", dtype, "--json"]
    command += ["--execution-strategy", strategy, "--objective", objective]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stderr is not None
    # The result is one line and comes last, so that neither pipe fills while the other is read.
    output, errors = process.stdout.read(), process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode not in (0, DOES_NOT_FIT):
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{errors[-2000:]}")
    facts = json.loads(output) if process.returncode == 0 else {}
    refusal = "" if facts else next(line for line in (errors + output).splitlines() if "too many" in line or "left between" in line)
    unit = 1 if sys.platform == "darwin" else 1024
    return Run(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * unit, facts, refusal.strip())


def cells(found: Run) -> list[str]:
    """A row's cells behind preset and strategy."""
    cost = [f"{found.seconds:.0f} s", f"{found.cpu_seconds:.0f} s", f"{found.peak_bytes / 1e9:.2f} GB"]
    facts = found.facts
    if not facts:
        return [*cost, "does not fit", "", "", found.refusal]
    regions = facts["regions"]
    sram = facts["sram_bytes"]
    assert isinstance(regions, list)
    assert isinstance(sram, dict)
    missed = facts.get("missed") or []
    assert isinstance(missed, list)
    placed = f"{facts['strategy']}, {len(regions)} region{'s' * (len(regions) > 1)}"
    room = f"{facts['pe_share']:.1%} of the PEs, {sram['max']:,} B"
    return [*cost, placed, room, f"{facts['cycles_per_token']:,}", next((line for line in missed if "too many" in line), "")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--machine", default="wse2")
    parser.add_argument("--dtype", default="f16")
    parser.add_argument("--strategies", nargs="+", default=list(STRATEGIES), choices=STRATEGIES)
    parser.add_argument("--objective", default="throughput")
    sizes = [name for name in PRESETS if name.startswith("cerebras-gpt-") and not name.endswith("-mup")]
    parser.add_argument("--presets", nargs="+", default=sizes)
    add_flags(parser)
    parser.add_argument("--known", action="store_true", help="the table of what --results holds; nothing is planned")
    given = parser.parse_args()
    known = KeptRuns(given.results)
    rows = []
    for preset in given.presets:
        for strategy in given.strategies:
            key = f"{preset} {given.machine} {given.dtype} {strategy} {given.objective}"
            if key not in known and given.known:
                continue
            arguments = (preset, given.machine, given.dtype, strategy, given.objective)
            found = Run(**known.of(key, lambda arguments=arguments: asdict(run(*arguments))))
            rows.append([preset.removeprefix("cerebras-gpt-"), strategy, *cells(found)])
            print(" | ".join(rows[-1]), flush=True)
    header = (
        "preset",
        "asked for",
        "time",
        "processor",
        "peak memory",
        "plan",
        "of the machine, most SRAM of a PE",
        "cycles per token",
        "missed",
    )
    what = f"`cgptc plan` on {given.machine} in {given.dtype}, objective {given.objective}; {os.cpu_count()} cores, cgptc {__version__}."
    publish(given, "plans", what, header, rows)


if __name__ == "__main__":
    main()

"""``cgptc bench``: how fast an artifact is, and how near to what the machine can do."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cgptc.cli.command import command
from cgptc.cli.compiling import size
from cgptc.cli.screen import Screen, table
from cgptc.ir.diagnostics import CgptcError, Exit
from cgptc.runtime.compiled import Artifact

if TYPE_CHECKING:
    from cgptc.driver.bench.measurement import Measurement, Plan, Timing


@command("bench")
def bench(
    screen: Screen,
    artifact: Annotated[Path, typer.Argument(metavar="ARTIFACT", help="An artifact folder.")],
    prompt: Annotated[
        list[int] | None, typer.Option("--prompt", help="Tokens of a prompt to time; may be repeated (16, 128, 512 …).")
    ] = None,
    new_tokens: Annotated[int, typer.Option("--new-tokens", help="How many tokens to decode.")] = 64,
    repeat: Annotated[int, typer.Option("--repeat", help="How often to time each prompt.")] = 10,
    batch: Annotated[int, typer.Option("--batch", help="Rows at once.")] = 1,
    threads: Annotated[int, typer.Option("--threads", help="Threads of one operation (0: onnxruntime decides).")] = 0,
    ep: Annotated[list[str] | None, typer.Option("--ep", help="Execution provider; repeated, each in a process of its own.")] = None,
) -> None:
    """Time prefill and decode, beside the memory bandwidth and matrix speed measured in the same run."""
    from cgptc.driver.bench.measurement import Plan, measure

    names: list[str | None] = [*ep] if ep else [None]
    plans = [Plan(tuple(prompt or ()), new_tokens, repeat, batch, threads, name) for name in names]
    with screen.progress(f"measuring {artifact}"):
        alone = len(plans) == 1
        found = [measure(Artifact.open(artifact), plan) if alone else _in_own_process(artifact, plan) for plan in plans]
    screen.result("\n".join(_text(each) for each in found), [each.to_json() for each in found])


def _in_own_process(artifact: Path, plan: Plan) -> Measurement:
    """One plan in a fresh process, since peak memory is a process's and providers keep theirs."""
    from cgptc.driver.bench.measurement import Measurement

    numbers = {"--new-tokens": plan.new_tokens, "--repeat": plan.repeats, "--batch": plan.batch, "--threads": plan.threads}
    options = [part for name, number in numbers.items() for part in (name, str(number))]
    options += [part for length in plan.lengths for part in ("--prompt", str(length))]
    command_line = [sys.executable, "-m", "cgptc", "bench", str(artifact), "--json", "--ep", str(plan.ep), *options]
    done = subprocess.run(command_line, capture_output=True, text=True, check=False)
    if done.returncode:
        last = next(reversed(done.stderr.strip().splitlines()), "it said nothing")
        raise CgptcError("bench", f"'--ep {plan.ep}' failed: {last[:300]}", file=str(artifact), exit=_exit(done.returncode))
    (value,) = json.loads(done.stdout)
    return Measurement.from_json(value)


def _text(found: Measurement) -> str:
    threads = f"{found.threads} thread{'s' if found.threads != 1 else ''}"
    facts: list[tuple[str, ...]] = [
        ("provider", f"{found.ep}   {threads}   batch {found.batch}   {_placement(found)}".rstrip()),
        ("load", f"{found.load_seconds:.2f} s   first token {found.first_token_seconds:.2f} s after the start of loading"),
        ("memory", f"{size(found.peak_bytes)} at the peak"),
    ]
    limits = [timing.limit for timing in found.prefill.values()]
    if limits:
        facts.append(("machine", f"{max(limits) / 1e9:.0f} GFLOP/s in an f32 product of onnxruntime's"))
    if found.decode is not None:
        facts[-1] = (facts[-1][0], f"{facts[-1][1]}   {found.decode.limit / 1e9:.1f} GB/s read from memory")
    rows: list[tuple[str, ...]] = [("", "p50", "p90", "tokens/s", "of the machine")]
    rows += [(f"prefill {length}", *_cells(timing, "GFLOP/s")) for length, timing in found.prefill.items()]
    if found.decode is not None:
        rows.append((f"decode after {found.decode_prompt}", *_cells(found.decode, "GB/s")))
    return f"{table(facts)}\n{table(rows)}\n"


def _cells(timing: Timing, unit: str) -> tuple[str, ...]:
    reached = timing.work / timing.p50 / 1e9
    return (
        f"{timing.p50 * 1e3:.2f} ms",
        f"{timing.p90 * 1e3:.2f} ms",
        f"{timing.tokens_per_second:.1f}",
        f"{reached:.1f} {unit}, {timing.share:.0%}",
    )


def _placement(found: Measurement) -> str:
    return ", ".join(f"{count} nodes on {name}" for name, count in found.placement.items())


def _exit(code: int) -> Exit:
    """The exit code of a process of ours; that of a bug where it was killed."""
    return Exit(code) if code in set(Exit) else Exit.INTERNAL

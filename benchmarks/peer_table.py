"""What `peers.py` found, as Markdown: medians, ratios pair by pair, and how the project's own targets stand."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Found = Mapping[str, Any]
"""What one process of `peer_runs.py` printed."""

Round = Mapping[str, Found]
"""Runs by ``SYSTEM-FORM``, made in turns."""

ENOUGH_PAIRS = 20
"""A target is met or missed by at least so many pairs."""

TARGETS = {"f32": {"prefill": 1.3, "decode": 1.0}, "int8": {"prefill": 1.3, "decode": 1.2}, "int4": {"decode": 1.1}}
"""How many times as fast as every other system of the same form cgptc is to be."""

SHARE = 0.85
"""The share of the memory's bandwidth that a decoded f32 token is to reach."""


@dataclass(frozen=True)
class Interval:
    """A median over pairs with its 90 % interval: the 5th and 95th percentile of medians of resamples."""

    middle: float
    low: float
    high: float
    pairs: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        rng = np.random.default_rng(0)
        medians = np.median(rng.choice(values, (4000, len(values))), axis=1)
        return cls(float(np.median(values)), float(np.percentile(medians, 5)), float(np.percentile(medians, 95)), len(values))

    def __str__(self) -> str:
        return f"{self.middle:.2f} [{self.low:.2f}, {self.high:.2f}]"

    def verdict(self, target: float) -> str:
        """``met`` where the whole interval of enough pairs is above the target, ``missed`` where it is below, else ``not resolved``."""
        if self.pairs >= ENOUGH_PAIRS and self.low >= target:
            return "met"
        if self.pairs >= ENOUGH_PAIRS and self.high < target:
            return "missed"
        return "not resolved"


def columns(found: Found) -> dict[str, float]:
    """A run's times by column."""
    times = {f"prefill {length}": seconds for length, seconds in found["prefill"].items()}
    return times | ({"decode": found["step"]} if "step" in found else {})


def ratio(rounds: Sequence[Round], name: str, column: str) -> Interval | None:
    """A system's time over cgptc's of the same form, round by round; None where no round has both."""
    ours = f"cgptc-{name.rpartition('-')[2]}"
    pairs = [(columns(found[name]).get(column), columns(found[ours])[column]) for found in rounds if name in found and ours in found]
    known = [theirs / mine for theirs, mine in pairs if theirs is not None]
    return Interval.of(known) if known else None


def share_of_bandwidth(rounds: Sequence[Round], name: str, token_bytes: int) -> Interval | None:
    """Bytes that a token reads, over its time and the bandwidth read before and after it in the same process."""
    known = [token_bytes / found[name]["step"] / found[name]["bandwidth"] for found in rounds if name in found]
    return Interval.of(known) if known else None


def table(rounds: Sequence[Round], names: Sequence[str], token_bytes: Mapping[str, int], losses: Mapping[str, float]) -> str:
    """The systems that ran, by form. ``token_bytes`` is by form, ``losses`` in nats per token by name."""
    ran = [name for name in names if any(name in found for found in rounds)]
    if not ran:
        return _losses(names, losses)
    heads = list(dict.fromkeys(column for found in rounds for run in found.values() for column in columns(run)))
    units = [f"{head} ({'tokens/s' if head == 'decode' else 'ms'})" for head in heads]
    extra = ["perplexity"] if losses else []
    lines = [
        "| " + " | ".join(["", *units, "ready (s)", "peak (GiB)", *extra]) + " |",
        "| --- |" + " --- |" * (len(heads) + 2 + len(extra)),
    ]
    for form in dict.fromkeys(name.rpartition("-")[2] for name in ran):
        for name in [name for name in ran if name.endswith(f"-{form}")]:
            cells = [_cell(rounds, name, head) for head in heads]
            runs = [found[name] for found in rounds if name in found]
            cells.append(f"{statistics.median(run['ready'] for run in runs):.1f}")
            cells.append(f"{statistics.median(run['peak_bytes'] for run in runs) / 2**30:.2f}")
            cells += [f"{np.exp(losses[name]):.3f}" if name in losses else ""] if losses else []
            lines.append(f"| {name.removesuffix(f'-{form}')} {form} | " + " | ".join(cells) + " |")
    lines += ["", *_targets(rounds, ran, token_bytes)]
    return "\n".join(lines)


def _losses(names: Sequence[str], losses: Mapping[str, float]) -> str:
    """Perplexities alone, a row for each system and a column for each form."""
    forms = list(dict.fromkeys(name.rpartition("-")[2] for name in names if name in losses))
    systems = dict.fromkeys(name.rpartition("-")[0] for name in names if name in losses)
    found = {name: f"{np.exp(loss):.3f}" for name, loss in losses.items()}
    rows = [f"| {system} | " + " | ".join(found.get(f"{system}-{form}", "") for form in forms) + " |" for system in systems]
    return "\n".join(["| perplexity | " + " | ".join(forms) + " |", "| --- |" + " --- |" * len(forms), *rows])


def _cell(rounds: Sequence[Round], name: str, column: str) -> str:
    times = [columns(found[name]).get(column) for found in rounds if name in found]
    known = [time for time in times if time is not None]
    if not known:
        return ""
    middle = statistics.median(known)
    cell = f"{1 / middle:.1f}" if column == "decode" else f"{middle * 1e3:.0f}"
    found = None if name.startswith("cgptc-") else ratio(rounds, name, column)
    return cell if found is None else f"{cell} · ×{found}, {found.pairs}"


def _targets(rounds: Sequence[Round], ran: Sequence[str], token_bytes: Mapping[str, int]) -> list[str]:
    """Each target against the system that is nearest to cgptc, or before it."""
    lines = []
    for form in TARGETS:
        if (share := share_of_bandwidth(rounds, f"cgptc-{form}", token_bytes[form]) if form in token_bytes else None) is not None:
            stands = f", target {SHARE}: {share.verdict(SHARE)}" if form == "f32" else ""
            lines.append(f"- {form} decode reaches {share} of the bandwidth read in the same processes ({share.pairs} runs){stands}.")
    for form, kinds in TARGETS.items():
        rivals = [name for name in ran if name.endswith(f"-{form}") and not name.startswith("cgptc-")]
        every = dict.fromkeys(column for found in rounds for run in found.values() for column in columns(run))
        for column in every:
            target = kinds.get(column.split()[0])
            found = {name: interval for name in rivals if (interval := ratio(rounds, name, column)) is not None}
            if target is None or not found:
                continue
            nearest = min(found, key=lambda name: found[name].middle)
            interval = found[nearest]
            lines.append(
                f"- {form} {column}: ×{interval} of the best, {nearest.rpartition('-')[0]} ({interval.pairs} pairs), "
                f"target {target}: {interval.verdict(target)}."
            )
    return lines


def differing(rounds: Sequence[Round]) -> list[str]:
    """Systems in f32 whose greedy tokens are not cgptc's."""
    found: set[str] = set()
    for runs in rounds:
        reference = runs.get("cgptc-f32", {})
        for name, run in runs.items():
            same = all(run[key] == reference[key] for key in ("first", "tokens") if key in run and key in reference)
            found |= {name} if name.endswith("-f32") and not same else set()
    return sorted(found)

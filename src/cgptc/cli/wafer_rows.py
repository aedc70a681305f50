"""How a wafer plan is shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

MODELLED = "modelled machine, not run on hardware, not affiliated with Cerebras"


def wafer_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Rows for the facts of a wafer plan; none for another target's."""
    if "pe_count" not in facts:
        return []
    sram, limit = facts["sram_bytes"], facts["sram_limit_bytes"]
    regions = facts["regions"]
    cycles, bound = facts["cycles_per_token"], facts["bound_cycles"]
    item = facts["item"]
    plural = "s" if len(regions) > 1 else ""
    tokens = f"{facts['context']:,} tokens"
    held = f"{tokens} of cache" if item == "token" else f"rows of {tokens}: shorter ones take as many cycles"
    rows = [
        ("machine", f"{facts['machine']} at {facts['clock_hz'] / 1e9:g} GHz   {MODELLED}"),
        ("plan", f"{facts['strategy']}, {len(regions)} region{plural}   {facts['dtype']}   {held}"),
        ("PEs", f"{facts['pe_count']:,} used, {facts['pe_share']:.1%} of the machine"),
        ("SRAM", f"{sram['min']:,} / {sram['mean']:,} / {sram['max']:,} B per PE (min / mean / max) of {limit:,}"),
        ("cycles", f"{cycles:,} per {item}, {facts['latency_cycles']:,} for one alone   compute bound {bound:,}"),
        ("speed", f"{facts['tokens_per_second']:,.0f} {item}s/s streamed, {facts['single_tokens_per_second']:,.0f} one after another"),
        *_prompt_rows(facts),
        ("slowest", f"region '{facts['slowest']}'"),
    ]
    if "host_bytes" in facts:
        sent, come = facts["host_bytes"], facts["host_cycles"]
        rows.append(("host", f"{sent:,} B of weights for each {item}: {come:,} cycles at its link, {come / cycles:.0%} of the time"))
    rows += [("why" if not number else "", text) for number, text in enumerate(facts.get("missed", ()))]
    return rows


def _prompt_rows(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """How prompts are read, where that is in chunks."""
    if "prefill_chunk" not in facts:
        return []
    tokens, cycles = facts["prompt_tokens"], facts["prompt_cycles"]
    rate = facts["clock_hz"] * tokens / cycles
    return [("prompt", f"chunks of {facts['prefill_chunk']} tokens: {tokens} in {cycles:,} cycles, {rate:,.0f} tokens/s")]


def assumption_rows(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Cycles of an item if the figures that no source gives were others."""
    return [("if", one["what"], " to ".join(f"{cycles:,}" for cycles in one["cycles"]) + " cycles") for one in facts.get("assumed", ())]


def tied_rows(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Whether a head and the embedding that it is tied to are kept once, and why not."""
    return [("tied", f"{one['head']} and {one['table']}, {one['bytes']:,} B", _copies(one, facts)) for one in facts.get("tied", ())]


def _copies(one: Mapping[str, Any], facts: Mapping[str, Any]) -> str:
    if one["copies"] == 1:
        waits = f", which finishes each {facts['item']} before it begins the next" if len(facts["regions"]) > 1 else ""
        return f"kept once, in region '{one['regions'][0]}'{waits}"
    if len(one["regions"]) == 1:
        return f"kept twice: they lie differently in region '{one['regions'][0]}'"
    first, second = one["regions"]
    alone, streamed = facts["latency_cycles"], facts["cycles_per_token"]
    machine_bytes = facts["pe_count"] / facts["pe_share"] * facts["sram_limit_bytes"]
    return (
        f"kept twice, in regions '{first}' and '{second}', the second time in {one['bytes'] / machine_bytes:.2%} of the machine's SRAM: a"
        f" region that did both would finish each {facts['item']} before it began the next, {alone:,} cycles for each, not {streamed:,}"
    )


def region_rows(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """Where every region lies, and what an item costs it."""
    return [
        (
            region["name"],
            f"{region['width']} x {region['height']} at ({region['x']}, {region['y']})",
            f"{region['cycles']:,} cycles",
            f"{region['sram_bytes']:,} B per PE",
            f"{region['kernels']} kernels",
        )
        for region in facts["regions"]
    ]


def memory_rows(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """SRAM per PE of every region: what stays, and what is there at the peak."""
    limit = facts["sram_limit_bytes"]
    rows: list[tuple[str, ...]] = []
    for region in facts["regions"]:
        free = limit - region["sram_bytes"]
        stays = f"{region['resident_bytes']:,} B stay"
        rows.append((region["name"], f"{region['sram_bytes']:,} of {limit:,} B", stays, f"{free:,} B free", f"{region['area']:,} PEs"))
    return rows


def sparsity_rows(facts: Mapping[str, Any]) -> list[tuple[str, ...]]:
    """The kernel of each kind of linear layer, and below which densities sparse ones would cost less. None for another target's facts."""
    linears = facts.get("linears", [])
    if not linears:
        return []
    rows: list[tuple[str, ...]] = [
        ("linear layer", "size", "PEs", "density", "kernel", "sparse wins, one token", "sparse wins, 128 tokens")
    ]
    for row in linears:
        where = f"{row['where']} and {row['layers'] - 1} more" if row["layers"] > 1 else row["where"]
        size = f"{row['k']} x {row['n']}"
        rows.append((where, size, row["grid"], f"{row['density']:.1%}", row["kernel"], _won(row["decode"]), _won(row["prefill"])))
    return rows


def _won(densities: Mapping[str, float]) -> str:
    found = [f"{name} below {density:.1%}" for name, density in densities.items() if density > 0]
    return ", ".join(found) or "never"

"""How the facts of a wafer plan are shown, where a report has them right and where somebody made them up."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from tests.json_mutations import JSON_EDITS, JsonEdits, mutate_json

from cgptc.cli.wafer_facts import require_wafer_facts
from cgptc.cli.wafer_rows import assumption_rows, memory_rows, region_rows, sparsity_rows, tied_rows, wafer_rows
from cgptc.ir.diagnostics import MalformedError

LINEAR = {"where": "h.0.mlp", "layers": 3, "k": 64, "n": 32, "grid": "4x2", "kernel": "blocks 16x16", "density": 0.25}
REGION = {
    "name": "all",
    "x": 0,
    "y": 0,
    "width": 2,
    "height": 2,
    "cycles": 90,
    "area": 4,
    "sram_bytes": 50,
    "resident_bytes": 40,
    "kernels": 7,
}
FACTS: dict[str, Any] = {
    "machine": "wse2",
    "clock_hz": 1e9,
    "strategy": "pipeline",
    "dtype": "f32",
    "context": 8,
    "item": "token",
    "pe_count": 8,
    "pe_share": 0.5,
    "sram_limit_bytes": 60,
    "sram_bytes": {"min": 40, "mean": 45, "max": 50},
    "cycles_per_token": 90,
    "latency_cycles": 180,
    "prefill_chunk": 4,
    "prompt_tokens": 8,
    "prompt_cycles": 300,
    "bound_cycles": 30,
    "host_bytes": 100,
    "host_cycles": 20,
    "missed": ["weights take too much"],
    "assumed": [{"what": "a hop of 1 to 2 cycles", "cycles": [90, 95]}],
    "tokens_per_second": 1.1e7,
    "single_tokens_per_second": 5e6,
    "slowest": "all",
    "linears": [{**LINEAR, "decode": {"rows": 0.5}, "prefill": {"rows": 0.1}}],
    "tied": [
        {"table": "wte", "head": "head", "regions": ["all", "rest"], "bytes": 40, "copies": 2},
        {"table": "wte", "head": "head", "regions": ["all"], "bytes": 40, "copies": 1},
    ],
    "regions": [REGION, {**REGION, "name": "rest", "x": 2}],
}


def show_all(facts: dict[str, Any]) -> int:
    """How many rows there are, of a report's facts that were looked at first."""
    require_wafer_facts(facts, "report.json")
    shown = (wafer_rows, assumption_rows, tied_rows, region_rows, memory_rows, sparsity_rows)
    return sum(len(rows(facts)) for rows in shown)


def test_every_fact_is_shown() -> None:
    assert show_all(FACTS) > 15


@given(edits=JSON_EDITS)
def test_facts_that_somebody_made_up_are_shown_or_refused(edits: JsonEdits) -> None:
    facts = json.loads(mutate_json(json.dumps({"backend": FACTS}).encode(), edits))
    if isinstance(facts, dict) and isinstance(facts.get("backend"), dict):
        with suppress(MalformedError):
            show_all(facts["backend"])


@pytest.mark.parametrize("name", FACTS)
def test_a_fact_that_is_not_what_it_should_be_is_named(name: str) -> None:
    with pytest.raises(MalformedError, match=f"no fit 'backend.{name}"):
        show_all({**FACTS, name: -1})


def test_the_densities_below_which_sparse_kernels_win_are_told_for_one_token_and_many() -> None:
    won = {"decode": {"rows": 0.0, "blocks 16x16": 0.875}, "prefill": {"rows": 0.5, "blocks 16x16": 0.9}}
    header, row = sparsity_rows({"linears": [{**LINEAR, **won}]})
    assert len(header) == len(row)
    assert row[:5] == ("h.0.mlp and 2 more", "64 x 32", "4x2", "25.0%", "blocks 16x16")
    assert row[5:] == ("blocks 16x16 below 87.5%", "rows below 50.0%, blocks 16x16 below 90.0%")
    (_, never) = sparsity_rows({"linears": [{**LINEAR, "decode": {"rows": 0.0}, "prefill": {}}]})
    assert never[5:] == ("never", "never")
    assert sparsity_rows({}) == []

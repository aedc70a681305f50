"""Prompts in chunks: another entry with the same weights and caches, in less time. What they compute is held in `test_plan`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.backends.onnx.tiny_gpt import TinyGpt
from tests.backends.wafer.planned import planned, token_inputs

from cgptc.backends.wafer.clock import timeline
from cgptc.backends.wafer.emission import emit_program, plan_graph
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.options import WaferOptions
from cgptc.backends.wafer.plan.prefill import PREFILL
from cgptc.backends.wafer.session import WaferSession
from cgptc.ir.comparison import graph_depth
from cgptc.ir.diagnostics import CompileError, Exit, UsageError
from cgptc.testing.tolerances import assert_t1

SMALL = TinyGpt(layers=1, heads=2, key_heads=1, head_width=4)


@pytest.mark.parametrize("strategy", ["resident", "pipeline", "weight-streaming"])
def test_both_engines_read_chunks_alike(strategy: str) -> None:
    graph = SMALL.graph()
    inputs = token_inputs(graph, 1, 7)
    fast, slow = (planned(graph, (2, 3), strategy, "f32", fidelity=name, chunk=3) for name in ("fast", "pe"))
    expected, found = fast.session.run(inputs), slow.session.run(inputs)
    for name, array in expected.items():
        np.testing.assert_array_equal(array, found[name], err_msg=name)
    assert fast.session.usage.cycles == slow.session.usage.cycles
    assert fast.session.usage.chunks >= 2


def test_weights_and_caches_are_those_of_tokens_one_by_one() -> None:
    graph = SMALL.graph()
    alone, both = (planned(graph, (3, 4), "pipeline", "f32", chunk=chunk).plan for chunk in (1, 4))
    shared = [one for one in both.program.bindings if one.role in ("weight", "state")]
    assert shared == [one for one in alone.program.bindings if one.role in ("weight", "state")]
    assert both.program.streams == alone.program.streams
    assert [entry.name for entry in both.program.entries] == ["run", PREFILL]
    held = {one.buffer for one in shared}
    for region, other in zip(both.program.regions, alone.program.regions, strict=True):
        mine, theirs = ({one.name: one.bytes for one in each.buffers if one.name in held} for each in (region, other))
        assert mine == theirs


def test_a_prompt_takes_fewer_cycles_in_chunks_and_its_decoder_says_so() -> None:
    graph = SMALL.graph()
    one_by_one, in_chunks = (planned(graph, None, "pipeline", "f64", small_machine(24, 24), chunk=chunk) for chunk in (1, None))
    assert in_chunks.plan.chunk > 1
    ids = np.arange(14)[None] % 23
    logits = []
    for made in (one_by_one, in_chunks):
        decoder = made.session.decoder()
        logits.append([decoder.prefill(ids, np.ones_like(ids)), decoder.step(np.array([3]))])
    for alone, together in zip(*logits, strict=True):
        assert_t1(alone, together, depth=graph_depth(graph))
    assert in_chunks.session.usage.prompt_cycles < one_by_one.session.usage.prompt_cycles
    (_, prompt) = in_chunks.session.notes()
    assert prompt.startswith("prompt: 14 tokens by ")


def test_a_few_tokens_fill_a_chunk_where_that_is_faster() -> None:
    session = planned(SMALL.graph(), (4, 4), "resident", "f32", chunk=8).session
    session.read({"input_ids": np.arange(7)}, 0)
    assert session.usage.chunks == 1
    assert session.usage.cycles == timeline(session.program, PREFILL, {"past": 0, "chunks": 1}).cycles
    session.read({"input_ids": np.arange(1)}, 7)
    assert session.usage.chunks == 1
    session.read({"input_ids": np.arange(7)}, 25)  # a chunk would leave the cache
    assert session.usage.chunks == 1


def test_chunks_without_room_are_not_taken_and_refused_where_they_are_asked_for(tmp_path: Path) -> None:
    tight = planned(SMALL.graph(), (2, 2), "resident", "f32").plan
    used = max(one.address + one.bytes for region in tight.program.regions for one in region.buffers)
    machine = small_machine(2, 2, sram_bytes=used + tight.program.machine.reserved_bytes + 64)
    assert planned(SMALL.graph(), (2, 2), "resident", "f32", machine, chunk=None).plan.chunk == 1
    with pytest.raises(CompileError, match="chunks of 32 tokens") as caught:
        plan_graph(TinyGpt(vocabulary=2000).graph(), WaferOptions("small-5x5", prefill_chunk=32))
    assert caught.value.exit == Exit.DOES_NOT_FIT
    with pytest.raises(UsageError, match="reads no token"):
        WaferOptions(prefill_chunk=0)


def test_an_artifact_reads_chunks_from_its_files_alone(tmp_path: Path) -> None:
    emitted = emit_program(SMALL.graph(), tmp_path, WaferOptions("small-24x24", grid="2x2", prefill_chunk=4))
    assert emitted.facts["prefill_chunk"] == 4
    session = WaferSession.open(tmp_path)
    session.run({"input_ids": np.arange(9)[None]})
    assert session.usage.chunks == 2

"""The planner's steps, one by one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.backends.onnx.tiny_gpt import TinyGpt
from tests.backends.wafer.drawn_graphs import Drawing
from tests.backends.wafer.noise import assert_within_noise
from tests.backends.wafer.planned import planned

from cgptc.backends.registry import backend
from cgptc.backends.wafer.emission import emit_program, plan_graph
from cgptc.backends.wafer.host import HostCache, read_host
from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.options import WaferOptions
from cgptc.backends.wafer.plan.choose import DoesNotFitError
from cgptc.backends.wafer.plan.lifting import lift
from cgptc.backends.wafer.plan.pack import pack
from cgptc.backends.wafer.plan.stages import groups
from cgptc.backends.wafer.plan.tasks import Task, shortened
from cgptc.backends.wafer.plan.works import AttendWork, LinearWork, LookupWork
from cgptc.backends.wafer.session import WaferSession
from cgptc.backends.wafer.weights_file import WeightsFile
from cgptc.ir.builder import Builder
from cgptc.ir.diagnostics import CompileError, Exit, UsageError
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import boolean, f32
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.masked_weights import Masked
from cgptc.ir.ops.binary import Add, Mul
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.elementwise import Cos, Erf, Neg
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.ops.shape import Flip, Split
from cgptc.ir.types import TensorType
from cgptc.ir.weights import MemoryStore, Stored, dense
from cgptc.testing.tolerances import assert_t3, noise_floor

SMALL = TinyGpt(layers=1, heads=2, key_heads=1, head_width=4)


def _vectors(width: int) -> tuple[Graph, Builder, TensorType]:
    """A graph over ``[batch, seq, width]`` with weights, its builder, and its input's type."""
    type_ = TensorType(f32, (Symbol("batch", 1, 4).dim, Symbol("seq", 1, 8).dim, width))
    graph = Graph("vectors", MemoryStore({"w": np.arange(width * 6, dtype=np.float32).reshape(width, 6)}))
    return graph, Builder(graph), type_


def test_a_gpt_is_read_as_lookups_layers_and_a_head() -> None:
    tasks, refused = lift(SMALL.graph())
    assert refused == []
    assert tasks is not None
    kinds = [type(task.work) for task in tasks.tasks]
    assert kinds.count(AttendWork) == 1
    assert kinds.count(LookupWork) == 2
    assert kinds.count(LinearWork) == 7
    assert [cache.present_key for cache in tasks.caches] == ["present.0.key"]


def test_parts_of_a_linear_layer_are_layers_of_their_own_columns() -> None:
    graph, build, type_ = _vectors(4)
    x = graph.add_input("x", type_)
    left, right = build.all(Split(2, (2, 4)), build(Linear(), x, build.weight(Stored("w", f32, (4, 6)))))
    graph.add_output("left", left)
    graph.add_output("right", build(Neg(), right))
    made = planned(graph, (2, 2), "resident", "f32")
    given = np.arange(12, dtype=np.float32).reshape(1, 3, 4)
    expected = given @ np.arange(24, dtype=np.float32).reshape(4, 6)
    found = made.session.run({"x": given})
    np.testing.assert_array_equal(found["left"], expected[..., :2])
    np.testing.assert_array_equal(found["right"], -expected[..., 2:])


def test_every_node_without_a_place_is_named_with_its_reason() -> None:
    graph, build, type_ = _vectors(4)
    x = graph.add_input("x", type_)
    graph.add_output("turned", build(Neg(), build(Flip((1,)), x)))
    graph.add_output("again", build(Flip((2,)), build(Erf(), x)))
    refusals = backend("wafer").check(graph, WaferOptions())
    assert len(refusals) == 2
    with pytest.raises(CompileError, match="wafer cannot lower 2 nodes") as caught:
        plan_graph(graph, WaferOptions())
    assert caught.value.exit == Exit.UNSUPPORTED


def test_tasks_of_one_layer_share_a_region_and_the_rest_stands_apart() -> None:
    work = LinearWork(2, 2, False)
    tasks = [Task(str(i), work, (), (), path) for i, path in enumerate(["emb", "h.0.a", "", "h.0.b", "h.1.a", "norm", "head"])]
    assert [(one.name, len(one.tasks)) for one in groups(tasks)] == [("embedding", 1), ("h.0", 3), ("h.1", 1), ("head", 2)]


def test_stages_of_the_graph_are_regions_as_they_are() -> None:
    work = LinearWork(2, 2, False)
    tasks = [Task(str(i), work, (), (), "h.0", stage) for i, stage in enumerate([0, 0, 1])]
    assert [(one.name, len(one.tasks)) for one in groups(tasks)] == [("stage-0", 2), ("stage-1", 1)]


def test_shelves_run_to_and_fro_so_that_neighbours_abut() -> None:
    assert pack([Grid(4, 6), Grid(3, 4), Grid(2, 5)], small_machine(10, 8)) == [(0, 0), (6, 0), (5, 4)]
    assert pack([Grid(4, 6), Grid(4, 6), Grid(4, 6)], small_machine(10, 8)) is None


def test_what_does_not_fit_says_what_is_needed_where_and_what_would_help() -> None:
    with pytest.raises(DoesNotFitError, match=r"needs .* bytes of SRAM per PE and has") as caught:
        planned(SMALL.graph(), None, "pipeline", "f32", small_machine(2, 2, sram_bytes=7000))
    assert "--machine" in caught.value.fix
    with pytest.raises(DoesNotFitError, match="a grid of 99999x1 is larger than small-2x2, which has 2 x 2 PEs"):
        planned(SMALL.graph(), (99999, 1), "pipeline", "f32", small_machine(2, 2))
    with pytest.raises(DoesNotFitError, match="regions of 6x6 PEs do not fit on small-8x8") as grid:
        planned(SMALL.graph(), (6, 6), "pipeline", "f32", small_machine(8, 8))
    assert grid.value.fix == "leave out --grid: then it fits"


@pytest.mark.parametrize(("machine", "strategy"), [("small-1x2", "pipeline"), ("small-1x2", "auto"), ("small-2x1", "resident")])
def test_each_change_that_is_named_is_enough_alone(machine: str, strategy: str) -> None:
    graph = TinyGpt(layers=1, heads=2, head_width=4, vocabulary=2000, tied=False).graph()
    options = WaferOptions(machine, strategy, prefill_chunk=1)
    with pytest.raises(CompileError, match="does-not-fit") as told:
        plan_graph(graph, options)
    assert told.value.exit == Exit.DOES_NOT_FIT
    for change in told.value.fix.removeprefix("it fits with ").split(" or with "):
        flag, value = change.removeprefix("--").split(" ")
        changed: dict[str, Any] = {flag.replace("-", "_"): int(value) if flag == "context" else value}
        plan_graph(graph, replace(options, **changed))


def test_shorter_rows_need_smaller_tables() -> None:
    tasks, _ = lift(TinyGpt(layers=1, rotary=True).graph())
    assert tasks is not None
    short = shortened(tasks, 5)
    assert short.context == 5
    assert {weight.shape[0] for task in short.tasks for role, weight in task.weights if role in ("cosines", "sines")} == {5}


def test_an_artifact_runs_from_its_files_alone(tmp_path: Path) -> None:
    graph = SMALL.graph()
    emitted = emit_program(graph, tmp_path, WaferOptions("small-24x24", grid="2x2"))
    assert set(emitted.files) == {path.name for path in tmp_path.iterdir()}
    session = WaferSession.open(tmp_path)
    logits = session.run({"input_ids": np.array([[3, 4]])})["logits"]
    again = WaferSession.open(tmp_path, "pe").run({"input_ids": np.array([[3, 4]])})["logits"]
    np.testing.assert_array_equal(logits, again)
    assert session.notes()
    assert len(WeightsFile(tmp_path)) == sum(binding.role == "weight" for binding in session.program.bindings)


def test_the_order_of_a_cache_comes_back_from_its_file(tmp_path: Path) -> None:
    emit_program(TinyGpt(layers=1, rotary=True).graph(), tmp_path, WaferOptions("small-24x24", grid="2x2"))
    keys, values = read_host(tmp_path).caches
    assert sorted(keys.order) == list(range(keys.features))
    assert keys.order != tuple(range(keys.features))
    assert replace(values, order=()) == values
    assert isinstance(values, HostCache)


def test_more_tokens_than_the_program_holds_are_refused(tmp_path: Path) -> None:
    session = planned(SMALL.graph(), (2, 2), "resident", "f32").session
    with pytest.raises(UsageError, match="the program holds 32"):
        session.read({"input_ids": np.zeros(20, np.int64)}, 20)


@pytest.mark.parametrize("given", [{"grid": "4by4"}, {"objective": "speed"}, {"context": 0}, {"machine": "wse9"}])
def test_wrong_options_are_told(given: dict[str, object]) -> None:
    with pytest.raises(UsageError):
        plan_graph(SMALL.graph(), WaferOptions(**given))  # type: ignore[arg-type]


def _sparse(block: int, share: float) -> Graph:
    """A linear layer of 64 by 64 of whose blocks that share is zero."""
    random = np.random.default_rng(4)
    graph = Graph("sparse", MemoryStore({}))
    assert isinstance(graph.store, MemoryStore)
    stored, kept = Stored("w", f32, (64, 64)), Stored("kept", boolean, (64, 64))
    lines = 64 // block
    graph.store.tensors["w"] = random.standard_normal((64, 64)).astype(np.float32)
    graph.store.tensors["kept"] = np.kron(random.random((lines, lines)) >= share, np.ones((block, block), np.bool_))
    build = Builder(graph)
    x = graph.add_input("x", TensorType(f32, (Symbol("batch", 1, 4).dim, Symbol("seq", 1, 8).dim, 64)))
    weight = Masked(stored, kept, pattern=f"block:{block}x{block}" if block > 1 else "unstructured")
    graph.add_output("y", build(Linear(), x, build(Constant(weight))))
    return graph


@pytest.mark.parametrize(("block", "share", "kernel"), [(16, 0.9, "linear-sparse-blocks"), (1, 0.5, "linear")])
def test_the_planner_takes_a_sparse_kernel_where_zeros_pay(block: int, share: float, kernel: str, tmp_path: Path) -> None:
    graph = _sparse(block, share)
    made = planned(graph, (2, 2), "resident", "f32")
    (fitted,) = made.plan.fitted
    assert [fragment.kernel for fragment in fitted.fragments] == [kernel]
    x = np.random.default_rng(5).standard_normal((2, 3, 64)).astype(np.float32)
    exact = evaluate_graph(graph, {"x": x}, wide=True)["y"]
    found = made.session.run({"x": x})["y"]
    assert_t3(exact, found, noise_floor(exact, [evaluate_graph(graph, {"x": x})["y"]]))
    emitted = emit_program(graph, tmp_path, WaferOptions("small-24x24", grid="2x2", execution_strategy="resident"))
    np.testing.assert_array_equal(WaferSession.open(tmp_path).run({"x": x})["y"], found)
    (row,) = emitted.facts["linears"]  # type: ignore[misc]
    assert str(row["kernel"]).partition(" ")[0] == ("blocks" if block > 1 else "dense")
    assert row["prefill"]["rows"] > 0 == row["decode"]["rows"]


def test_layers_that_are_priced_once_cost_what_each_costs_alone() -> None:
    made = planned(TinyGpt(layers=3).graph(), None, "pipeline", "f32", small_machine(24, 24)).plan
    shared = made.sizer
    for one, cost in zip(made.fitted, made.choice.costs, strict=True):
        alone = replace(shared)
        assert alone.cost(one.group, cost.grid) == shared.cost(one.group, cost.grid) == cost
        assert alone.fit(one.group, cost.grid).fragments == one.fragments


@pytest.mark.parametrize(
    ("strategy", "fields", "needs"),
    [
        ("pipeline", {"colours": 5}, "colours = 12"),
        ("auto", {"colours": 5, "switch_positions": 1}, "colours = 10 and switch_positions = 2"),
        ("weight-streaming", {"switch_positions": 1}, "switch_positions = 3"),
    ],
)
def test_a_machine_of_too_few_colours_or_switch_positions_says_how_many_would_fit(
    strategy: str, fields: dict[str, int], needs: str
) -> None:
    """And with those it does; `auto` takes one region where streams have no colour."""
    small = replace(small_machine(5, 5), **fields)  # type: ignore[arg-type]
    with pytest.raises(DoesNotFitError, match=rf"and small-5x5 has {next(iter(fields.values()))} .* of {needs}$") as caught:
        planned(SMALL.graph(), None, strategy, "f32", small)
    assert caught.value.lines
    named = {name: int(count) for name, count in (one.split(" = ") for one in needs.split(" and "))}
    assert planned(SMALL.graph(), None, strategy, "f32", replace(small, **named)).plan.program  # type: ignore[arg-type]


def test_streams_that_meet_on_every_colour_do_not_fit_and_say_what_would() -> None:
    drawing = Drawing()
    x = drawing.start(crosses=False)
    drawing.layer(0)
    first = last = drawing.linear(x)
    for number in (1, 2):
        drawing.layer(number)
        last = drawing.build(Add(), drawing.linear(last), first)
    drawing.graph.add_output("y", last)
    small = replace(small_machine(4, 4), colours=11)
    with pytest.raises(DoesNotFitError, match="--machine of colours = 19 or with --execution-strategy resident"):
        planned(drawing.graph, None, "pipeline", "f32", small)
    assert planned(drawing.graph, None, "auto", "f32", small).plan.strategy == "resident"
    assert planned(drawing.graph, None, "pipeline", "f32", replace(small, colours=19)).plan.strategy == "pipeline"


@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_what_is_worked_out_of_constants_alone_is_a_constant(dtype: str) -> None:
    graph, build, type_ = _vectors(6)
    x = graph.add_input("x", type_)
    row = build(Cos(), build.weight(dense(np.linspace(0, 3, 6, dtype=np.float32))))
    graph.add_output("y", build(Add(), build(Mul(), x, build(Add(), row, row)), row))
    made = planned(graph, (2, 2), "resident", dtype)
    given = {"x": np.arange(18, dtype=np.float32).reshape(1, 3, 6)}
    assert_within_noise(graph, given, "y", made.session.run(given)["y"], dtype)

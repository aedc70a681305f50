"""From a legal graph to a wafer artifact's files."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from cgptc.backends.registry import Emitted, Refusal
from cgptc.backends.wafer.boundary import planning
from cgptc.backends.wafer.host import HOST_FILE, Host, HostCache, HostInput, HostMark, HostOutput, HostPart, write_host
from cgptc.backends.wafer.inflow import nonzeros
from cgptc.backends.wafer.kernels.rotary import pair_order
from cgptc.backends.wafer.layout import Array, Layout
from cgptc.backends.wafer.machine import find_machine
from cgptc.backends.wafer.options import WaferOptions
from cgptc.backends.wafer.plan.fragments import buffer_of
from cgptc.backends.wafer.plan.lifting import Refused, lift
from cgptc.backends.wafer.plan.planner import ENTRY, Aim, Plan, plan
from cgptc.backends.wafer.plan.prefill import PREFILL
from cgptc.backends.wafer.plan.tasks import Tasks, shortened
from cgptc.backends.wafer.plan.works import AttendWork
from cgptc.backends.wafer.program import Nonzeros
from cgptc.backends.wafer.report.floorplan import floorplan_svg
from cgptc.backends.wafer.serial import program_text
from cgptc.backends.wafer.summary import facts_of
from cgptc.backends.wafer.weights_file import WEIGHTS_FILE, write_weights_file
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.dtypes import DTYPES, f16
from cgptc.ir.graph import Graph
from cgptc.ir.weight_expressions import converted, leaves
from cgptc.ir.weight_ranges import overflow
from cgptc.ir.weights import Stored, Weight

PROGRAM_FILE, FLOORPLAN_FILE = "program.json", "floorplan.svg"


def refusals_of(graph: Graph) -> list[Refusal]:
    """Every node that has no place on the wafer."""
    return _shown(lift(graph)[1])


def plan_graph(graph: Graph, options: WaferOptions, *, read: bool = False) -> tuple[Tasks, Plan]:
    """The plan of a legal graph. Reads no weight, unless with ``read`` the zeros of those that come from off the wafer.

    Raises `CompileError` with exit 5 for nodes that have no place, exit 6 where the machine has no room, `UsageError` for a wrong machine.
    """
    tasks, refused = lift(graph, options.context)
    if tasks is None:
        shown = _shown(refused)
        what = f"wafer cannot lower {len(shown)} node{'s' if len(shown) != 1 else ''}"
        fix = "cgptc compile … --target onnx supports it"
        raise CompileError("unsupported-op", what, fix=fix, details=[line for one in shown for line in one.lines()])
    tasks = shortened(tasks, tasks.context)
    with planning():
        aim = Aim(find_machine(options.machine), options.execution_strategy, options.objective, options.chosen_grid, options.prefill_chunk)
        dtype = dtype_of(tasks, options)

        def counted(weight: Weight, layout: Layout) -> Nonzeros:
            return nonzeros(layout, converted(weight, DTYPES[dtype]).read(graph.store))[0]

        return tasks, plan(tasks, aim, dtype, counted if read else None)


def dtype_of(tasks: Tasks, options: WaferOptions) -> str:
    """The program's element type."""
    if options.dtype is not None:
        return options.dtype
    return tasks.dtype if tasks.dtype in ("f32", "f16") else "f32"


def emit_program(graph: Graph, folder: Path, options: WaferOptions) -> Emitted:
    """Write program, weights and host description. The errors are `plan_graph`'s, and ``overflow`` for a weight beyond its type."""
    tasks, planned = plan_graph(graph, options, read=True)
    dtype = dtype_of(tasks, options)
    (folder / PROGRAM_FILE).write_text(program_text(planned.program), encoding="ascii")
    write_host(host_of(tasks, dtype, planned.chunk), folder)

    def blocks(name: str) -> Iterator[Array]:
        weight, to = planned.weights[name], DTYPES[tensors[name][0]]
        for block in converted(weight, to).blocks(graph.store):
            # What a mask makes of numbers beyond all is meant; what a checkpoint holds must fit.
            stored = to is f16 and np.isinf(block).any() and any(isinstance(leaf, Stored) for leaf in leaves(weight))
            if stored and (fault := overflow(weight, to, graph.store)):
                raise CompileError("overflow", fault, fix="compile with --dtype f32")
            yield block

    tensors = {name: (dtype if weight.dtype.is_float else weight.dtype.name, weight.shape) for name, weight in planned.weights.items()}
    weight_bytes = write_weights_file(folder, tensors, blocks)
    (folder / FLOORPLAN_FILE).write_text(floorplan_svg(planned.program), encoding="utf-8")
    return Emitted(
        (PROGRAM_FILE, WEIGHTS_FILE, HOST_FILE, FLOORPLAN_FILE), {**facts_of(tasks, planned, dtype), "weight_bytes": weight_bytes}
    )


def host_of(tasks: Tasks, dtype: str, chunk: int = 1) -> Host:
    """What the host must know to feed the program, which reads prompts in chunks of so many tokens."""
    feeds = tasks.hosted
    works = {task.name: task.work for task in tasks.tasks}
    caches: list[HostCache] = []
    for cache in tasks.caches:
        work = works[cache.task]
        assert isinstance(work, AttendWork)
        order = pair_order(work.head_dim, work.rotated, interleaved=work.interleaved) if work.rotated else ()
        caches.append(HostCache(f"{cache.task}.keys", work.kv_heads, work.head_dim, cache.past_key, cache.present_key, order))
        caches.append(HostCache(f"{cache.task}.values", work.kv_heads, work.head_dim, cache.past_value, cache.present_value))
    return Host(
        tuple(
            HostInput(feed.name, feed.value, feed.width == 0 and feed.exact, " ".join(feed.axes), feed.rows, feed.filler, feed.start)
            for feed in tasks.feeds
        ),
        tuple(
            HostOutput(
                one.name,
                buffer_of(one.value, feeds),
                tasks.dtype if tasks.dtype != "bf16" else dtype,
                " ".join(one.axes),
                one.features,
            )
            for one in tasks.outputs
        ),
        tuple(caches),
        tasks.mask,
        tasks.context,
        ENTRY,
        tasks.whole,
        tuple(HostMark(mark.value, mark.sequence, mark.rows, mark.mask, mark.inverted) for mark in tasks.marks),
        tuple(HostPart(part.sequence, part.of, part.difference) for part in tasks.parts),
        PREFILL if chunk > 1 else "",
        chunk,
    )


def _shown(refused: Sequence[Refused]) -> list[Refusal]:
    return [Refusal(one.node.location, repr(one.node), one.reason) for one in refused]

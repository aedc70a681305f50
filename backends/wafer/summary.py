"""What a plan comes to, as the manifest and the command line give it. All figures are of the modelled machine, none is measured."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.clock import Pricer, timeline, waits_for_return
from cgptc.backends.wafer.inflow import parcel_cost
from cgptc.backends.wafer.kernels.fragment import Kernel
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.kernels.mlp import SpreadMlp, TiledMlp
from cgptc.backends.wafer.kernels.sparse import SparseLinear, winning_densities
from cgptc.backends.wafer.machine import assumptions
from cgptc.backends.wafer.plan.layouts import CHUNKS, LENGTH, PAST
from cgptc.backends.wafer.plan.merit import last_item, last_items
from cgptc.backends.wafer.plan.planner import ENTRY, Plan
from cgptc.backends.wafer.plan.prefill import PREFILL, PROMPT
from cgptc.backends.wafer.plan.tasks import Task, Tasks
from cgptc.backends.wafer.plan.works import LinearWork
from cgptc.backends.wafer.plan.zero_patterns import Zeros
from cgptc.backends.wafer.program import Program
from cgptc.backends.wafer.verify import peak_bytes

CHUNK = 128
"""Tokens at once of which a sparse kernel's worth is told beside that of one."""


def facts_of(tasks: Tasks, plan: Plan, dtype: str) -> Mapping[str, object]:
    """Machine, strategy, regions, SRAM, and the cycles of a token at the last positions of a full row."""
    program = plan.program
    machine = program.machine
    scalars = last_items(tasks)
    pricer = Pricer(machine)
    clock = timeline(program, ENTRY, scalars, pricer)
    alone = timeline(program, ENTRY, last_item(tasks), pricer)
    interval = clock.initiation_interval()
    used = {region.name: peak_bytes(program, region) for region in program.regions}
    areas = {region.name: region.rectangle.area for region in program.regions}
    total = sum(areas.values())
    # A region that waits for each item to come back holds up all others, however long they work.
    slowest = max(program.regions, key=lambda region: (waits_for_return(region.steps(ENTRY)), clock.busy(region.name)))
    macs = sum(task.rows * task.work.k * task.work.n for task in tasks.tasks if isinstance(task.work, LinearWork))
    lanes = dict(machine.mac_lanes).get("f32" if dtype == "f16" else dtype, 1.0)
    return {
        "machine": machine.name,
        "clock_hz": machine.clock_hz,
        "strategy": plan.strategy,
        "dtype": dtype,
        "context": tasks.context,
        "item": "row" if tasks.whole else "token",
        "pe_count": total,
        "pe_share": total / (machine.width * machine.height),
        "sram_limit_bytes": machine.usable_bytes,
        "sram_bytes": {
            "min": min(used.values()),
            "mean": round(sum(used[name] * area for name, area in areas.items()) / total),
            "max": max(used.values()),
        },
        "cycles_per_token": math.ceil(interval),
        "latency_cycles": alone.cycles,
        **_prompt_facts(tasks, plan, pricer),
        "bound_cycles": math.ceil(macs / lanes / total),
        **_host_facts(program, plan),
        "assumed": [
            {"what": what, "cycles": [math.ceil(_interval(replace(program, machine=one), scalars)) for one in ends]}
            for what, *ends in assumptions(machine)
        ],
        "tokens_per_second": machine.clock_hz / interval,
        "single_tokens_per_second": machine.clock_hz / alone.cycles,
        "slowest": slowest.name,
        "linears": linear_rows(plan),
        "tied": _tied_rows(plan),
        "regions": [
            {
                "name": region.name,
                "x": region.rectangle.x,
                "y": region.rectangle.y,
                "width": region.rectangle.width,
                "height": region.rectangle.height,
                "cycles": clock.busy(region.name) // scalars[LENGTH],
                "area": areas[region.name],
                "sram_bytes": used[region.name],
                "resident_bytes": sum(buffer.bytes for buffer in region.buffers if buffer.resident),
                "kernels": len(fitted.kernels),
            }
            for region, fitted in zip(program.regions, plan.fitted, strict=True)
        ],
    }


def linear_rows(plan: Plan) -> list[dict[str, object]]:
    """Linear layers that differ in size, grid or zeros: the kernel that serves them, and below which density of non-zeros each sparse
    kernel would cost less than the dense one, for one token and for `CHUNK` tokens at once.
    """
    found: dict[tuple[object, ...], dict[str, object]] = {}
    counts: dict[tuple[object, ...], int] = {}
    for fitted in plan.fitted:
        for task, kernel, fragment in zip(fitted.group.tasks, fitted.kernels, fitted.fragments, strict=True):
            thin = any(slot.nonzeros is not None for slot in fragment.parcels)
            for dense, zeros, form in _layers(task, kernel):
                key = (dense.k, dense.n, dense.grid, zeros, thin)
                counts[key] = counts.get(key, 0) + 1
                if key in found:
                    continue
                found[key] = {
                    "where": task.path or task.name,
                    "k": dense.k,
                    "n": dense.n,
                    "grid": f"{dense.grid.width}x{dense.grid.height}",
                    "kernel": f"{form}, zeros not sent" if thin else form,
                    "density": 1.0 if zeros is None else zeros.density,
                    "decode": _won(replace(dense, m=1, rows=None), plan),
                    "prefill": _won(replace(dense, m=CHUNK, rows=None), plan),
                }
    return [{**row, "layers": counts[key]} for key, row in found.items()]


def _layers(task: Task, kernel: Kernel) -> Iterator[tuple[Linear, Zeros | None, str]]:
    """The linear layers that a kernel serves: each as the dense kernel would, the zeros of its weight, and by which kernel it is served."""
    match kernel:
        case Linear():
            yield kernel, _zeros(task), "dense"
        case SparseLinear(dense=dense, form="blocks", block=(deep, wide)):
            yield dense, _zeros(task), f"blocks {deep}x{wide}"
        case SparseLinear(dense=dense, form=form):
            yield dense, _zeros(task), form
        case SpreadMlp():
            yield from ((one, None, "dense") for one in kernel.linears.values())
        case TiledMlp(product=product):
            yield from ((one, None, f"tiles, {product}") for one in kernel.spread.linears.values())


def _zeros(task: Task) -> Zeros | None:
    assert isinstance(task.work, LinearWork)
    return task.work.zeros


def _tied_rows(plan: Plan) -> list[dict[str, object]]:
    """Tables that are the weights of linear layers too: where both are used, and how often what the bytes say is kept."""
    tasks = {task.name: (task, fitted) for fitted in plan.fitted for task in fitted.group.tasks}
    found: list[dict[str, object]] = []
    for lookup, head in plan.sizer.ties.items():
        (table, here), (linear, there) = tasks[lookup], tasks[head]
        assert isinstance(linear.work, LinearWork)
        found.append(
            {
                "table": table.path or lookup,
                "head": linear.path or head,
                "regions": list(dict.fromkeys(one.group.name for one in (here, there))),
                "bytes": linear.work.k * linear.work.n * format_of(plan.sizer.dtype).bytes,
                "copies": 1 if lookup in here.shared else 2,
            }
        )
    return found


def _won(dense: Linear, plan: Plan) -> dict[str, float]:
    return {name: round(density, 4) for name, density in winning_densities(dense, plan.program.machine).items()}


def _interval(program: Program, scalars: Mapping[str, int]) -> float:
    return timeline(program, ENTRY, scalars).initiation_interval()


def _prompt_facts(tasks: Tasks, plan: Plan, pricer: Pricer) -> dict[str, object]:
    """What a prompt takes in chunks, and how many tokens a chunk has; nothing where prompts are read one by one."""
    if plan.chunk == 1:
        return {}
    chunks = min(PROMPT, tasks.context) // plan.chunk
    clock = timeline(plan.program, PREFILL, {PAST: 0, CHUNKS: chunks}, pricer)
    return {"prefill_chunk": plan.chunk, "prompt_tokens": chunks * plan.chunk, "prompt_cycles": clock.cycles}


def _host_facts(program: Program, plan: Plan) -> dict[str, object]:
    """What an item's parcels cost at the host's link, and why they come; nothing where weights stay."""
    inflow = program.inflow
    if inflow is None:
        return {}
    box = program.region(inflow.region).rectangle
    costs = [parcel_cost(parcel, inflow.dtype, box, program.machine) for parcel in inflow.parcels]
    return {
        "host_bytes": sum(cost.host_bytes for cost in costs),
        "host_cycles": sum(cost.occupied for cost in costs),
        "sparse_parcels": sum(parcel.nonzeros is not None for parcel in inflow.parcels),
        "parcels": len(inflow.parcels),
        "missed": list(plan.missed),
    }

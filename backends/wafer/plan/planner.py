"""The planner: tasks and a machine in, a placed program out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from cgptc.backends.wafer.affine import var
from cgptc.backends.wafer.clock import timeline
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.assembly import Stage, pipeline
from cgptc.backends.wafer.kernels.fragment import Grid
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.plan.choose import Choice, DoesNotFitError, choose
from cgptc.backends.wafer.plan.layouts import LENGTH, PAST, direct
from cgptc.backends.wafer.plan.pack import pack
from cgptc.backends.wafer.plan.prefill import Prefill
from cgptc.backends.wafer.plan.remedies import Wanted, remedies
from cgptc.backends.wafer.plan.select import buffer_of, ordered_weights
from cgptc.backends.wafer.plan.size import DEPTH, Counted, Fitted, Sizer, grids
from cgptc.backends.wafer.plan.stages import Group, groups, one_group
from cgptc.backends.wafer.plan.tasks import Tasks, width_of
from cgptc.backends.wafer.program import Program, Scalar
from cgptc.backends.wafer.verify import check
from cgptc.ir.weights import Weight

ENTRY = "run"
MOST_ROWS = 1 << 16
"""Whole rows that one run takes."""

STREAMING = "weight-streaming"


@dataclass(frozen=True)
class Aim:
    """What to plan for. ``grid`` fixes the grid of every region, ``chunk`` the tokens that prompts are read by: None for as many as pay."""

    machine: Machine
    strategy: str = "auto"
    objective: str = "throughput"
    grid: Grid | None = None
    chunk: int | None = None


@dataclass(frozen=True)
class Plan:
    """A program and what it needs of the model: a weight expression for every tensor that it loads.

    ``sizer`` is what priced its regions; ``missed`` says by how much weights did not fit, where that is why they come from off the wafer.
    ``chunk`` are the tokens of an item of the program's second entry, `prefill.PREFILL`, 1 where it has none.
    """

    program: Program
    strategy: str
    choice: Choice
    fitted: tuple[Fitted, ...]
    weights: dict[str, Weight]
    sizer: Sizer
    missed: tuple[str, ...] = ()
    chunk: int = 1


def plan(tasks: Tasks, aim: Aim, dtype: str, counted: Counted | None = None) -> Plan:
    """Place a model. ``counted``, where weights may be read, counts the non-zeros of a matrix in its layout: see `Sizer.fit`.

    Raises DoesNotFitError, and InvalidProgramError where the planner is wrong.
    """
    try:
        chosen = _chosen(tasks, aim, dtype)
    except DoesNotFitError as error:
        raise _explained(error, tasks, aim, dtype) from None
    sizer = chosen.sizer
    plain = _placed(tasks, aim, chosen, None)
    thin = _placed(tasks, aim, chosen, counted) if sizer.streamed and counted is not None else plain
    # What is absorbed as it comes cannot come ahead: where the host's link has time to spare, matrices with their zeros are faster.
    program, fitted = min((plain, thin), key=lambda made: _interval(made[0], tasks))
    weights = {
        name: weight
        for one in fitted
        for task, kernel in zip(one.group.tasks, one.kernels, strict=True)
        for name, weight in ordered_weights(task, one.ground, kernel).items()
    }
    program, chunk = _in_chunks(Prefill(program, ENTRY, fitted, sizer, tasks.context), aim)
    return Plan(check(program), chosen.strategy, chosen.choice, fitted, weights, sizer, chosen.missed, chunk)


def _in_chunks(prefill: Prefill, aim: Aim) -> tuple[Program, int]:
    """The program with an entry that reads prompts in chunks, and their tokens. Raises DoesNotFitError for chunks without room."""
    wanted = aim.chunk if aim.chunk is None else min(aim.chunk, prefill.context)
    if wanted is None:
        return prefill.best()
    if wanted == 1 or prefill.sizer.whole:
        return prefill.program, 1
    try:
        return prefill.made(wanted), wanted
    except ProgramError as error:
        raise DoesNotFitError(f"chunks of {wanted} tokens: {error.what}", "give a smaller --prefill-chunk, or none", ()) from None


def _placed(tasks: Tasks, aim: Aim, chosen: _Chosen, counted: Counted | None) -> tuple[Program, tuple[Fitted, ...]]:
    """The program of a choice, not checked yet, and its groups with their kernels."""
    sizer, choice = chosen.sizer, chosen.choice
    feeds = sizer.feeds
    outputs = [one.value for one in tasks.outputs]
    fitted = tuple(sizer.fit(group, cost.grid, counted) for group, cost in zip(chosen.regions, choice.costs, strict=True))
    given = [buffer_of(name, feeds) for name in outputs]
    stages = [
        Stage(one.group.name, place, one.fragments, tuple(buffer_of(name, feeds) for name in (*outputs, *sizer.sent(one.group))))
        for one, place in zip(fitted, choice.places, strict=True)
    ]
    scalars = [Scalar(PAST, 0, tasks.context - 1), Scalar(LENGTH, 1, tasks.context)]
    limits = [tasks.context - var(PAST) - var(LENGTH)]
    if tasks.whole:
        scalars, limits = [Scalar(LENGTH, 1, MOST_ROWS)], []
    program = pipeline(aim.machine, stages, scalars=scalars, items=var(LENGTH), entry=ENTRY, limits=limits, depth=DEPTH, given=given)
    return _named_apart(program), fitted


def _interval(program: Program, tasks: Tasks) -> float:
    """Cycles of an item at the end of a row, where weights come from off the wafer; 0 for a program that need not be compared."""
    if program.inflow is None:
        return 0.0
    count = min(2, tasks.context)
    return timeline(program, ENTRY, {PAST: tasks.context - count, LENGTH: count}).initiation_interval()


@dataclass(frozen=True)
class _Chosen:
    """A strategy with its regions and their grids. ``missed`` as in `Plan`."""

    strategy: str
    sizer: Sizer
    regions: tuple[Group, ...]
    choice: Choice
    missed: tuple[str, ...] = ()


def _chosen(tasks: Tasks, aim: Aim, dtype: str) -> _Chosen:
    """The strategy asked for; of ``auto`` the better of those that keep weights on the wafer, or where there is no room the one that does
    not. Raises DoesNotFitError.
    """
    sizer = _sizer(tasks, aim.machine, dtype, streamed=aim.strategy == STREAMING)
    try:
        return _Chosen(*_best(sizer, aim))
    except DoesNotFitError as error:
        if aim.strategy != "auto":
            raise
        try:
            return _Chosen(*_best(replace(sizer, streamed=True), replace(aim, strategy=STREAMING)), (error.what, *error.lines))
        except DoesNotFitError:
            raise error from None


def _sizer(tasks: Tasks, machine: Machine, dtype: str, *, streamed: bool) -> Sizer:
    widths = tasks.hosted | {task.name: width_of(task.work) for task in tasks.tasks}
    directed = direct(tasks.tasks, widths, {feed.value: feed.rows for feed in tasks.feeds if feed.width})
    return Sizer(machine, directed, tasks.hosted, dtype, tasks.context, [one.value for one in tasks.outputs], tasks.whole, streamed)


def _has_room(wanted: Wanted) -> bool:
    """Whether there is room: for one region on the whole machine, or for those of a pipeline."""
    sizer = _sizer(wanted.tasks, wanted.machine, wanted.dtype, streamed=False)
    whole, everything = grids(wanted.machine)[-1], one_group(sizer.directed.tasks)
    ways = {"resident": sizer, STREAMING: replace(sizer, streamed=True)}
    for name, one in ways.items():
        cost = one.cost(everything[0], whole) if wanted.strategy in ("auto", name) else None
        if cost is not None and cost.bytes <= wanted.machine.usable_bytes:
            return True
    if wanted.strategy != "pipeline":
        # Where a pipeline fits, one region on all PEs does: `auto` need not look at both.
        return False
    try:
        choose(sizer, groups(sizer.directed.tasks), "area")
    except ProgramError:
        return False
    return True


def _explained(error: DoesNotFitError, tasks: Tasks, aim: Aim, dtype: str) -> DoesNotFitError:
    """The error with the changes that would help, each tried."""
    if aim.grid is not None:
        return error
    found = remedies(Wanted(tasks, aim.machine, aim.strategy, dtype), _has_room, STREAMING)
    if not found:
        return DoesNotFitError(error.what, "no single change of type, context, strategy or machine is enough: combine them", error.lines)
    return DoesNotFitError(error.what, f"it fits with {' or with '.join(found)}", error.lines)


def _named_apart(program: Program) -> Program:
    """The program with an input that several regions take under a name for each: ``name@region`` after the first."""
    seen: set[str] = set()
    bindings = []
    for one in program.bindings:
        twice = one.role == "input" and one.tensor in seen
        seen.add(one.tensor)
        bindings.append(replace(one, tensor=f"{one.tensor}@{one.region}") if twice else one)
    return replace(program, bindings=tuple(bindings))


def _best(sizer: Sizer, aim: Aim) -> tuple[str, Sizer, tuple[Group, ...], Choice]:
    """The strategy asked for, or the better one by the objective; the first where both are equal."""
    whole = one_group(sizer.directed.tasks)
    ways: dict[str, tuple[Group, ...]] = {"pipeline": groups(sizer.directed.tasks), "resident": whole, STREAMING: whole}
    names = ["pipeline", "resident"] if aim.strategy == "auto" else [aim.strategy]
    found: list[tuple[str, tuple[Group, ...], Choice]] = []
    fault: DoesNotFitError | None = None
    for name in names:
        if found and not _may_win(sizer, ways[name], found[0][2], aim):
            continue
        try:
            found.append((name, ways[name], _choice(sizer, ways[name], aim)))
        except DoesNotFitError as error:
            fault = fault or error
    if not found:
        assert fault is not None
        raise fault
    name, regions, choice = min(found, key=lambda one: _merit(aim.objective)(one[2]))
    return name, sizer, regions, choice


def _may_win(sizer: Sizer, regions: tuple[Group, ...], rival: Choice, aim: Aim) -> bool:
    """Whether a way can be better at all: the fewest cycles of its regions, whatever their SRAM, against a rival's."""
    candidates = grids(aim.machine) if aim.grid is None else [aim.grid]
    cycles = [[found for grid in candidates if (found := sizer.cycles(group, grid)) is not None] for group in regions]
    if not all(cycles) or aim.objective == "area":
        return all(cycles)
    fewest = [min(found) for found in cycles]
    return sum(fewest) < rival.latency if aim.objective == "latency" else max(fewest) < rival.bottleneck


def _merit(objective: str) -> Callable[[Choice], tuple[int, int]]:
    match objective:
        case "latency":
            return lambda choice: (choice.latency, choice.area)
        case "area":
            return lambda choice: (choice.area, choice.bottleneck)
        case _:
            return lambda choice: (choice.bottleneck, choice.area)


def _choice(sizer: Sizer, regions: tuple[Group, ...], aim: Aim) -> Choice:
    if aim.grid is None:
        return choose(sizer, regions, aim.objective)
    costs = []
    for group in regions:
        cost = sizer.cost(group, aim.grid)
        limit = aim.machine.usable_bytes
        shown = f"{aim.grid.width}x{aim.grid.height}"
        if cost is None or cost.bytes > limit:
            need = (
                f"{sizer.need(group, aim.grid)} bytes of SRAM per PE and has {limit}"
                if cost is not None
                else "a layout that the grid does not give"
            )
            raise DoesNotFitError(f"'{group.name}' on a grid of {shown} needs {need}", "give a larger --grid, or none", ())
        costs.append(cost)
    places = pack([cost.grid for cost in costs], aim.machine)
    if places is None:
        raise DoesNotFitError(f"{len(costs)} regions of {shown} PEs do not fit on {aim.machine.name}", "give a smaller --grid, or none", ())
    return Choice(tuple(costs), tuple(places))

"""The planner: tasks and a machine in, a placed program out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from cgptc.backends.wafer.affine import var
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.assembly import NoColourError, Stage, pipeline
from cgptc.backends.wafer.kernels.fragment import STREAM_COLOURS, Grid
from cgptc.backends.wafer.machine import Machine
from cgptc.backends.wafer.plan.choose import Choice, DoesNotFitError, choices
from cgptc.backends.wafer.plan.fragments import buffer_of, ordered_weights
from cgptc.backends.wafer.plan.grids import tight, whole
from cgptc.backends.wafer.plan.layouts import LENGTH, PAST, direct
from cgptc.backends.wafer.plan.merit import figures, least
from cgptc.backends.wafer.plan.mlps import joined_mlps
from cgptc.backends.wafer.plan.pack import pack
from cgptc.backends.wafer.plan.prefill import Prefill
from cgptc.backends.wafer.plan.remedies import Wanted, remedies
from cgptc.backends.wafer.plan.shortages import legal
from cgptc.backends.wafer.plan.size import Cost, Counted, Fitted, Sizer
from cgptc.backends.wafer.plan.stages import DEPTH, Group, groups, one_group, together
from cgptc.backends.wafer.plan.tasks import Tasks
from cgptc.backends.wafer.plan.ties import ties
from cgptc.backends.wafer.plan.works import width_of
from cgptc.backends.wafer.program import Program, Scalar
from cgptc.ir.weights import Weight

ENTRY = "run"
MOST_ROWS = 1 << 16
"""Whole rows that one run takes."""

STREAMING = "weight-streaming"

MOST_COLOURS = STREAM_COLOURS[-1] + 1
"""With so many a machine has all that streams may take."""


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
        best, missed = _chosen(tasks, aim, dtype, counted)
    except DoesNotFitError as error:
        raise _explained(error, tasks, aim, dtype) from None
    except NoColourError as error:
        raise _out_of_colours(error, tasks, aim, dtype) from None
    fitted = best.fitted
    weights = {
        name: weight
        for one in fitted
        for task, kernel in zip(one.group.tasks, one.kernels, strict=True)
        for name, weight in ordered_weights(task, one.ground, kernel).items()
    }
    program, chunk = _in_chunks(Prefill(best.program, ENTRY, fitted, best.sizer, tasks.context), aim)
    return Plan(legal(program), best.strategy, best.choice, fitted, weights, best.sizer, missed, chunk)


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


@dataclass(frozen=True)
class _Placed:
    """A strategy's regions with their grids, and the program that they make, not checked yet, with its groups and their kernels."""

    strategy: str
    sizer: Sizer
    choice: Choice
    program: Program
    fitted: tuple[Fitted, ...]
    merit: tuple[float, float]


def _chosen(tasks: Tasks, aim: Aim, dtype: str, counted: Counted | None) -> tuple[_Placed, tuple[str, ...]]:
    """The best by the objective of the strategy asked for; of ``auto`` the better of those that keep weights on the wafer, or where there
    is no room the one that does not, with what was missed. Raises DoesNotFitError.
    """
    sizer = _sizer(tasks, aim.machine, dtype, streamed=aim.strategy == STREAMING)
    try:
        return _best(sizer, tasks, aim, counted), ()
    except DoesNotFitError as error:
        if aim.strategy != "auto":
            raise
        try:
            streaming = _sizer(tasks, aim.machine, dtype, streamed=True)
            best = _best(streaming, tasks, replace(aim, strategy=STREAMING), counted)
        except DoesNotFitError:
            raise error from None
        return best, (error.what, *error.lines)


def _best(sizer: Sizer, tasks: Tasks, aim: Aim, counted: Counted | None) -> _Placed:
    """The best of all ways of a strategy to size its regions; the first where several are equal. Raises DoesNotFitError, and
    NoColourError where there is room.
    """
    best: _Placed | None = None
    fault: DoesNotFitError | None = None
    crossed: NoColourError | None = None
    for name, regions in _ways(sizer, aim):
        # A region that waits for an item to come back holds up all behind it: no such pipeline streams faster than one that never waits.
        waits = any(group.turn for group in regions) and aim.objective == "throughput"
        if best is not None and (waits or not _may_win(sizer, regions, best, aim)):
            continue
        try:
            ways = choices(sizer, regions) if aim.grid is None else [_on_grid(sizer, regions, aim.grid)]
        except DoesNotFitError as error:
            if fault is None:
                fault = error
            elif any(group.turn for group in regions):
                fault = DoesNotFitError(fault.what, fault.fix, (*fault.lines, f"with one copy of the tied table: {error.what}"))
            continue
        # What is absorbed as it comes cannot come ahead: where the host's link has time to spare, matrices with their zeros are faster.
        thin = counted if sizer.streamed else None
        for choice in sorted(ways, key=lambda way: least(way, aim.objective)):
            for zeros in (None,) if thin is None else (None, thin):
                if best is not None and zeros is None and least(choice, aim.objective) > best.merit[0]:
                    continue
                try:
                    placed = _placed(name, sizer, regions, choice, tasks, aim, zeros)
                except NoColourError as error:
                    crossed = error
                    continue
                if best is None or placed.merit < best.merit:
                    best = placed
    if best is not None:
        return best
    if crossed is not None:
        raise crossed
    assert fault is not None
    raise fault


def _ways(sizer: Sizer, aim: Aim) -> Iterator[tuple[str, tuple[Group, ...]]]:
    """The strategies asked for and their regions. A pipeline keeps a tied table once or in each of two regions."""
    tasks = sizer.directed.tasks
    if aim.strategy == "pipeline" or (aim.strategy == "auto" and aim.machine.colours > STREAM_COLOURS[0]):
        apart = groups(tasks)
        yield "pipeline", apart
        once = together(apart, sizer.ties)
        if once is not None:
            yield "pipeline", once
    if aim.strategy != "pipeline":
        yield STREAMING if aim.strategy == STREAMING else "resident", one_group(tasks)


def _may_win(sizer: Sizer, regions: tuple[Group, ...], rival: _Placed, aim: Aim) -> bool:
    """Whether a way can be better at all: on the fastest grid of each region, whatever its SRAM."""
    candidates = tight(aim.machine, len(regions)) if aim.grid is None else [aim.grid]
    fastest: list[Cost] = []
    for group in regions:
        timed = [Cost(grid, cycles, 0) for grid in candidates if (cycles := sizer.cycles(group, grid)) is not None]
        if not timed:
            return False
        fastest.append(min(timed, key=lambda cost: cost.cycles))
    return aim.objective == "area" or least(Choice(tuple(fastest), ()), aim.objective) < rival.merit[0]


def _placed(
    strategy: str, sizer: Sizer, regions: tuple[Group, ...], choice: Choice, tasks: Tasks, aim: Aim, counted: Counted | None
) -> _Placed:
    feeds = sizer.feeds
    outputs = [one.value for one in tasks.outputs]
    fitted = tuple(sizer.fit(group, cost.grid, counted) for group, cost in zip(regions, choice.costs, strict=True))
    given = [buffer_of(name, feeds) for name in outputs]
    stages = [
        Stage(one.group.name, place, one.fragments, tuple(buffer_of(name, feeds) for name in (*outputs, *one.group.sent)), one.group.turn)
        for one, place in zip(fitted, choice.places, strict=True)
    ]
    scalars = [Scalar(PAST, 0, tasks.context - 1), Scalar(LENGTH, 1, tasks.context)]
    limits = [tasks.context - var(PAST) - var(LENGTH)]
    if tasks.whole:
        fewest = tasks.fewest
        scalars, limits = [Scalar(LENGTH, 1, MOST_ROWS), *(Scalar(name, fewest[name], most) for name, most in tasks.sequences.items())], []
    made = pipeline(aim.machine, stages, scalars=scalars, items=var(LENGTH), entry=ENTRY, limits=limits, depth=DEPTH, given=given)
    program = _named_apart(made)
    return _Placed(strategy, sizer, choice, program, fitted, figures(program, ENTRY, tasks).merit(aim.objective))


def _sizer(tasks: Tasks, machine: Machine, dtype: str, *, streamed: bool) -> Sizer:
    works = tasks.tasks
    if not streamed:
        # Matrices that come from off the wafer may come without their zeros, which only a layer of its own can take.
        works = joined_mlps(works, {one.value for one in tasks.outputs}, ties(works).values())
    widths = tasks.hosted | {task.name: width_of(task.work) for task in works}
    given = {
        feed.value: (feed.rows, next((kind for kind in feed.axes if kind in tasks.sequences), "")) for feed in tasks.feeds if feed.width
    }
    outputs = [one.value for one in tasks.outputs]
    return Sizer(machine, direct(works, widths, given), tasks.hosted, dtype, tasks.context, outputs, tasks.whole, streamed, tasks.sequences)


def _has_room(wanted: Wanted) -> bool:
    """Whether there is room: for one region on the whole machine, or for those of a pipeline."""
    sizer, streaming = (_sizer(wanted.tasks, wanted.machine, wanted.dtype, streamed=streamed) for streamed in (False, True))
    for name, one in {"resident": sizer, STREAMING: streaming}.items():
        if wanted.strategy in ("auto", name) and one.has_room(one_group(one.directed.tasks)[0], whole(wanted.machine)):
            return True
    if wanted.strategy != "pipeline":
        # Where a pipeline fits, one region on all PEs does: `auto` need not look at both.
        return False
    return any(_fits(sizer, regions) for _, regions in _ways(sizer, Aim(wanted.machine, wanted.strategy)))


def _fits(sizer: Sizer, regions: tuple[Group, ...]) -> bool:
    try:
        choices(sizer, regions)
    except ProgramError:
        return False
    return True


def _explained(error: DoesNotFitError, tasks: Tasks, aim: Aim, dtype: str) -> DoesNotFitError:
    """The error with the changes that would help, each tried."""
    wanted = Wanted(tasks, aim.machine, aim.strategy, dtype)
    freed = "" if aim.grid is None else "leave out --grid: "
    if freed and _has_room(wanted):
        return DoesNotFitError(error.what, f"{freed}then it fits", error.lines)
    found = remedies(wanted, _has_room, STREAMING)
    if not found:
        fix = f"{freed}no single change of type, context, strategy or machine is enough: combine them"
        return DoesNotFitError(error.what, fix, error.lines)
    return DoesNotFitError(error.what, f"{freed}it fits with {' or with '.join(found)}", error.lines)


def _out_of_colours(error: NoColourError, tasks: Tasks, aim: Aim, dtype: str) -> DoesNotFitError:
    """The error with the changes that would help, each tried. Only a pipeline has streams."""
    found = []
    if aim.machine.colours < MOST_COLOURS:
        try:
            _chosen(tasks, replace(aim, machine=replace(aim.machine, colours=MOST_COLOURS)), dtype, None)
            found.append(f"a --machine of colours = {MOST_COLOURS}")
        except ProgramError:
            pass
    if _has_room(Wanted(tasks, aim.machine, "resident", dtype)):
        found.append("--execution-strategy resident")
    fix = f"it fits with {' or with '.join(found)}" if found else "cut the model into fewer stages, or let fewer values skip stages"
    return DoesNotFitError(error.what, fix, ())


def _named_apart(program: Program) -> Program:
    """The program with an input that several regions take under a name for each: ``name@region`` after the first."""
    seen: set[str] = set()
    bindings = []
    for one in program.bindings:
        twice = one.role == "input" and one.tensor in seen
        seen.add(one.tensor)
        bindings.append(replace(one, tensor=f"{one.tensor}@{one.region}") if twice else one)
    return replace(program, bindings=tuple(bindings))


def _on_grid(sizer: Sizer, regions: tuple[Group, ...], grid: Grid) -> Choice:
    """Every region on that grid. Raises DoesNotFitError."""
    machine = sizer.machine
    shown = f"{grid.width}x{grid.height}"
    if grid.width > machine.width or grid.height > machine.height:
        what = f"a grid of {shown} is larger than {machine.name}, which has {machine.width} x {machine.height} PEs"
        raise DoesNotFitError(what, "", ())
    costs = []
    for group in regions:
        cost = sizer.cost(group, grid)
        if cost is None or cost.bytes > machine.usable_bytes:
            need = (
                f"{sizer.need(group, grid)} bytes of SRAM per PE and has {machine.usable_bytes}"
                if cost is not None
                else "a layout that the grid does not give"
            )
            raise DoesNotFitError(f"'{group.name}' on a grid of {shown} needs {need}", "", ())
        costs.append(cost)
    places = pack([cost.grid for cost in costs], machine)
    if places is None:
        raise DoesNotFitError(f"{len(costs)} regions of {shown} PEs do not fit on {machine.name}", "", ())
    return Choice(tuple(costs), tuple(places))

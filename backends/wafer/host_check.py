"""Rules by which a host description fits a program, and a model's arrays the description: what passes runs without surprise."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from numpy.typing import NDArray

from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.axis_kinds import BATCH, FEATURE, TIME, is_time, parts
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.host import HOST_FILE, Host
from cgptc.backends.wafer.hosting import length_of, lengths_of
from cgptc.backends.wafer.program import Binding, Program

OUTPUT_DTYPES = ("f64", "f32", "f16")
FILLERS = range(-(2**31), 2**31)


def check_host(host: Host, program: Program) -> Host:
    """The host itself. Raises ProgramError where the program, which is verified, lacks what it speaks of or has it in another form."""
    for fault in _own_faults(host) or (_entry_faults(host, program) or _tensor_faults(host, program)):
        raise ProgramError("host-file", f"'{HOST_FILE}' does not fit the program: {fault}")
    return host


def check_given(host: Host, inputs: Mapping[str, NDArray[Any]]) -> None:
    """Raises ProgramError where arrays that the model's interface allows have other axes or sizes than the host says."""
    for fault in _given_faults(host, inputs):
        raise ProgramError("host-file", f"'{HOST_FILE}' does not fit the model: {fault}")


def _own_faults(host: Host) -> list[str]:
    """What is wrong whatever the program: numbers, axes, names that stand twice."""
    least = {"context": host.context, "chunk": host.chunk, "inputs": len(host.inputs), "outputs": len(host.outputs)}
    least |= {f"rows of '{one.tensor}'": one.rows for one in host.inputs} | {f"rows of '{one.tensor}'": one.rows for one in host.marks}
    least |= {f"heads of '{one.tensor}'": one.heads for one in host.caches}
    faults = [f"{name}: {number}" for name, number in least.items() if number < 1]
    faults += [f"'{one.name}' begins at {one.start}" for one in host.inputs if one.start < 0]
    faults += [f"'{one.name}' is filled with {one.filler}" for one in host.inputs if one.filler not in FILLERS]
    faults += [f"the input '{one.name}' has the axes '{one.axes}'" for one in host.inputs if not _is_input(one.axes.split())]
    faults += [f"the output '{one.name}' has the axes '{one.axes}'" for one in host.outputs if not _is_output(one.axes, one.features)]
    faults += [f"the output '{one.name}' is of type {one.dtype!r}" for one in host.outputs if one.dtype not in OUTPUT_DTYPES]
    given = [*(one.name for one in host.inputs), *(cache.past for cache in host.caches if cache.past)]
    found = [*(one.name for one in host.outputs), *(cache.present for cache in host.caches if cache.present)]
    fed = [*(one.tensor for one in host.inputs), *(mark.tensor for mark in host.marks)]
    faults += [f"'{name}' stands twice" for names in (given, found, fed) for name in names if names.count(name) > 1]
    if host.whole and (host.caches or host.prefill):
        faults.append("rows at a time, and caches or prompts by chunks")
    if not host.whole and (host.marks or host.parts):
        faults.append("tokens at a time, and marks of a row's tokens")
    known = {next(filter(is_time, one.axes.split()), "") for one in host.inputs}
    known |= {part.sequence for part in host.parts if part.of in known}
    faults += [f"'{mark.tensor}' marks the tokens of '{mark.sequence}'" for mark in host.marks if mark.sequence not in known]
    return faults


def _is_input(kinds: Sequence[str]) -> bool:
    known = all(kind in (BATCH, FEATURE) or is_time(kind) for kind in kinds)
    return known and BATCH in kinds and len(set(kinds)) == len(kinds) and sum(map(is_time, kinds)) <= 1


def _is_output(axes: str, features: Sequence[int]) -> bool:
    kinds = parts(axes.split())
    return kinds.count(BATCH) <= 1 and sum(map(is_time, kinds)) <= 1 and kinds.count(FEATURE) == len(features)


def _entry_faults(host: Host, program: Program) -> list[str]:
    # A run of whole rows is told how many tokens they have, of each sequence.
    lengths = {kind for one in host.inputs for kind in one.axes.split() if is_time(kind)}
    wanted = {host.entry: {"length", *lengths} if host.whole else {"past", "length"}}
    if host.chunk > 1:
        wanted[host.prefill] = {"past", "chunks"}
    found = {entry.name: {scalar.name for scalar in entry.scalars} for entry in program.entries}
    if found != wanted:
        return [f"entries {sorted(found)} take {[sorted(found[name]) for name in sorted(found)]}"]
    least = {} if host.whole else {"past": 0, "length": 1, "chunks": 1}
    return [
        f"'{scalar.name}' of entry '{entry.name}' begins at {scalar.low}"
        for entry in program.entries
        for scalar in entry.scalars
        if scalar.low > least.get(scalar.name, scalar.low)
    ]


def _tensor_faults(host: Host, program: Program) -> Iterator[str]:
    """Each input comes to all that take it, each output leaves every entry, in the shapes that the host makes and reads."""
    rows = {one.tensor: one.rows if host.whole else 1 for one in host.inputs} | {mark.tensor: mark.rows for mark in host.marks}
    ranks = {one.tensor: 1 + (FEATURE in one.axes.split()) for one in host.inputs}
    ids = {one.tensor for one in host.inputs if one.ids}
    fed: set[tuple[str, str]] = set()
    for one in program.bindings:
        if one.role != "input":
            continue
        name = one.tensor if one.tensor in rows else one.tensor.split("@")[0]
        shape, whole_numbers = one.layout.shape, not format_of(program.region(one.region).buffer(one.buffer).dtype).is_float
        lengths = {host.chunk if entry == host.prefill else rows.get(name) for entry in one.entries}
        if len(shape) != ranks.get(name, 1) or lengths - {shape[0]} or whole_numbers != (name in ids):
            yield f"the program's input '{one.tensor}' has the shape {list(shape)}"
        fed |= {(name, entry) for entry in one.entries}
    for name in rows:
        if any((name, entry.name) not in fed for entry in program.entries):
            yield f"the program has no input '{name}'"
    for output in host.outputs:
        made = {entry: one for one in _bound(program, "output", output.tensor) for entry in one.entries}
        for entry in program.entries:
            shape = made[entry.name].layout.shape if entry.name in made else ()
            tokens = shape[:1] if host.whole else (host.chunk if entry.name == host.prefill else 1,)
            if shape != (*tokens, math.prod(output.features)):
                yield f"the program's output '{output.tensor}' has the shape {list(shape)}"
    for cache in host.caches:
        shapes = [one.layout.shape for one in _bound(program, "state", cache.tensor)]
        if shapes != [(host.context, cache.heads * cache.features)]:
            yield f"the program's states '{cache.tensor}' have the shapes {shapes}"


def _bound(program: Program, role: str, tensor: str) -> list[Binding]:
    return [one for one in program.bindings if one.role == role and one.tensor == tensor]


def _given_faults(host: Host, inputs: Mapping[str, NDArray[Any]]) -> Iterator[str]:
    sizes: dict[str, int] = {}
    for one in host.inputs:
        kinds, array = one.axes.split(), inputs[one.name]
        if array.ndim != len(kinds):
            yield f"'{one.name}' has {array.ndim} axes, not '{one.axes}'"
            return
        for kind, size in zip(kinds, array.shape, strict=True):
            if kind != FEATURE and sizes.setdefault(kind, size) != size:
                yield f"'{one.name}' has {size} of '{kind}', another input {sizes[kind]}"
    batch, lengths = sizes[BATCH], lengths_of(host, inputs)
    pasts = {cache.past: inputs[cache.past].shape for cache in host.caches if cache.past in inputs}
    past = next((shape[2] for shape in pasts.values() if len(shape) == 4), 0)
    wanted: dict[str, tuple[int, ...]] = {
        cache.past: (batch, cache.heads, past, cache.features) for cache in host.caches if cache.past and past
    }
    if host.mask in inputs and not host.whole:
        wanted[host.mask] = (batch, past + lengths.get(TIME, 1))
    fits = all(length_of(inputs[one.name], one.axes)[1] <= one.rows for one in host.inputs)
    for mark in host.marks if fits else ():  # rows that are too long are the user's matter
        wanted |= {mark.mask: (batch, lengths[mark.sequence])} if mark.mask else {}
        if lengths[mark.sequence] > mark.rows:
            yield f"{lengths[mark.sequence]} tokens of '{mark.sequence}' are marked in {mark.rows}"
    for name, shape in wanted.items():
        found = inputs[name].shape if name in inputs else ()
        if found != shape:
            yield f"'{name}' has the shape {list(found)}, not {list(shape)}"

"""Programs as files: canonical JSON for the program, safetensors for its weights as logical tensors.

The reader trusts nothing: every value is checked against the declared type of its field, unknown and missing keys are refused, sizes and
nesting are bounded. The same program always gives the same bytes.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from cgptc.backends.wafer.affine import Affine
from cgptc.backends.wafer.faults import MachineError, ProgramError
from cgptc.backends.wafer.layout import Array
from cgptc.backends.wafer.machine import Machine, machine_fields, machine_from
from cgptc.backends.wafer.program import FORMAT_VERSION, Program
from cgptc.backends.wafer.steps import MAX_LOOP_DEPTH, Absorb, Collective, Local, Loop, Receive, Send, Take, View

MAX_PROGRAM_BYTES = 1 << 28
MAX_INTEGER = 1 << 53
_NUMBERS = {"inf": math.inf, "-inf": -math.inf, "nan": math.nan}

_TAGGED = {kind.__name__.lower(): kind for kind in (Local, Collective, Send, Receive, Take, Absorb, Loop, View, Affine)}


def program_text(program: Program) -> str:
    """The program as canonical JSON, one object, sorted keys, a final newline."""
    content = {"format": FORMAT_VERSION, "program": _plain(program)}
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False) + "\n"


def parse_program(text: str) -> Program:
    """The program that `program_text` wrote. Raises ProgramError for anything else."""
    if len(text) > MAX_PROGRAM_BYTES:
        raise ProgramError("program-file", f"larger than {MAX_PROGRAM_BYTES} bytes")
    try:
        content = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise ProgramError("program-file", f"not JSON ({error})") from None
    if not isinstance(content, dict) or set(content) != {"format", "program"}:
        raise ProgramError("program-file", "expected an object with 'format' and 'program'")
    if content["format"] != FORMAT_VERSION or isinstance(content["format"], bool):
        raise ProgramError("program-version", f"format {content['format']!r}, this version reads {FORMAT_VERSION}")
    try:
        parsed = _typed(content["program"], Program, "program", 0)
    except MachineError as error:
        raise ProgramError("program-file", f"machine: {error.what}") from None
    assert isinstance(parsed, Program)
    return parsed


def write_program(program: Program, weights: Mapping[str, Array], folder: Path) -> None:
    """Write ``program.json`` and ``weights.safetensors`` into a folder."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "program.json").write_text(program_text(program), encoding="ascii")
    save_file({name: np.ascontiguousarray(weights[name]) for name in sorted(weights)}, folder / "weights.safetensors")


def read_program(folder: Path) -> Program:
    """The program of a folder. Raises ProgramError."""
    path = folder / "program.json"
    if path.stat().st_size > MAX_PROGRAM_BYTES:
        raise ProgramError("program-file", f"'{path.name}' is larger than {MAX_PROGRAM_BYTES} bytes")
    try:
        return parse_program(path.read_text(encoding="ascii"))
    except UnicodeDecodeError:
        raise ProgramError("program-file", f"'{path.name}' is not ASCII text") from None


def read_weights(folder: Path) -> dict[str, Array]:
    """The logical weights of a folder."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    try:
        return dict(load_file(folder / "weights.safetensors"))
    except SafetensorError as error:
        raise ProgramError("program-weights", f"'weights.safetensors' cannot be read ({error})") from None


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _plain(value: object) -> object:
    if isinstance(value, Machine):
        return machine_fields(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields: dict[str, object] = {}
        for entry in dataclasses.fields(value):
            content = getattr(value, entry.name)
            if entry.default is dataclasses.MISSING or content != entry.default:
                fields[entry.name] = _plain(content)
        tag = type(value).__name__.lower()
        return {tag: fields} if tag in _TAGGED else fields
    if isinstance(value, tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else {math.inf: "inf", -math.inf: "-inf"}.get(value, "nan")
    return value


def _typed(value: object, expected: Any, place: str, depth: int) -> object:
    """``value`` as the type that a field declares, or ProgramError naming the place."""
    if depth > 10 * MAX_LOOP_DEPTH:
        raise ProgramError("program-file", f"{place}: nested too deeply")
    origin = typing.get_origin(expected)
    if origin in (typing.Union, types.UnionType):
        return _member(value, typing.get_args(expected), place, depth)
    if origin is typing.Literal:
        if value in typing.get_args(expected) and isinstance(value, str):
            return value
        raise _wrong(place, " or ".join(map(repr, typing.get_args(expected))), value)
    if origin is tuple:
        return _sequence(value, typing.get_args(expected), place, depth)
    if expected is Machine:
        return machine_from(value)
    if isinstance(expected, type) and dataclasses.is_dataclass(expected):
        return _structure(value, expected, place, depth)
    if expected is float and isinstance(value, str) and value in _NUMBERS:
        return _NUMBERS[value]
    if expected is float and type(value) in (int, float):
        assert isinstance(value, (int, float))
        return float(value)
    if expected is int and type(value) is int and abs(value) <= MAX_INTEGER:
        return value
    if expected in (str, bool) and type(value) is expected:
        return value
    if expected is type(None) and value is None:
        return None
    raise _wrong(place, getattr(expected, "__name__", str(expected)), value)


def _member(value: object, options: tuple[Any, ...], place: str, depth: int) -> object:
    """The member of a union that a value is: dataclasses by their tag, plain values by their type."""
    if isinstance(value, dict) and len(value) == 1:
        (tag,) = value
        kind = _TAGGED.get(tag)
        if kind is not None and kind in options:
            return _structure(value, kind, place, depth)
    structures = [option for option in options if dataclasses.is_dataclass(option) and option not in _TAGGED.values()]
    if isinstance(value, dict) and len(structures) == 1:
        return _structure(value, structures[0], place, depth)
    if isinstance(value, (bool, int, float, str, type(None))) and type(value) in options:
        return _typed(value, type(value), place, depth)
    if float in options and isinstance(value, str) and value in _NUMBERS and str not in options:
        return _NUMBERS[value]
    for option in options:
        if isinstance(value, list) and typing.get_origin(option) is tuple:
            return _typed(value, option, place, depth)
    raise _wrong(place, " or ".join(getattr(option, "__name__", str(option)) for option in options), value)


def _sequence(value: object, arguments: tuple[Any, ...], place: str, depth: int) -> tuple[object, ...]:
    if not isinstance(value, list):
        raise _wrong(place, "a list", value)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        return tuple(_typed(item, arguments[0], f"{place}[{i}]", depth + 1) for i, item in enumerate(value))
    if len(value) != len(arguments):
        raise _wrong(place, f"{len(arguments)} values", value)
    return tuple(_typed(item, kind, f"{place}[{i}]", depth + 1) for i, (item, kind) in enumerate(zip(value, arguments, strict=True)))


def _structure(value: object, kind: Any, place: str, depth: int) -> object:
    tag = kind.__name__.lower()
    if not isinstance(value, dict):
        raise _wrong(place, f"a {tag}", value)
    if tag in _TAGGED and (set(value) != {tag} or not isinstance(value[tag], dict)):
        raise _wrong(place, f"a {tag}", value)
    content: dict[str, object] = value[tag] if tag in _TAGGED else value
    hints = _hints(kind)
    required = {entry.name for entry in dataclasses.fields(kind) if entry.default is dataclasses.MISSING}
    if not required <= set(content) <= set(hints):
        odd = sorted((required - set(content)) | (set(content) - set(hints)))
        raise ProgramError("program-file", f"{place}: a {tag} has {sorted(hints)}; missing or unknown: {odd}")
    return kind(**{name: _typed(field, hints[name], f"{place}.{name}", depth + 1) for name, field in content.items()})


_HINTS: dict[Any, dict[str, Any]] = {}


def _hints(kind: Any) -> dict[str, Any]:
    if kind not in _HINTS:
        _HINTS[kind] = typing.get_type_hints(kind)
    return _HINTS[kind]


def _wrong(place: str, expected: str, value: object) -> ProgramError:
    shown = repr(value)
    return ProgramError("program-file", f"{place}: expected {expected}, got {shown if len(shown) < 60 else shown[:57] + '…'}")

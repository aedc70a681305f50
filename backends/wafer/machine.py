"""The machine: everything that a program may use, or be charged for, stands in one frozen description.

Evidence marks as in ``docs/machine.md``: P published, D derived from published numbers, A assumed. The presets are the published
WSE-2 and WSE-3 figures where such exist. No constant of a machine stands anywhere else.
"""

from __future__ import annotations

import difflib
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

from cgptc.backends.wafer.faults import MachineError

MAX_FILE_BYTES = 1 << 20
MAX_SRAM_BYTES = 1 << 30
"""Of a PE that a description may ask for: the engine that goes PE by PE holds all of it."""

LEAST_LANES = 2**-10

Lanes = tuple[tuple[str, float], ...]


def _lookup(lanes: Lanes, dtype: str, name: str, machine: str) -> float:
    for known, width in lanes:
        if known == dtype:
            return width
    raise MachineError("machine-field", f"'{name}' of {machine} has no entry for {dtype}")


def _expect(holds: bool, name: str, expected: str, got: object) -> None:
    if not holds:
        raise MachineError("machine-field", f"'{name}' must be {expected}, got {got!r}")


@dataclass(frozen=True)
class Machine:
    """A mesh of PEs with one clock, private SRAM, and a router each. Times are cycles, sizes bytes, messages 32-bit wavelets.

    ``width`` and ``height`` are those of the largest rectangle that a program may use, x eastward and y southward.
    """

    name: str
    width: int
    height: int
    clock_hz: float
    sram_bytes: int = 49_152  # P
    reserved_bytes: int = 6_144  # code, stack, descriptors, host copy; P: one published design reserves 6 KiB
    alignment_bytes: int = 16  # A: aligned vectors stream at full width
    vector_lanes: Lanes = (("f16", 4.0), ("bf16", 4.0), ("f32", 2.0), ("i32", 2.0), ("i16", 4.0), ("f64", 1.0))  # P f16, D f32
    mac_lanes: Lanes = (("f16", 4.0), ("bf16", 4.0), ("f32", 1.0), ("f64", 1.0))  # P f16, D f32 (conservative)
    vector_start_cycles: int = 35  # D: one vector operation with its descriptors loaded
    stream_start_cycles: int = 6  # D: one further vector operation on loaded descriptors
    dense_call_cycles: float = 16.0  # D: a dense multiply-accumulate column call, unaligned
    dense_mac_cycles: float = 2.18  # D: and per element of it
    scalar_cycles: float = 1.0  # A: one scalar instruction of mapped code
    step_cycles: int = 0  # A: dispatch of one step
    sparse_row_cycles: float = 64.7  # D: compressed rows: per row,
    sparse_entry_cycles: float = 33.0  # D: per non-zero,
    sparse_mac_cycles: float = 1.27  # D: per non-zero and column of the dense side
    sparse_column_start_cycles: float = 118.0  # D: compressed columns, the same three
    sparse_column_entry_cycles: float = 37.2
    sparse_column_mac_cycles: float = 1.24
    sram_read_bytes: int = 16  # P: per cycle
    sram_write_bytes: int = 8  # P: per cycle
    link_words: int = 1  # P: wavelets per cycle and direction
    hop_cycles: int = 1  # P
    ramp_cycles: int = 2  # P
    colours: int = 21  # P: 0 to 20
    switch_positions: int = 4  # P: route configurations per router and colour
    input_queue_words: tuple[int, ...] = (6, 6, 4, 4, 2, 2, 2, 2)  # P
    output_queue_words: tuple[int, ...] = (2, 2, 6, 6, 2, 2)  # P
    host_queues: tuple[int, ...] = (0,)  # P: taken by host copies
    host_bytes_per_second: float = 1.5e11  # P: 1.2 Tb/s
    host_channels: int = 16  # P

    def __post_init__(self) -> None:
        for name in ("width", "height", "alignment_bytes", "link_words", "colours", "switch_positions", "host_channels"):
            _expect(getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in ("vector_start_cycles", "stream_start_cycles", "step_cycles", "hop_cycles", "ramp_cycles", "reserved_bytes"):
            _expect(getattr(self, name) >= 0, name, "not negative", getattr(self, name))
        for name in ("dense_mac_cycles", "scalar_cycles", "sram_read_bytes", "sram_write_bytes"):
            _expect(math.isfinite(getattr(self, name)) and getattr(self, name) > 0, name, "positive", getattr(self, name))
        for name in ("clock_hz", "host_bytes_per_second"):
            _expect(math.isfinite(getattr(self, name)) and getattr(self, name) >= 1, name, "at least 1", getattr(self, name))
        for name in (entry.name for entry in fields(self) if entry.name.startswith("sparse_") or entry.name == "dense_call_cycles"):
            _expect(math.isfinite(getattr(self, name)) and getattr(self, name) >= 0, name, "not negative", getattr(self, name))
        _expect(self.width <= 1 << 14 and self.height <= 1 << 14, "width and height", "at most 16384", max(self.width, self.height))
        _expect(self.colours <= 24, "colours", "at most 24 (only these are routable)", self.colours)
        _expect(self.sram_bytes > self.reserved_bytes, "sram_bytes", f"more than the {self.reserved_bytes} reserved", self.sram_bytes)
        _expect(self.alignment_bytes.bit_count() == 1, "alignment_bytes", "a power of two", self.alignment_bytes)
        for name in ("input_queue_words", "output_queue_words"):
            queues = getattr(self, name)
            _expect(bool(queues), name, "at least one queue", 0)
            _expect(all(words >= 1 for words in queues), name, "at least 1 each", queues)
        _expect(all(queue >= 0 for queue in self.host_queues), "host_queues", "not negative", self.host_queues)
        open_to_programs = set(range(len(self.input_queue_words))) - set(self.host_queues)
        _expect(bool(open_to_programs), "host_queues", "not all of the input queues", self.host_queues)
        for name in ("vector_lanes", "mac_lanes"):
            object.__setattr__(self, name, tuple(sorted(getattr(self, name))))
            _expect(all(lanes >= LEAST_LANES for _, lanes in getattr(self, name)), name, f"at least {LEAST_LANES}", getattr(self, name))

    @property
    def usable_bytes(self) -> int:
        """SRAM that buffers of one PE may take."""
        return self.sram_bytes - self.reserved_bytes

    @property
    def queue_words(self) -> int:
        """Words that the shallowest input queue open to programs holds: what a blocking send may count on."""
        return min(words for queue, words in enumerate(self.input_queue_words) if queue not in self.host_queues)

    @property
    def message_cycles(self) -> int:
        """Cycles that one dependent message costs beyond words and hops: ``2 T_R + 1``."""
        return 2 * self.ramp_cycles + 1

    def lanes(self, dtype: str) -> float:
        """Elements of a plain vector operation per cycle."""
        return _lookup(self.vector_lanes, dtype, "vector_lanes", self.name)

    def vector_cycles(self, dtype: str, length: int, operations: float = 1.0) -> int:
        """``t0 + length / width`` of one vector operation, or of ``operations`` of them fused in one call."""
        return self.vector_start_cycles + math.ceil(length * operations / self.lanes(dtype)) if length > 0 else 0

    def scalar_map_cycles(self, length: int, operations: int) -> int:
        """One scalar function of that many instructions mapped over a vector (assumed, not published)."""
        return self.vector_start_cycles + math.ceil(length * operations * self.scalar_cycles) if length > 0 else 0

    def mac_cycles(self, dtype: str, calls: int, length: int, *, aligned: bool) -> int:
        """``calls`` vector × scalar multiply-accumulates over ``length`` elements each.

        ``aligned`` is the streaming form on loaded descriptors, ``t0 + length / width`` per call; the other is the published fit
        ``16 + 2.18 length`` for strided columns.
        """
        if calls <= 0 or length <= 0:
            return 0
        if aligned:
            width = _lookup(self.mac_lanes, dtype, "mac_lanes", self.name)
            return self.vector_start_cycles + calls * (self.stream_start_cycles + math.ceil(length / width))
        return math.ceil(calls * (self.dense_call_cycles + self.dense_mac_cycles * length))

    def message_line_cycles(self, *, contention: int, energy: int, links: int, distance: int, depth: int) -> int:
        """``max(C, E/N) + L + (2 T_R + 1) D``: the adopted cost of a collective along a line.

        ``contention`` C is the most wavelets into or out of one PE, ``energy`` E wavelet-hops, ``links`` N, ``distance`` L the
        longest way in hops, ``depth`` D messages that depend on one another.
        """
        if energy == 0:
            return 0
        busiest = max(math.ceil(contention / self.link_words), math.ceil(energy / (links * self.link_words)))
        return busiest + self.hop_cycles * distance + self.message_cycles * depth

    def seconds(self, cycles: float) -> float:
        return cycles / self.clock_hz


WSE2 = Machine("wse2", 750, 994, 0.85e9)
WSE3 = Machine(
    "wse3",
    755,
    1170,
    1.1e9,  # A
    vector_lanes=(("f16", 8.0), ("bf16", 8.0), ("f32", 2.0), ("i32", 2.0), ("i16", 8.0), ("f64", 1.0)),
    mac_lanes=(("f16", 8.0), ("bf16", 8.0), ("f32", 1.0), ("f64", 1.0)),
    input_queue_words=(8, 8, 4, 4, 4, 4, 4, 4),
    output_queue_words=(8, 8, 8, 8, 8, 8, 8, 8),
    host_queues=(0, 1),
)
ASSUMED_STEP_CYCLES = 20
"""To dispatch a step, where the model assumes none: what sensitivity is told for."""


def assumptions(machine: Machine) -> list[tuple[str, Machine, Machine]]:
    """``(what, the machine with half of it, with twice)`` for the cycle figures that no source gives (A in ``docs/machine.md``)."""
    found = [
        (
            f"scalar_cycles {machine.scalar_cycles:g} × 0.5, × 2",
            replace(machine, scalar_cycles=machine.scalar_cycles / 2),
            replace(machine, scalar_cycles=machine.scalar_cycles * 2),
        )
    ]
    if machine.step_cycles:
        less, more = replace(machine, step_cycles=machine.step_cycles // 2), replace(machine, step_cycles=machine.step_cycles * 2)
        found.append((f"step_cycles {machine.step_cycles} × 0.5, × 2", less, more))
    else:
        found.append((f"step_cycles 0, {ASSUMED_STEP_CYCLES}", machine, replace(machine, step_cycles=ASSUMED_STEP_CYCLES)))
    if machine.name.startswith(WSE3.name):
        wide = dict(machine.mac_lanes)
        half, twice = ({**wide, "f32": wide["f32"] * factor} for factor in (0.5, 2.0))
        found += [
            (
                f"ramp_cycles {machine.ramp_cycles} × 0.5, × 2",
                replace(machine, ramp_cycles=machine.ramp_cycles // 2),
                replace(machine, ramp_cycles=machine.ramp_cycles * 2),
            ),
            (
                f"mac_lanes f32 {wide['f32']:g} × 0.5, × 2",
                replace(machine, mac_lanes=tuple(half.items())),
                replace(machine, mac_lanes=tuple(twice.items())),
            ),
        ]
    return found


PRESETS: dict[str, Machine] = {machine.name: machine for machine in (WSE2, WSE3)}


def small_machine(width: int, height: int, *, sram_bytes: int = 49_152) -> Machine:
    """A small rectangle of WSE-2 PEs, for tests and examples."""
    return replace(WSE2, name=f"small-{width}x{height}", width=width, height=height, sram_bytes=sram_bytes)


def doubled_sram(machine: Machine) -> Machine:
    """The machine that runs programs in 8-byte words for checking: twice the memory, and cycles that mean nothing."""
    return replace(machine, name=f"{machine.name}-f64", sram_bytes=2 * machine.sram_bytes)


def _preset(name: str) -> Machine | None:
    """The machine of that name, ``small-WxH`` too; None for no such. Raises MachineError for sizes that are none."""
    sizes = re.fullmatch(r"small-(\d{1,9})x(\d{1,9})", name, re.ASCII)
    return PRESETS.get(name) if sizes is None else small_machine(int(sizes[1]), int(sizes[2]))


def find_machine(name: str) -> Machine:
    """A preset by name (``small-WxH`` too), else a description read from the file of that name. Raises MachineError."""
    preset = _preset(name)
    if preset is not None:
        return preset
    if not Path(name).is_file():
        raise MachineError("unknown-machine", f"{name!r} is neither {', '.join(PRESETS)}, small-WxH nor a file", fix="give --machine wse2")
    return read_machine(Path(name))


def read_machine(path: Path) -> Machine:
    """Read a TOML or JSON description. Raises MachineError for anything else, unknown keys included.

    The key ``base`` names a preset whose fields hold where the file is silent.
    """
    if path.stat().st_size > MAX_FILE_BYTES:
        raise MachineError("machine-file", f"{path.name!r} is larger than {MAX_FILE_BYTES} bytes")
    try:
        text = path.read_text(encoding="utf-8")
        content = json.loads(text) if text.lstrip().startswith("{") else tomllib.loads(text)
    except OSError as error:
        raise MachineError("machine-file", f"{path.name!r} cannot be read ({error.strerror})") from None
    except (ValueError, RecursionError) as error:
        raise MachineError("machine-file", f"{path.name!r} is neither TOML nor JSON ({error})") from None
    try:
        return machine_from(content)
    except MachineError as error:
        raise MachineError(error.code, f"{path.name!r}: {error.what}", fix=error.fix) from None


def machine_from(content: object) -> Machine:
    """The machine that a mapping of field names describes."""
    if not isinstance(content, Mapping):
        raise MachineError("machine-file", f"expected a table of fields, got {type(content).__name__}")
    values = dict(content)
    base = values.pop("base", None)
    basis = _preset(base) if isinstance(base, str) else None
    if base is not None and basis is None:
        raise MachineError("machine-field", f"'base' must be one of {', '.join(PRESETS)}, small-WxH, got {base!r}")
    known = {entry.name: entry for entry in fields(Machine)}
    kinds = {name: _KINDS[entry.type] for name, entry in known.items() if isinstance(entry.type, str)}
    given: dict[str, object] = {}
    for key, value in values.items():
        if key not in known:
            near = difflib.get_close_matches(str(key), known, 1)
            raise MachineError("machine-field", f"unknown field {key!r}", fix=f"did you mean '{near[0]}'?" if near else "")
        given[key] = _converted(key, kinds[key], value)
    missing = [name for name in ("name", "width", "height", "clock_hz") if base is None and name not in given]
    if missing:
        raise MachineError("machine-field", f"missing {', '.join(repr(name) for name in missing)}", fix="give them, or 'base'")
    complete = {name: getattr(basis, name) for name in known} if basis is not None else {}
    sram = given.get("sram_bytes", 0)
    _expect(not isinstance(sram, int) or sram <= MAX_SRAM_BYTES, "sram_bytes", f"at most {MAX_SRAM_BYTES}", sram)
    return Machine(**{**complete, **given})


def machine_fields(machine: Machine) -> dict[str, object]:
    """The description as plain values, which `machine_from` reads back."""
    values: dict[str, object] = {}
    for entry in fields(Machine):
        value = getattr(machine, entry.name)
        if entry.name.endswith("_lanes"):
            value = dict(value)
        elif isinstance(value, tuple):
            value = list(value)
        values[entry.name] = value
    return values


_EXPECTED = {
    "name": "a name",
    "integer": "an integer",
    "number": "a number",
    "lanes": "a table of numbers by format",
    "integers": "a list of integers",
}
_KINDS = {"str": "name", "int": "integer", "float": "number", "Lanes": "lanes", "tuple[int, ...]": "integers"}


def _converted(key: str, kind: str, value: object) -> object:
    if kind == "name" and isinstance(value, str) and value and value.isprintable():
        return value
    if kind == "integer" and _is_number(value, int):
        return value
    if kind == "number" and _is_number(value, int, float):
        return float(value)  # type: ignore[arg-type]
    if kind == "integers" and isinstance(value, list) and all(_is_number(item, int) for item in value):
        return tuple(value)
    if kind == "lanes" and isinstance(value, Mapping) and all(_is_number(lanes, int, float) for lanes in value.values()):
        return tuple((str(dtype), float(lanes)) for dtype, lanes in value.items())
    raise MachineError("machine-field", f"'{key}' must be {_EXPECTED[kind]}, got {value!r}")


def _is_number(value: object, *types: type[int | float]) -> bool:
    """Whether it is a number of these types that arithmetic can go on from: no bool, no NaN, no infinity, nothing near 2**63."""
    return type(value) in types and abs(value) < 1 << 62  # type: ignore[arg-type]

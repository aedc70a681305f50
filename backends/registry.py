"""Backends by name.

A backend is a value that follows `Backend`. Its own options are a frozen dataclass, whose fields are the command line's flags for that
target. Third parties register theirs under the entry point group ``cgptc.backends``, each entry naming a `Backend`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

from cgptc.ir.cost import CostModel
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.dtypes import DType
from cgptc.ir.graph import Graph, Value
from cgptc.ir.loc import Location
from cgptc.ir.op import Array, Op

OptionsT = TypeVar("OptionsT", contravariant=True)


@dataclass(frozen=True)
class Refusal:
    """A node that a backend cannot lower: where it comes from, how it prints, and why."""

    location: Location
    node: str
    reason: str

    def lines(self) -> tuple[str, ...]:
        """As a diagnostic shows it."""
        return f"  --> {self.location}", f"      {self.node}", f"      {self.reason}"


@dataclass(frozen=True)
class Emitted:
    """What `Backend.emit` wrote: file names relative to the folder, and facts for the manifest (JSON values only).

    ``digests`` are the SHA-256 of files that were hashed as they were written, in hexadecimal digits: they need not be read again.
    """

    files: tuple[str, ...]
    facts: Mapping[str, object] = field(default_factory=dict)
    digests: Mapping[str, str] = field(default_factory=dict)


class Session(Protocol):
    """Something loaded that runs."""

    @property
    def input_names(self) -> tuple[str, ...]:
        """Names of the inputs, in the model's order."""
        ...

    @property
    def output_names(self) -> tuple[str, ...]:
        """Names of the outputs, in the model's order."""
        ...

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name. An absent input takes its natural default (mask of ones, empty past); `UsageError` where it has none."""
        ...


@runtime_checkable
class PlacedSession(Protocol):
    """A session of what was compiled for an element type and a length of its own, which may be less than the model's."""

    @property
    def dtype(self) -> DType:
        """The narrowest floating-point type of its weights, caches, inputs and outputs."""
        ...

    @property
    def context(self) -> int:
        """The most tokens of a row."""
        ...


class Backend(Protocol[OptionsT]):
    """A target.

    ``options`` is the frozen dataclass of its options: the driver makes one and hands it to every method.
    """

    name: str
    options: type[Any]

    def default_pipeline(self, options: OptionsT, level: int = 2) -> str:
        """The passes that run where the user names none, as a pipeline string. Level 0 holds what the target needs, 2 all that pays."""
        ...

    def legal_ops(self, options: OptionsT) -> frozenset[type[Op]]:
        """The operations that it lowers itself; composite ones outside it are decomposed before `emit`."""
        ...

    def check(self, graph: Graph, options: OptionsT) -> Sequence[Refusal]:
        """Every node that it cannot lower. Reads no weight bytes."""
        ...

    def emit(self, graph: Graph, folder: Path, options: OptionsT) -> Emitted:
        """Write the target's files into an existing folder; atomicity is the caller's. `CompileError` lists what `check` finds."""
        ...

    def load(self, folder: Path, options: OptionsT) -> Session:
        """Open what `emit` wrote."""
        ...

    def cost_model(self, options: OptionsT) -> CostModel:
        """Prices for passes that ask."""
        ...


class Stage(Protocol):
    """One stage of a model, loaded to run, with the caches of its layers."""

    def run(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """All outputs from all inputs, pasts and presents included."""
        ...

    def read(self, slot: int, rows: int, fresh: bool, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs but for presents, from the inputs but for pasts, for ``rows`` rows: the stage keeps those under ``slot``, and
        forgets them first where ``fresh``.
        """
        ...


@runtime_checkable
class ProbingBackend(Protocol):
    """A target that cannot give every value of a graph as an output."""

    def observable(self, graph: Graph, values: Sequence[Value], options: Any) -> Sequence[Value]:
        """Of some values of a legal graph those that it can give beside the outputs, in their order."""
        ...


@runtime_checkable
class StagedBackend(Protocol):
    """A backend that takes staged graphs: `Backend.emit` writes an `ir.stage_plan.StagePlan` beside what each stage needs."""

    def load_stage(self, folder: Path, index: int, options: Any) -> Stage:
        """Open one stage of what `Backend.emit` wrote."""
        ...


BUILT_IN = {"onnx": "cgptc.backends.onnx.backend", "wafer": "cgptc.backends.wafer.backend"}
"""The project's own backends: the module that holds each as ``BACKEND``."""

_GROUP = "cgptc.backends"


def backend_names() -> tuple[str, ...]:
    """Names of all backends: built in first, then registered ones in order of name."""
    others = sorted({entry.name for entry in entry_points(group=_GROUP)} - set(BUILT_IN))
    return (*BUILT_IN, *others)


def backend(name: str) -> Backend[Any]:
    """The backend of that name; its packages are imported now. `UsageError` for an unknown name."""
    if name in BUILT_IN:
        found: Backend[Any] = import_module(BUILT_IN[name]).BACKEND
        return found
    for entry in entry_points(group=_GROUP):
        if entry.name == name:
            loaded: Backend[Any] = entry.load()
            return loaded
    close = difflib.get_close_matches(name, backend_names(), n=1)
    hint = f"did you mean '{close[0]}'?" if close else f"choose one of {', '.join(backend_names())}"
    raise UsageError("unknown-target", f"there is no target '{name}'", fix=hint)

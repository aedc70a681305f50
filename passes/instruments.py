"""Instruments: what watches a pipeline run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cgptc.ir.diagnostics import VerifyError
from cgptc.ir.graph import Graph
from cgptc.ir.op import Array
from cgptc.ir.verify import verify
from cgptc.passes.manager import ROUNDED, Pass, PassContext


@dataclass
class VerifyEach:
    """Verify the graph after every pass; the error names the pass.

    A graph that was verified and not edited since, as its version tells, is not looked at again: most passes find nothing to do.
    """

    _version: int | None = None

    def before(self, pass_: Pass, index: int, graph: Graph, context: PassContext) -> None:
        if index == 0:
            self._version = None

    def after(self, pass_: Pass, index: int, graph: Graph, context: PassContext, changed: bool) -> None:
        if not changed and graph.version == self._version:
            return
        try:
            verify(graph)
        except VerifyError as error:
            raise VerifyError(f"after pass '{pass_}' (number {index + 1}): {error}") from error
        self._version = graph.version


@dataclass
class HonestyCheck:
    """Check that a pass says ``changed`` exactly when the graph's text changed."""

    _text: str = ""

    def before(self, pass_: Pass, index: int, graph: Graph, context: PassContext) -> None:
        self._text = str(graph)

    def after(self, pass_: Pass, index: int, graph: Graph, context: PassContext, changed: bool) -> None:
        really = str(graph) != self._text
        if really != changed:
            said = "changed" if changed else "unchanged"
            raise VerifyError(f"pass '{pass_}' (number {index + 1}) said '{said}', but the graph is {'changed' if really else 'unchanged'}")


@dataclass
class TimeEach:
    """Seconds, and nodes before and after, per pass."""

    rows: list[tuple[str, float, int, int]] = field(default_factory=list)
    _start: float = 0.0
    _count: int = 0

    def before(self, pass_: Pass, index: int, graph: Graph, context: PassContext) -> None:
        self._count = graph.node_count
        self._start = time.perf_counter()

    def after(self, pass_: Pass, index: int, graph: Graph, context: PassContext, changed: bool) -> None:
        self.rows.append((str(pass_), time.perf_counter() - self._start, self._count, graph.node_count))


@dataclass
class PrintAfter:
    """Print the graph after passes: all of them, or those named; only where it changed, if asked.

    ``write`` receives (number and name of the pass, text).
    """

    write: Callable[[str, str], None]
    names: frozenset[str] | None = None
    only_changed: bool = False

    def before(self, pass_: Pass, index: int, graph: Graph, context: PassContext) -> None:
        pass

    def after(self, pass_: Pass, index: int, graph: Graph, context: PassContext, changed: bool) -> None:
        if (self.names is None or pass_.name in self.names) and (changed or not self.only_changed):
            self.write(f"{index + 1:02d}-{pass_.name}", str(graph))


def dump_to(folder: Path) -> Callable[[str, str], None]:
    """A writer for `PrintAfter` that makes one file per pass in a folder."""

    def write(title: str, text: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{title}.cgir").write_text(text)

    return write


@dataclass
class NumericCheck:
    """Interpret the graph in float64 before and after every pass on the same inputs and compare (CORRECTNESS: T1).

    ``inputs`` makes arrays for a graph's inputs. Passes that change the interface (such as `add-cache`) are compared on what both have.
    ``compare`` raises where two sets of outputs differ; its last argument says whether the pass took constants as their type rounds them.
    """

    inputs: Callable[[Graph], Mapping[str, Array]]
    evaluate: Callable[[Graph, Mapping[str, Array]], Mapping[str, Array]]
    compare: Callable[[Graph, Mapping[str, Array], Mapping[str, Array], bool], None]
    _before: Mapping[str, Array] | None = None
    _rounded: int = 0

    def before(self, pass_: Pass, index: int, graph: Graph, context: PassContext) -> None:
        self._before = self.evaluate(graph, self.inputs(graph)) if not pass_.lossy else None
        self._rounded = context.counters.get(ROUNDED, 0)

    def after(self, pass_: Pass, index: int, graph: Graph, context: PassContext, changed: bool) -> None:
        if self._before is None:
            return
        after = self.evaluate(graph, self.inputs(graph))
        shared = {name: after[name] for name in self._before if name in after and np.shape(after[name]) == np.shape(self._before[name])}
        try:
            rounded = context.counters.get(ROUNDED, 0) > self._rounded
            self.compare(graph, {name: self._before[name] for name in shared}, shared, rounded)
        except AssertionError as error:
            raise VerifyError(f"pass '{pass_}' (number {index + 1}) changed the meaning: {error}") from error

"""What a failing pass leaves behind: the graph before the pass, the pass, the versions; no weights, no paths."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from cgptc.artifact.canonical import Json, canonical_json
from cgptc.driver.environment import library_versions
from cgptc.ir.diagnostics import CgptcError
from cgptc.ir.graph import Graph
from cgptc.passes.manager import Pass, PassContext

GRAPH_FILE, FACTS_FILE = "before.cgir", "reproducer.json"
FORMAT = 1


@dataclass
class KeepBefore:
    """Keeps the graph as it was before the pass that runs now. A copy shares all frozen values, weights among them.

    It is made anew only where the graph was edited since, as its version tells.
    """

    graph: Graph | None = None
    pass_: Pass | None = None
    _version: int | None = None

    def before(self, pass_: Pass, index: int, graph: Graph, context: PassContext) -> None:
        """Copy the graph."""
        self.pass_ = pass_
        if self.graph is None or graph.version != self._version:
            self.graph, self._version = graph.clone(), graph.version

    def after(self, pass_: Pass, index: int, graph: Graph, context: PassContext, changed: bool) -> None:
        """Nothing: what fails behind a pass, such as a check, is the pass's."""


@contextmanager
def reproducible(kept: KeepBefore, context: PassContext, verify_each: str) -> Iterator[None]:
    """Around a pipeline: where a pass fails with anything but a user's error, write a reproducer and note on the error where it is."""
    try:
        yield
    except CgptcError:
        raise
    except Exception as error:
        if kept.graph is not None and kept.pass_ is not None:
            folder = write_reproducer(kept.graph, kept.pass_, context, verify_each, error)
            error.add_note(f"cgptc replay {folder}")
        raise


def write_reproducer(graph: Graph, pass_: Pass, context: PassContext, verify_each: str, error: BaseException) -> Path:
    """A new folder in the temporary folder that `replay` takes."""
    folder = Path(tempfile.mkdtemp(prefix="cgptc-reproducer-"))
    (folder / GRAPH_FILE).write_text(str(graph), encoding="utf-8")
    legal: list[Json] | None = [*sorted(op.name for op in context.legal)] if context.legal is not None else None
    facts: Json = {
        "format": FORMAT,
        "pipeline": str(pass_),
        "target": context.target,
        "legal": legal,
        "rewrites_left": context.rewrites_left,
        "verify_each": verify_each,
        "error": type(error).__name__,
        "message": str(error),
        "versions": dict(library_versions()),
    }
    (folder / FACTS_FILE).write_text(canonical_json(facts), encoding="utf-8")
    return folder

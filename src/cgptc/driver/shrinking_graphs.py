"""Shrinking a graph on which something fails: a command, or a pipeline in this process."""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

from cgptc.driver.replay import failure, with_random_weights
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.graph import Graph
from cgptc.ir.reduction import reduce_graph
from cgptc.passes.instruments import VerifyEach
from cgptc.passes.manager import PassContext, Pipeline

COMMAND_SECONDS = 120
"""Time that a check may take for one graph; one that takes longer counts as another outcome."""

PLACE = "{}"
"""Stands in a check's command for the file that holds the graph; without it the file comes last."""


def shrink(graph: Graph, fails: Callable[[Graph], bool]) -> Graph:
    """The smallest graph found on which it still fails. `UsageError` where it does not fail on ``graph``."""
    try:
        return reduce_graph(graph, fails)
    except ValueError as error:
        raise UsageError("no-failure", str(error), fix="give a check that fails on the graph as it is") from None


def fails_as_command(command: str, graph: Graph) -> Callable[[Graph], bool]:
    """Whether the command, which runs without a shell, ends with the same exit code as for ``graph``, other than 0."""
    words = shlex.split(command)
    if not words:
        raise UsageError(
            "usage", "the check is empty", fix="give a command that fails on the graph, such as --check 'cgptc opt {} --passes cse'"
        )
    expected = _exit_code(words, graph)
    return lambda candidate: expected not in (0, None) and (candidate is graph or _exit_code(words, candidate) == expected)


def fails_as_pipeline(passes: str, graph: Graph) -> Callable[[Graph], bool]:
    """Whether the pipeline, verified after each pass, fails with the same kind of error as on ``graph``."""
    pipeline = Pipeline.parse(passes)

    def kind(candidate: Graph) -> str | None:
        found = failure(with_random_weights(candidate.clone()), pipeline, PassContext(), [VerifyEach()])
        return found.partition(":")[0] if found is not None else None

    expected = kind(graph)
    return lambda candidate: expected is not None and (candidate is graph or kind(candidate) == expected)


def _exit_code(words: list[str], graph: Graph) -> int | None:
    with tempfile.TemporaryDirectory(prefix="cgptc-reduce-") as folder:
        file = Path(folder) / "graph.cgir"
        file.write_text(str(graph), encoding="utf-8")
        placed = [word.replace(PLACE, str(file)) for word in words]
        try:
            return subprocess.run(
                placed if placed != words else [*words, str(file)], capture_output=True, timeout=COMMAND_SECONDS
            ).returncode
        except subprocess.TimeoutExpired:
            return None
        except OSError as error:
            raise UsageError(
                "usage", f"'{words[0]}' cannot be run: {(error.strerror or str(error)).lower()}", fix="check the command"
            ) from None

"""Running a reproducer again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

import numpy as np

from cgptc.artifact.canonical import Json, parse_json
from cgptc.backends.registry import backend, backend_names
from cgptc.driver.examination import read_graph
from cgptc.driver.numeric_check import numeric_check
from cgptc.driver.reproducer import FACTS_FILE, FORMAT, GRAPH_FILE
from cgptc.ir.diagnostics import FileError, MalformedError
from cgptc.ir.graph import Graph
from cgptc.ir.op import OPS, Array
from cgptc.ir.ops.constant import Constant
from cgptc.ir.weight_expressions import leaves
from cgptc.ir.weights import Stored
from cgptc.passes.instruments import VerifyEach
from cgptc.passes.manager import Instrument, PassContext, Pipeline
from cgptc.testing.arrays import random_array


@dataclass(frozen=True)
class Replay:
    """What running a reproducer again gave: the failure then and now (None: it is gone)."""

    pipeline: str
    then: str
    now: str | None
    versions: dict[str, str]

    @property
    def again(self) -> bool:
        """Whether it fails in the same way: with the same kind of error."""
        return self.now is not None and self.now.partition(":")[0] == self.then.partition(":")[0]


def replay(folder: Path) -> Replay:
    """Run the pass that failed on the graph that it failed on. Weights are random ones of the same types.

    Raises `FileError` or `MalformedError` where the folder holds no reproducer.
    """
    facts = _facts(folder / FACTS_FILE)
    graph = with_random_weights(read_graph(folder / GRAPH_FILE))
    legal = facts.get("legal")
    left = facts.get("rewrites_left")
    target = str(facts["target"])
    found = backend(target) if target in backend_names() else None
    context = PassContext(
        target=target,
        cost_model=found.cost_model(found.options()) if found is not None else None,
        legal=frozenset(OPS[str(name)] for name in legal if str(name) in OPS) if isinstance(legal, list) else None,
        rewrites_left=left if isinstance(left, int) else None,
    )
    watching: Sequence[Instrument] = [VerifyEach(), numeric_check()] if facts["verify_each"] == "numeric" else [VerifyEach()]
    now = failure(graph, Pipeline.parse(str(facts["pipeline"])), context, watching)
    versions = facts["versions"]
    assert isinstance(versions, dict)
    then = {name: str(text) for name, text in versions.items()}
    return Replay(str(facts["pipeline"]), f"{facts['error']}: {facts['message']}", now, then)


def failure(graph: Graph, pipeline: Pipeline, context: PassContext, watching: Sequence[Instrument]) -> str | None:
    """How a pipeline fails on a graph, which it changes: kind and message of the error; None where it does not."""
    try:
        pipeline.run(graph, context, watching)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None


def with_random_weights(graph: Graph) -> Graph:
    """The graph with a store that makes up every stored weight, the same each time."""
    graph.store = RandomStore(
        {
            leaf.name: leaf
            for node in graph.nodes
            if isinstance(node.op, Constant)
            for leaf in leaves(node.op.weight)
            if isinstance(leaf, Stored)
        }
    )
    return graph


@dataclass(frozen=True)
class RandomStore:
    """Weights by name, drawn from the name."""

    weights: dict[str, Stored]

    def read(self, name: str, start: int, stop: int) -> Array:
        """Rows of the weight; KeyError for an unknown name."""
        weight = self.weights[name]
        seed = int.from_bytes(sha256(name.encode()).digest()[:8], "little")
        whole = random_array(weight.stored_shape, weight.stored_dtype, np.random.default_rng(seed))
        return whole[start:stop] if whole.ndim else whole


def _facts(path: Path) -> dict[str, Json]:
    try:
        found = parse_json(path.read_bytes())
    except OSError as error:
        raise FileError("read", (error.strerror or str(error)).lower(), file=str(path), fix="give the folder of a reproducer") from error
    except ValueError:
        found = None
    wanted = {"format", "pipeline", "target", "verify_each", "error", "message", "versions"}
    if not isinstance(found, dict) or not wanted <= set(found) or not isinstance(found["versions"], dict):
        raise MalformedError("reproducer", "is no reproducer's description", file=str(path), fix="give the folder of a reproducer")
    if found["format"] != FORMAT:
        raise MalformedError("reproducer", f"has format {found['format']}, not {FORMAT}", file=str(path), fix="use the cgptc that wrote it")
    return found

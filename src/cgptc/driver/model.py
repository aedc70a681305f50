"""What the driver compiles: a graph, and what must be known about the model beyond it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cgptc.artifact.canonical import Json
from cgptc.ir.graph import Graph


@dataclass(frozen=True)
class TextFacts:
    """What generation needs: number of tokens, the most positions (None: no limit), ids that end a text."""

    vocabulary: int
    context: int | None = None
    stop: tuple[int, ...] = ()

    def to_json(self) -> dict[str, Json]:
        """As the manifest holds it."""
        return {"vocabulary": self.vocabulary, "context": self.context, "stop": list(self.stop)}


@dataclass(frozen=True)
class Model:
    """A model that was opened and captured.

    ``name`` is its class; ``facts`` describe it (layers, parameters); ``input`` says what kind of file it was and its digest;
    ``text`` is there for causal language models; ``companions`` are files to copy into the artifact, tokenizers for one.
    """

    graph: Graph
    name: str
    input: Mapping[str, Json] = field(default_factory=dict)
    facts: Mapping[str, Json] = field(default_factory=dict)
    text: TextFacts | None = None
    companions: Mapping[str, bytes] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

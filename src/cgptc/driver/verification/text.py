"""The checks of a causal language model: whole runs, left padding, prefill and decode, generation."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np

from cgptc.driver.verification.checks import Check, compare, compare_exactly
from cgptc.driver.verification.reference import MAXIMUM_WORK, Answer, Reference, artifact_graph, work
from cgptc.ir.comparison import graph_depth
from cgptc.ir.diagnostics import CgptcError, Exit, UsageError
from cgptc.ir.graph import Graph
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.ir.ops.attention import Attention
from cgptc.runtime.compiled import Artifact
from cgptc.runtime.generation import left_padded
from cgptc.runtime.inputs import complete_inputs
from cgptc.runtime.interface import IDS, LOGITS, MASK, Interface
from cgptc.testing.tolerances import TOP_TWO_FACTOR, Fault, NoiseFloor, t3_largest

Answers = Callable[[tuple[int, ...]], Answer]

AUTOMATIC = (1, 7, 33)
DECODED = 3
"""Tokens at the end of a row that the decode check reads one by one."""

EXACT = 8
"""Tokens up to which the artifact's graph is interpreted in float64 however large the model."""

GENERATED = 4
PROBED = 8
"""Tokens that a noise floor rests on at least: a short row is measured in a batch with others of its length. A handful of right results
say too little of the noise of one token, whose logits share one error of the last norm.
"""

SEED = 20240229


def choose_lengths(asked: Sequence[int] | None, limit: int, graph: Graph) -> tuple[int, ...]:
    """The lengths to verify at: those asked for, else a few with every attention window's edges, all within the model's limit."""
    if asked is not None:
        for length in asked:
            if not 1 <= length <= limit:
                raise UsageError("bad-value", f"the length {length} is not within 1 to {limit}", fix="--lengths 1,7")
        return tuple(sorted(set(asked)))
    windows = {node.op.window for node in graph.nodes if isinstance(node.op, Attention) and node.op.window is not None}
    edges = {length for window in windows for length in (window - 1, window, window + 1, 2 * window)}
    return tuple(sorted({length for length in {*AUTOMATIC, *edges} if 1 <= length <= limit}))


@dataclass(frozen=True)
class TextChecks:
    """The checks of one artifact against one reference, on rows of at most ``longest`` tokens."""

    artifact: Artifact
    reference: Reference
    longest: int

    def run(self, lengths: Sequence[int]) -> Iterator[Check]:
        """All checks, shortest first."""
        vocabulary = self.artifact.text_model.vocabulary
        generator = np.random.default_rng(SEED)
        batch_limit = self._limit("batch")
        answer = cache(self._answer)
        graph = artifact_graph(self.artifact, self.reference)
        drawn = {
            length: [tuple(generator.integers(0, vocabulary, size).tolist()) for size in (length, max(1, length // 2))]
            for length in lengths
        }
        for length, rows in drawn.items():
            if length <= EXACT or work(graph, complete_inputs(Interface.of(graph), {IDS: np.array(rows[:1])})) <= MAXIMUM_WORK:
                yield from self._exact(graph, rows[0], answer)
            yield from self._whole("whole run", rows[:1], answer)
            if self.artifact.interface.cached and length > 1:
                yield from self._decoded("prefill and decode", rows[:1], answer)
            if batch_limit >= 2:
                yield from self._whole("left-padded", rows, answer)
                if self.artifact.interface.cached and length > 1:
                    yield from self._decoded("left-padded decode", rows, answer)
        yield self._generated([int(token) for token in generator.integers(0, vocabulary, min(GENERATED, lengths[-1]))])

    def _limit(self, symbol: str) -> int:
        found = self.artifact.interface.symbols.get(symbol)
        return found.high if found is not None else 1

    def _answer(self, row: tuple[int, ...]) -> Answer:
        """For a row alone, with the largest noise of any row of its length that was looked at."""
        others = max(0, -(-PROBED // len(row)) - 1)
        probes = np.random.default_rng([SEED, len(row)]).integers(0, self.artifact.text_model.vocabulary, (others, len(row)))
        ids = np.array([row, *probes.tolist()])
        batch = self.reference.graph.symbols.get("batch")
        together = batch.high if batch is not None else 1
        found = [self.reference.answer({IDS: ids[start : start + together]}, by_row=True) for start in range(0, len(ids), together)]
        floors = [each.floors[LOGITS] for each in found]
        floor = NoiseFloor(max(each.rmse for each in floors), max(each.largest for each in floors))
        return Answer({name: array[:1] for name, array in found[0].outputs.items()}, {LOGITS: floor})

    def _exact(self, graph: Graph, row: tuple[int, ...], answer: Answers) -> Iterator[Check]:
        found = evaluate_graph(graph, complete_inputs(Interface.of(graph), {IDS: np.array([row])}), wide=True)[LOGITS][0]
        expected = answer(row).outputs[LOGITS][0]
        yield compare_exactly("graph in float64", 1, expected[-len(found) :], found, graph_depth(graph))

    def _whole(self, what: str, rows: list[tuple[int, ...]], answer: Answers) -> Iterator[Check]:
        ids, mask = left_padded(rows)
        yield from self._compare(what, rows, self._run(ids, mask, {})[LOGITS], answer)

    def _decoded(self, what: str, rows: list[tuple[int, ...]], answer: Answers) -> Iterator[Check]:
        ids, mask = left_padded(rows)
        start = max(1, ids.shape[1] - DECODED)
        pieces = []
        pasts: dict[str, Array] = {}
        for begin, end in [(0, start), *((place, place + 1) for place in range(start, ids.shape[1]))]:
            outputs = self._run(ids[:, begin:end], mask[:, :end], pasts)
            pasts = {past: outputs[present] for past, present in self.artifact.interface.pasts}
            pieces.append(outputs[LOGITS])
        yield from self._compare(what, rows, np.concatenate(pieces, axis=1), answer)

    def _run(self, ids: Array, mask: Array, pasts: dict[str, Array]) -> dict[str, Array]:
        given = {IDS: ids, **pasts}
        if MASK in {port.name for port in self.artifact.interface.inputs}:
            given[MASK] = mask
        return self.artifact.run(given)

    def _compare(self, what: str, rows: list[tuple[int, ...]], logits: Array, answer: Answers) -> Iterator[Check]:
        for number, row in enumerate(rows):
            found = answer(row)
            count = min(len(row), logits.shape[1])
            expected = found.outputs[LOGITS][0][-count:]
            name = what if len(rows) == 1 else f"{what}, row {number + 1}"
            yield compare(name, len(rows), expected, logits[number, -count:], found.floors[LOGITS], classes=True)

    def _generated(self, prompt: list[int]) -> Check:
        """Greedy tokens through the generation engine are the reference's, but where its own two best are a tie within the bound."""
        try:
            made = self.artifact.generate(prompt, max_new_tokens=min(GENERATED, self.longest - len(prompt) + 1)).ids
        except CgptcError as error:
            if error.exit is not Exit.MISMATCH:
                raise
            return Check("greedy generation", len(prompt), 1, 0.0, 0.0, 0.0, 0.0, None, Fault("greedy", error.what))
        answer = self._answer((*prompt, *made))
        logits, floor = answer.outputs[LOGITS][0][len(prompt) - 1 :], answer.floors[LOGITS]
        margin = TOP_TWO_FACTOR * t3_largest(floor)
        fault = None
        for place, token in enumerate(made):
            best = int(np.argmax(logits[place]))
            if token != best and logits[place, best] - logits[place, token] > margin:
                what = f"new token {place + 1} is {token}, the reference's is {best}"
                fault = Fault("greedy", what, (place,), str(best), str(token), float(logits[place, best] - logits[place, token]), margin)
                break
        return Check("greedy generation", len(prompt) + len(made), 1, 0.0, 0.0, 0.0, 0.0, None, fault)

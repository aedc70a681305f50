"""Running an artifact against the clock."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cgptc.artifact.canonical import Json
from cgptc.backends.onnx.backend import MODEL_FILE
from cgptc.backends.onnx.gemm_peak import GemmPeak
from cgptc.backends.onnx.kept_logits import with_kept_logits
from cgptc.backends.onnx.session import OnnxSession
from cgptc.driver.bench.read_stream import ReadStream
from cgptc.driver.bench.work import cache_bytes_per_token, operations, weight_bytes_per_token
from cgptc.driver.peak_memory import peak_bytes
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.graph import Graph
from cgptc.runtime.compiled import Artifact
from cgptc.runtime.engine import DecoderEngine, Ids

DEFAULT_LENGTHS = (16, 128, 512, 1024, 2048)
DECODE_PROMPT = 128
"""Tokens before the measured ones, as in most published figures."""

LIMITS = 2
"""Readings of the memory's speed before the decoded tokens, and as many after them: between two tokens they would slow the next ones."""


@dataclass(frozen=True)
class Plan:
    """What to measure: ``lengths`` of prompts (empty: `DEFAULT_LENGTHS` as far as the model's context goes), ``new_tokens`` decoded,
    ``repeats`` of each prefill, ``batch`` rows, ``threads`` (0: onnxruntime's choice) on execution provider ``ep`` (None: the artifact's).
    """

    lengths: tuple[int, ...] = ()
    new_tokens: int = 64
    repeats: int = 10
    batch: int = 1
    threads: int = 0
    ep: str | None = None

    def __post_init__(self) -> None:
        numbers = {"--new-tokens": self.new_tokens, "--repeat": self.repeats, "--batch": self.batch, "--prompt": min((1, *self.lengths))}
        for name, number in numbers.items():
            if number < 1:
                raise UsageError("bad-value", f"{name} {number} measures nothing", fix="give 1 or more")
        if self.threads < 0:
            raise UsageError("bad-value", f"--threads {self.threads} is negative", fix="0 leaves the number to onnxruntime")


@dataclass(frozen=True)
class Timing:
    """Seconds of one kind of call, with the machine's limit read between the calls.

    ``work`` is what a call must do at the least, in operations or bytes, and ``limit`` the median of what the machine does a second.
    """

    seconds: tuple[float, ...]
    tokens: int
    work: int
    limit: float

    @property
    def p50(self) -> float:
        return float(np.percentile(self.seconds, 50))

    @property
    def p90(self) -> float:
        return float(np.percentile(self.seconds, 90))

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / self.p50

    @property
    def share(self) -> float:
        """The part of the machine's limit that the median call reached."""
        return self.work / self.p50 / self.limit

    def to_json(self) -> dict[str, Json]:
        return {
            "p50_seconds": self.p50,
            "p90_seconds": self.p90,
            "tokens_per_second": self.tokens_per_second,
            "seconds": list(self.seconds),
            "tokens": self.tokens,
            "work": self.work,
            "limit_per_second": self.limit,
            "share": self.share,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Timing:
        """What `to_json` gave."""
        return cls(tuple(value["seconds"]), value["tokens"], value["work"], value["limit_per_second"])


@dataclass(frozen=True)
class Measurement:
    """What `measure` found on one execution provider. ``prefill`` is by prompt length, and includes the choice of the first new token."""

    ep: str
    threads: int
    batch: int
    load_seconds: float
    first_token_seconds: float
    peak_bytes: int
    prefill: dict[int, Timing] = field(default_factory=dict)
    decode_prompt: int = 0
    decode: Timing | None = None
    placement: dict[str, int] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        return {
            "ep": self.ep,
            "threads": self.threads,
            "batch": self.batch,
            "load_seconds": self.load_seconds,
            "first_token_seconds": self.first_token_seconds,
            "peak_bytes": self.peak_bytes,
            "prefill": {str(length): timing.to_json() for length, timing in self.prefill.items()},
            "decode": None if self.decode is None else {"after": self.decode_prompt, **self.decode.to_json()},
            "placement": dict(self.placement),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Measurement:
        """What `to_json` gave."""
        decode = value["decode"]
        return cls(
            value["ep"],
            value["threads"],
            value["batch"],
            value["load_seconds"],
            value["first_token_seconds"],
            value["peak_bytes"],
            {int(length): Timing.from_json(timing) for length, timing in value["prefill"].items()},
            decode["after"] if decode is not None else 0,
            Timing.from_json(decode) if decode is not None else None,
            value["placement"],
        )


def measure(artifact: Artifact, plan: Plan) -> Measurement:
    """Load the artifact and time it. `UsageError` where it is not a cached causal language model, or a length is beyond its context."""
    model = artifact.text_model
    if artifact.target != "onnx" or not artifact.interface.cached:
        what = "only a causal language model with a cache, compiled for onnx, is measured"
        raise UsageError("no-bench", what, file=str(artifact.path), fix="compile with --target onnx --cache dynamic")
    lengths = _lengths(plan, model.context)
    prompt = min(DECODE_PROMPT, max(1, (model.context or DECODE_PROMPT + plan.new_tokens) - plan.new_tokens))
    steps = plan.new_tokens if model.context is None else min(plan.new_tokens, model.context - prompt)

    start = time.perf_counter()
    session = open_session(artifact, plan)
    engine = artifact.engine(session)
    loaded = time.perf_counter()
    rng = np.random.default_rng(0)
    prompts = {length: rng.integers(model.vocabulary, size=(plan.batch, length)) for length in {*lengths, prompt}}
    _prefill(engine, prompts[lengths[0]])
    first = time.perf_counter()
    # Everything runs once before the machine's own limits are measured, whose buffers would count as the model's memory.
    _prefill(engine, prompts[max(prompts)])
    peak = peak_bytes()

    threads = plan.threads or core_count()
    called = with_kept_logits(artifact.graph) if session.can_keep_logits else None
    graph = artifact.graph if called is None else called[0]
    gemm, stream = GemmPeak(plan.threads), ReadStream(threads)
    return Measurement(
        plan.ep or str(artifact.load_target().options.ep),
        threads,
        plan.batch,
        load_seconds=loaded - start,
        first_token_seconds=first - start,
        peak_bytes=peak,
        prefill={length: _time_prefill(graph, engine, prompts[length], plan.repeats, gemm) for length in lengths},
        decode_prompt=prompt,
        decode=_time_decode(artifact, engine, prompts[prompt], steps, stream),
        placement=session.placement(),
    )


def _lengths(plan: Plan, context: int | None) -> tuple[int, ...]:
    if not plan.lengths:
        found = tuple(length for length in DEFAULT_LENGTHS if context is None or length <= context)
        return found or (context or 1,)
    for length in plan.lengths:
        if context is not None and length > context:
            raise UsageError("context", f"a prompt of {length} tokens is beyond the model's {context} positions", fix="give shorter ones")
    return tuple(sorted(set(plan.lengths)))


def _prefill(engine: DecoderEngine, ids: Ids) -> Ids:
    logits = engine.prefill(ids, np.ones(ids.shape, np.bool_))
    chosen: Ids = np.argmax(logits, axis=1)
    return chosen


def _timed(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _time_prefill(graph: Graph, engine: DecoderEngine, ids: Ids, repeats: int, gemm: GemmPeak) -> Timing:
    batch, length = ids.shape
    seconds: list[float] = []
    limits: list[float] = []
    _prefill(engine, ids)
    for _ in range(repeats):
        limits.append(gemm.measure())
        seconds.append(_timed(lambda: _prefill(engine, ids)))
    work = operations(graph, batch, length, 0)
    return Timing(tuple(seconds), batch * length, work, float(np.median(limits)))


def _time_decode(artifact: Artifact, engine: DecoderEngine, ids: Ids, steps: int, stream: ReadStream) -> Timing:
    batch, prompt = ids.shape
    seconds: list[float] = []
    limits = [stream.measure() for _ in range(LIMITS)]
    tokens = _prefill(engine, ids)
    for _ in range(steps):
        start = time.perf_counter()
        tokens = np.argmax(engine.step(tokens), axis=1)
        seconds.append(time.perf_counter() - start)
    limits += [stream.measure() for _ in range(LIMITS)]
    graph = artifact.graph
    work = weight_bytes_per_token(graph) + batch * cache_bytes_per_token(graph, prompt + steps // 2)
    return Timing(tuple(seconds), batch, work, float(np.median(limits)))


def open_session(artifact: Artifact, plan: Plan) -> OnnxSession:
    """The artifact's model on the provider and threads that the plan names."""
    return OnnxSession.open(artifact.path / MODEL_FILE, plan.ep or artifact.load_target().options.ep, plan.threads)


def core_count() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

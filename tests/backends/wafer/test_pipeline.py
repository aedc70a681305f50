"""A GPT of two blocks in four regions, tokens streaming through: its numbers, and its time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.backends.wafer.harness import run_both, twenty_schedules

from cgptc.backends.wafer.affine import var
from cgptc.backends.wafer.clock import steps_cycles
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.interpret.fast import FastEngine
from cgptc.backends.wafer.kernels.assembly import Stage, pipeline, renamed
from cgptc.backends.wafer.kernels.attention import CachedAttention
from cgptc.backends.wafer.kernels.elementwise import Elementwise
from cgptc.backends.wafer.kernels.embedding import Embedding
from cgptc.backends.wafer.kernels.fragment import Direction, Fragment, Grid, Kernel, Reduction
from cgptc.backends.wafer.kernels.linear import Linear
from cgptc.backends.wafer.kernels.norm import Norm
from cgptc.backends.wafer.machine import doubled_sram, small_machine
from cgptc.backends.wafer.program import Program, Scalar

WIDTH, HEADS, CONTEXT, VOCABULARY = 8, 2, 6, 11
GRID = Grid(4, 4)
TREE = Reduction("tree")


def _wired(kernel: Kernel, name: str, **names: str) -> Fragment:
    return renamed(kernel.fragment(name), {f"{name}.{role}": buffer for role, buffer in names.items()})


def _linear(name: str, x: str, k: int, n: int, along: Direction, dtype: str) -> Fragment:
    wide = "f64" if dtype == "f64" else "f32"
    return _wired(Linear(1, k, n, GRID, along, dtype, wide, TREE, bias=True), name, x=x)


def _block(layer: str, x: str, dtype: str) -> tuple[Fragment, ...]:
    """Pre-norm attention and MLP; the residual lies along x."""
    residual = GRID.spread((1, WIDTH), "x")
    token = var("past") + var("item")
    attention = CachedAttention(1, HEADS, HEADS, WIDTH // HEADS, CONTEXT, (WIDTH // HEADS) ** -0.5, GRID, token, "y", dtype, reduction=TREE)
    return (
        _wired(Norm(1, WIDTH, GRID, "x", dtype, "two-pass", TREE), f"{layer}.ln1", x=x),
        *(_linear(f"{layer}.{role}", f"{layer}.ln1.y", WIDTH, WIDTH, "x", dtype) for role in "qkv"),
        _wired(attention, f"{layer}.attention", **{role: f"{layer}.{role}.y" for role in "qkv"}),
        _linear(f"{layer}.project", f"{layer}.attention.y", WIDTH, WIDTH, "y", dtype),
        _wired(Elementwise("add", residual, dtype), f"{layer}.mid", x=x, z=f"{layer}.project.y"),
        _wired(Norm(1, WIDTH, GRID, "x", dtype, "two-pass", TREE), f"{layer}.ln2", x=f"{layer}.mid.y"),
        _linear(f"{layer}.up", f"{layer}.ln2.y", WIDTH, 4 * WIDTH, "x", dtype),
        _wired(Elementwise("gelu", GRID.spread((1, 4 * WIDTH), "y"), dtype), f"{layer}.gelu", x=f"{layer}.up.y"),
        _linear(f"{layer}.down", f"{layer}.gelu.y", 4 * WIDTH, WIDTH, "y", dtype),
        _wired(Elementwise("add", residual, dtype), f"{layer}.end", x=f"{layer}.mid.y", z=f"{layer}.down.y"),
    )


def gpt(dtype: str, *, depth: int = 2) -> Program:
    residual = GRID.spread((1, WIDTH), "x")
    token = var("past") + var("item")
    first = (
        _wired(Embedding(1, VOCABULARY, WIDTH, GRID, "x", dtype, TREE), "tokens", ids="ids"),
        _wired(Embedding(1, CONTEXT, WIDTH, GRID, "x", dtype, TREE, token), "positions"),
        _wired(Elementwise("add", residual, dtype), "embedded", x="tokens.y", z="positions.y"),
    )
    last = (
        _wired(Norm(1, WIDTH, GRID, "x", dtype, "two-pass", TREE), "final", x="1.end.y"),
        _linear("head", "final.y", WIDTH, VOCABULARY, "x", dtype),
    )
    stages = [
        Stage("embed", (0, 0), first),
        Stage("block0", (4, 0), _block("0", "embedded.y", dtype)),
        Stage("block1", (4, 4), _block("1", "0.end.y", dtype)),
        Stage("head", (0, 4), last),
    ]
    machine = small_machine(8, 8)
    scalars = [Scalar("past", 0, CONTEXT - 1), Scalar("length", 1, CONTEXT)]
    if dtype == "f64":
        machine = doubled_sram(machine)
    limits = [CONTEXT - var("past") - var("length")]
    return pipeline(machine, stages, scalars=scalars, items=var("length"), limits=limits, depth=depth)


def weights(program: Program, storage: type) -> dict[str, np.ndarray]:
    random = np.random.default_rng(3)
    return {one.tensor: (random.normal(size=one.layout.shape) * 0.5).astype(storage) for one in program.bindings if one.role == "weight"}


def _reference(w: dict[str, np.ndarray], ids: np.ndarray) -> np.ndarray:
    """The same model in float64, all tokens at once."""
    w = {name: tensor.astype(np.float64) for name, tensor in w.items()}

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ w[f"{name}.weight"] + w[f"{name}.bias"]

    x = w["tokens.table"][ids] + w["positions.table"][: len(ids)]
    for layer in "01":
        normed = norm(f"{layer}.ln1", x)
        q, k, v = (linear(f"{layer}.{role}", normed).reshape(len(ids), HEADS, -1).swapaxes(0, 1) for role in "qkv")
        scores = q @ k.swapaxes(1, 2) * (WIDTH // HEADS) ** -0.5
        scores = np.where(np.tri(len(ids)) > 0, scores, -np.inf)
        share = np.exp(scores - scores.max(-1, keepdims=True))
        mixed = (share / share.sum(-1, keepdims=True) @ v).swapaxes(0, 1).reshape(len(ids), WIDTH)
        x = x + linear(f"{layer}.project", mixed)
        up = linear(f"{layer}.up", norm(f"{layer}.ln2", x))
        x = x + linear(f"{layer}.down", 0.5 * up * (1 + np.vectorize(math.erf)(up / math.sqrt(2))))
    return linear("head", norm("final", x))


@pytest.mark.parametrize(("dtype", "bound"), [("f64", 64 * 20 * 2.0**-53), ("f32", 64 * 2.0**-24), ("f16", 32 * 2.0**-11)])
def test_tokens_streamed_through_regions_give_the_models_logits(dtype: str, bound: float) -> None:
    program = gpt(dtype)
    storage = {"f64": np.float64, "f32": np.float32, "f16": np.float16}[dtype]
    w = weights(program, storage)
    ids = np.array([3, 10, 7], np.int32)
    schedules = twenty_schedules(program)
    scalars = {"past": 0, "length": len(ids)}
    run = run_both(program, w, {"ids": ids[:, None]}, scalars, schedules=[schedules[9]] if dtype == "f16" else schedules[2:3])
    expected = _reference(w, ids)
    assert np.abs(run.outputs["head.y"][:, 0] - expected).max() <= bound * np.abs(expected).max()
    assert (run.outputs["head.y"][:, 0].argmax(-1) == expected.argmax(-1)).all()


def test_decoding_from_the_cache_continues_a_prefill_bit_by_bit() -> None:
    program = gpt("f16")
    w = weights(program, np.float16)
    ids = np.array([[3], [10], [0], [7], [1]], np.int32)
    at_once, in_parts = FastEngine(program), FastEngine(program)
    at_once.load(w)
    in_parts.load(w)
    expected = at_once.run("run", {"ids": ids}, {"past": 0, "length": 5}).outputs["head.y"]
    found = [in_parts.run("run", {"ids": ids[:3]}, {"past": 0, "length": 3}).outputs["head.y"]]
    found += [in_parts.run("run", {"ids": ids[i : i + 1]}, {"past": i, "length": 1}).outputs["head.y"] for i in (3, 4)]
    np.testing.assert_array_equal(np.concatenate(found), expected)


def test_scalars_beyond_their_limits_are_refused() -> None:
    engine = FastEngine(gpt("f16"))
    for scalars, message in (
        ({"past": 3, "length": 4}, "less than 0"),
        ({"past": 6, "length": 1}, "0 to 5"),
        ({"past": 1}, "takes scalars"),
    ):
        with pytest.raises(ProgramError, match=message):
            engine.run("run", {}, scalars)


def test_the_clock_shows_overlap_and_the_slowest_stage() -> None:
    program = gpt("f16")
    engine = FastEngine(program)
    engine.load(weights(program, np.float16))
    clock = engine.run("run", {"ids": np.zeros((6, 1), np.int32)}, {"past": 0, "length": 6}).account.timeline
    alone = engine.run("run", {"ids": np.zeros((1, 1), np.int32)}, {"past": 0, "length": 1}).account.timeline
    slowest = max(program.regions, key=lambda region: clock.busy(region.name))
    assert slowest.name in ("block0", "block1")
    busiest = max(one.busy for one in clock.of(slowest.name))
    assert busiest <= clock.initiation_interval() <= 1.1 * busiest
    assert clock.cycles < 6 * alone.cycles
    assert clock.cycles > alone.cycles + 5 * min(one.busy for one in clock.of(slowest.name))
    assert all(one.finish - one.start >= one.busy for one in clock.intervals)
    steps = [step for step in slowest.steps("run") if type(step).__name__ not in ("Send", "Receive")]
    assert steps_cycles(steps, slowest, program.machine, {"past": 0, "item": 5, "length": 6}) <= busiest


def test_a_program_moved_as_a_whole_gives_the_same_bits_and_time() -> None:
    program = gpt("f16")
    machine = small_machine(10, 9)
    moved = replace(
        program,
        machine=machine,
        regions=tuple(
            replace(one, rectangle=replace(one.rectangle, x=one.rectangle.x + 2, y=one.rectangle.y + 1)) for one in program.regions
        ),
    )
    w, found = weights(program, np.float16), []
    for one in (program, moved):
        engine = FastEngine(one)
        engine.load(w)
        found.append(engine.run("run", {"ids": np.array([[4], [9]], np.int32)}, {"past": 0, "length": 2}))
    np.testing.assert_array_equal(found[0].outputs["head.y"], found[1].outputs["head.y"])
    assert found[0].account.timeline == found[1].account.timeline

"""Gates, pooling, slices and concatenations: one set of bits, numpy's results, cycles of the closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from tests.backends.wafer.harness import check_cycles, run_both

from cgptc.backends.wafer.affine import var
from cgptc.backends.wafer.arithmetic.formats import format_of
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.kernels.assembly import single_region
from cgptc.backends.wafer.kernels.fragment import Grid, Reduction
from cgptc.backends.wafer.kernels.gated import ACTIVATIONS, Gated
from cgptc.backends.wafer.kernels.pooling import Pool
from cgptc.backends.wafer.kernels.rearrange import JoinFeatures, JoinRows, Piece, pieces_of
from cgptc.backends.wafer.machine import small_machine
from cgptc.backends.wafer.program import Scalar
from cgptc.ir.dtypes import f32
from cgptc.testing.tolerances import assert_t0, assert_t2

MACHINE = small_machine(8, 8)


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gates_multiply_by_the_activation(activation: str, dtype: str) -> None:
    random = np.random.default_rng(1)
    storage = format_of(dtype).storage
    kernel = Gated(activation, Grid(2, 3).spread((2, 17), "x"), dtype)
    x, z = random.normal(size=(2, 17)).astype(storage), random.normal(size=(2, 17)).astype(storage)
    run = run_both(single_region(MACHINE, [kernel.fragment("g")]), {}, {"g.x": x, "g.z": z})
    check_cycles(kernel, run)
    wide = x.astype(float)
    erf = np.vectorize(math.erf)
    gate = {
        "silu": wide / (1 + np.exp(-wide)),
        "gelu": 0.5 * wide * (1 + erf(wide / math.sqrt(2))),
        "gelu_tanh": 0.5 * wide * (1 + np.tanh(math.sqrt(2 / math.pi) * (wide + 0.044715 * wide**3))),
        "sigmoid": 1 / (1 + np.exp(-wide)),
        "tanh": np.tanh(wide),
        "relu": np.maximum(wide, 0),
    }[activation]
    # 1 + erf(x) cancels for negative x, so that errors are those of the terms.
    assert_t2(gate * z, run.outputs["g.y"], magnitude=np.abs(wide * z), terms=4, accumulator=f32, function="erf")


POOLS = [
    ("mean", False),
    ("mean", True),
    ("sum", False),
    ("sum", True),
    ("max", False),
    ("max", True),
    ("last", False),
    ("last", True),
    ("row", False),
]


@pytest.mark.parametrize("dtype", ["f32", "f16"])
@pytest.mark.parametrize(("mode", "masked"), POOLS)
def test_pooling_sees_tokens_and_no_padding(mode: str, masked: bool, dtype: str) -> None:
    random = np.random.default_rng(2)
    storage = format_of(dtype).storage
    for mask in ([1, 1, 1, 0, 0], [0, 0, 1, 1, 1], [1, 1, 1, 1, 1]):
        kernel = Pool(5, 17, Grid(2, 3), "x" if dtype == "f32" else "y", dtype, mode, masked, at=var("at"))  # type: ignore[arg-type]
        x = random.normal(size=(5, 17)).astype(storage)
        program = single_region(MACHINE, [kernel.fragment("p")], scalars=[Scalar("at", 0, 4)])
        run = run_both(program, {}, {"p.x": x, "p.mask": np.array(mask, storage)}, {"at": 3})
        check_cycles(kernel, run, {"at": 3})
        rows = x.astype(float)[np.array(mask) > 0] if masked else x.astype(float)
        if mode == "mean":
            expected, size = rows.mean(0), np.abs(rows).mean(0)
            assert_t2(expected[None], run.outputs["p.y"], magnitude=size, terms=6, accumulator=f32, function="division")
        elif mode == "sum":
            assert_t2(rows.sum(0)[None], run.outputs["p.y"], magnitude=np.abs(rows).sum(0), terms=6, accumulator=f32)
        else:
            assert_t0({"max": rows.max(0), "last": rows[-1], "row": x[3]}[mode].astype(storage)[None], run.outputs["p.y"])


def test_the_mean_of_padding_alone_is_zero() -> None:
    kernel = Pool(2, 3, Grid(1, 2), masked=True)
    run = run_both(single_region(MACHINE, [kernel.fragment("p")]), {}, {"p.x": np.ones((2, 3)), "p.mask": np.zeros(2)})
    assert (run.outputs["p.y"] == 0).all()


@pytest.mark.parametrize("along", ["x", "y"])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_features_are_cut_and_joined_bit_by_bit(dtype: str, along: str) -> None:
    random = np.random.default_rng(3)
    storage = format_of(dtype).storage
    pieces = (Piece(1, 2, 5), Piece(0, 16, 9, -2), Piece(1, 0, 3))
    kernel = JoinFeatures(2, (17, 8), pieces, Grid(3, 4), along, dtype, Reduction("tree"))  # type: ignore[arg-type]
    first, second = random.normal(size=(2, 17)).astype(storage), random.normal(size=(2, 8)).astype(storage)
    first[0, 0] = -0.0
    run = run_both(single_region(MACHINE, [kernel.fragment("j")]), {}, {"j.x0": first, "j.x1": second})
    check_cycles(kernel, run)
    expected = np.concatenate([second[:, 2:7], first[:, ::-2], second[:, :3]], axis=1)
    assert_t0(expected, run.outputs["j.y"])
    np.testing.assert_array_equal(np.signbit(expected), np.signbit(run.outputs["j.y"]))


def test_features_come_out_of_blocks_of_any_size() -> None:
    pieces = pieces_of([(0, 5), (0, 3), (1, 1), (1, 2), (1, 0)])
    assert len(pieces) == 4
    kernel = JoinFeatures(2, (6, 3), pieces, Grid(2, 5), blocks=(2, 3), y_block=2)
    x = [np.arange(2 * width, dtype=np.float32).reshape(2, width) for width in (6, 3)]
    run = run_both(single_region(MACHINE, [kernel.fragment("j")]), {}, {"j.x0": x[0], "j.x1": x[1]})
    check_cycles(kernel, run)
    assert_t0(np.concatenate([x[0][:, [5, 3]], x[1][:, [1, 2, 0]]], axis=1), run.outputs["j.y"])


def test_rows_are_cut_and_joined_within_each_pe() -> None:
    random = np.random.default_rng(4)
    kernel = JoinRows((4, 3), 7, (Piece(0, 1, 2, 2), Piece(1, 0, 3)), Grid(2, 3))
    first, second = (random.normal(size=(rows, 7)).astype(np.float32) for rows in (4, 3))
    run = run_both(single_region(MACHINE, [kernel.fragment("j")]), {}, {"j.x0": first, "j.x1": second})
    check_cycles(kernel, run)
    assert_t0(np.concatenate([first[1:4:2], second]), run.outputs["j.y"])
    assert run.account.link_bytes == 0


def test_pieces_outside_their_input_are_refused() -> None:
    with pytest.raises(ProgramError, match="leaves an input"):
        JoinRows((4,), 2, (Piece(0, 2, 3),), Grid(1, 1))
    with pytest.raises(ProgramError, match="no piece"):
        JoinFeatures(1, (4,), (Piece(1, 0, 1),), Grid(1, 1))
    with pytest.raises(ProgramError, match="no gate"):
        Gated("cos", Grid(1, 1).spread((1, 1), "x"))

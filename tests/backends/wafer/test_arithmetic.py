"""Arithmetic: rounding is IEEE's, functions keep their stated bounds, compiled loops give the array form's bits."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from cgptc.backends.wafer import arithmetic, interpret
from cgptc.backends.wafer.arithmetic import matrix, threads
from cgptc.backends.wafer.arithmetic.formats import BF16, F16, F32, F64, Format, add, bitwise_or, maximum, minimum, multiply, multiply_add
from cgptc.backends.wafer.arithmetic.functions import BOUNDS, FUNCTIONS, scalar_function
from cgptc.backends.wafer.arithmetic.instructions import INSTRUCTIONS, Call, Price, instruction
from cgptc.backends.wafer.arithmetic.matrix import gemm_planes
from cgptc.backends.wafer.machine import WSE2
from cgptc.testing.tolerances import assert_t2

REFERENCES = {
    "exp": math.exp,
    "log": math.log,
    "reciprocal": lambda x: 1 / x,
    "rsqrt": lambda x: 1 / math.sqrt(x),
    "sqrt": math.sqrt,
    "erf": math.erf,
    "tanh": math.tanh,
    "sigmoid": lambda x: 1 / (1 + math.exp(-x)),
}
ONLY_POSITIVE = {"log", "rsqrt", "sqrt"}

FORBIDDEN_ARITHMETIC = """
exp exp2 expm1 log log2 log10 log1p sin cos tan tanh sinh cosh power sqrt cbrt reciprocal divide true_divide sum prod mean var std dot vdot
inner outer matmul einsum tensordot cumsum cumprod add subtract multiply fma maximum minimum fmax fmin max min round
"""


def _samples(name: str, dtype: type[np.floating]) -> np.ndarray:
    random = np.random.default_rng(7)
    parts = [random.uniform(-80, 80, 3000), random.normal(0, 1, 3000), random.uniform(0.3, 1.8, 3000), 2.0 ** random.uniform(-30, 6, 1000)]
    x = np.concatenate(parts).astype(dtype)
    return np.abs(x) if name in ONLY_POSITIVE else x


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_functions_keep_their_stated_bound_in_f32(name: str) -> None:
    x = _samples(name, np.float32)
    found = scalar_function(name, F32, x)
    expected = np.array([REFERENCES[name](float(value)) for value in x])
    normal = np.abs(expected) > 1.2e-38
    error = np.abs(found - expected)[normal] / np.abs(expected)[normal] / F32.unit
    assert error.max() <= BOUNDS[name]


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_functions_keep_their_stated_bound_in_f64(name: str) -> None:
    """The reference itself is good to one unit, which is allowed for."""
    x = _samples(name, np.float64)
    expected = np.array([REFERENCES[name](float(value)) for value in x])
    error = np.abs(scalar_function(name, F64, x) - expected) / np.abs(expected) / F64.unit
    assert error.max() <= BOUNDS[name] + 2.0


def test_functions_of_special_values() -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan], np.float32)
    expected = {
        "exp": [1, 1, np.inf, 0, np.nan],
        "log": [-np.inf, -np.inf, np.inf, np.nan, np.nan],
        "reciprocal": [np.inf, -np.inf, 0, -0.0, np.nan],
        "rsqrt": [np.inf, np.inf, 0, np.nan, np.nan],
        "sqrt": [0, -0.0, np.inf, np.nan, np.nan],
        "erf": [0, -0.0, 1, -1, np.nan],
        "tanh": [0, -0.0, 1, -1, np.nan],
        "sigmoid": [0.5, 0.5, 1, 0, np.nan],
    }
    for name, values in expected.items():
        found = scalar_function(name, F32, x)
        np.testing.assert_array_equal(found, np.array(values, np.float32), err_msg=name)
        rest = ~np.isnan(found)
        np.testing.assert_array_equal(np.signbit(found)[rest], np.signbit(np.array(values))[rest], err_msg=name)


def test_functions_reach_into_the_subnormals() -> None:
    x = np.array([-87.5, -95.0, -103.0, -104.0], np.float32)
    assert_t2(np.exp(x.astype(np.float64)), scalar_function("exp", F32, x), magnitude=0.0, terms=0, function="exp")
    large = np.array([1e38, 3e38, -3e38, 1e-38], np.float32)
    assert_t2(1 / large.astype(np.float64), scalar_function("reciprocal", F32, large), magnitude=0.0, terms=0, function="division")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_halves_are_computed_in_f32_and_rounded_once(name: str) -> None:
    x = np.abs(np.random.default_rng(1).normal(0, 1, 50)).astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(scalar_function(name, F16, x), scalar_function(name, F32, x).astype(np.float16).astype(np.float32))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_gives_the_same_bits_for_any_shape_and_order_in_memory(name: str) -> None:
    x = np.abs(np.random.default_rng(2).normal(0, 2, (6, 10))).astype(np.float32)
    whole = scalar_function(name, F32, x)
    np.testing.assert_array_equal(scalar_function(name, F32, np.asfortranarray(x)), whole)
    np.testing.assert_array_equal(np.array([[scalar_function(name, F32, np.asarray(v)) for v in row] for row in x]), whole)


@pytest.mark.parametrize(("target", "storage"), [(F16, np.float16), (BF16, ml_dtypes.bfloat16)])
def test_narrow_arithmetic_is_correctly_rounded(target: Format, storage: type) -> None:
    random = np.random.default_rng(3)
    with np.errstate(over="ignore"):
        _check_narrow(target, storage, random)


def _check_narrow(target: Format, storage: type, random: np.random.Generator) -> None:
    x, y = (target.round((random.normal(0, 1, 4000) * 2.0 ** random.integers(-12, 12, 4000)).astype(np.float32)) for _ in range(2))
    wide_x, wide_y = x.astype(np.float64), y.astype(np.float64)
    # In float64 both results are exact, so that one conversion rounds them correctly.
    np.testing.assert_array_equal(add(target, x, y), (wide_x + wide_y).astype(storage).astype(np.float32))
    np.testing.assert_array_equal(multiply(target, x, y), (wide_x * wide_y).astype(storage).astype(np.float32))


def test_multiply_add_rounds_twice() -> None:
    x = np.float32(1 + 2.0**-12)
    found = multiply_add(F32, np.asarray(np.float32(-1)), np.asarray(x), np.asarray(x))
    assert found == np.float32(np.float32(x * x) - 1)
    assert float(found) != float(x) ** 2 - 1


def test_maximum_and_minimum_pass_nan_on() -> None:
    x, y = np.array([1, np.nan, 2, -0.0], np.float32), np.array([2, 1, np.nan, 0.0], np.float32)
    np.testing.assert_array_equal(maximum(F32, x, y), [2, np.nan, np.nan, 0])
    np.testing.assert_array_equal(minimum(F32, x, y), [1, np.nan, np.nan, 0])


def test_bitwise_or_merges_with_zero_exactly() -> None:
    x = np.array([-0.0, 1.5, -3, np.inf], np.float32)
    for target in (F32, F16, BF16):
        merged = bitwise_or(target, x, np.zeros(4, np.float32))
        np.testing.assert_array_equal(merged, x)
        assert np.signbit(merged[0])


def _planes(target: Format, size: int, pes: int, random: np.random.Generator) -> np.ndarray:
    wide = random.normal(0, 1, (size, pes)) * 2.0 ** random.integers(-9, 6, (size, pes))
    return target.round(wide.astype(target.carrier))


@pytest.mark.parametrize("target", [F32, F16, BF16, F64])
def test_compiled_matrix_product_gives_the_bits_of_the_array_form(target: Format) -> None:
    random = np.random.default_rng(5)
    rows, columns, (m, k, n) = 3, 5, (2, 4, 3)
    total, left, right = (_planes(target, size, rows * columns, random) for size in (m * n, m * k, k * n))
    left[0, 0], right[1, 1], total[2, 2] = np.inf, np.nan, 60000.0
    shaped = [
        np.moveaxis(array.reshape(*shape, rows, columns), (2, 3), (0, 1))
        for array, shape in ((total, (m, n)), (left, (m, k)), (right, (k, n)))
    ]
    expected = INSTRUCTIONS["gemm"].body(Call(target, tuple(shaped), (m, n), {}, {"aligned": False}))
    compiled = total.copy()
    places = ((0, n, 1), (0, k, 1), (0, n, 1))

    def grid(array: np.ndarray) -> np.ndarray:
        return array.reshape(-1, rows, columns)

    gemm_planes(target, grid(compiled), grid(left), grid(right), places, (m, k, n), (0, rows, 1), (0, columns))
    found = np.moveaxis(compiled.reshape(m, n, rows, columns), (2, 3), (0, 1))
    np.testing.assert_array_equal(found, expected)
    kept = total.copy()
    gemm_planes(target, grid(kept), grid(left), grid(right), places, (m, k, n), (1, 3, 2), (1, 3))
    part = np.moveaxis(kept.reshape(m, n, rows, columns), (2, 3), (0, 1))
    np.testing.assert_array_equal(part[1, 1:3], expected[1, 1:3])
    np.testing.assert_array_equal(part[[0, 2]], shaped[0][[0, 2]])
    for same in ((slice(0, 1), slice(None)), (slice(None), slice(0, 1)), (slice(0, 1), slice(0, 1))):
        for narrow in (left, right):
            once = [np.ascontiguousarray(grid(one)[:, *same]) if one is narrow else grid(one) for one in (left, right)]
            spread = [np.ascontiguousarray(np.broadcast_to(one, (len(one), rows, columns))) for one in once]
            results = [grid(total.copy()), grid(total.copy())]
            for operands, result in zip((once, spread), results, strict=True):
                gemm_planes(target, result, *operands, places, (m, k, n), (0, rows, 1), (0, columns))
            np.testing.assert_array_equal(*results)


@pytest.mark.parametrize("cores", [2, 3, 9])
def test_a_product_divided_among_cores_gives_the_same_bits(cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(6)
    rows, columns, sizes = 7, 3, (2, 4, 3)
    m, k, n = sizes
    total, left, right = (_planes(F16, size, rows * columns, random).reshape(size, rows, columns) for size in (m * n, m * k, k * n))
    found = [total.copy(), total.copy()]
    for number, result in enumerate(found):
        if number:
            monkeypatch.setattr(threads, "CORES", cores)
            monkeypatch.setattr(matrix, "WORTH_A_THREAD", 1)
        gemm_planes(F16, result, left, right, ((0, n, 1), (0, k, 1), (0, n, 1)), sizes, (1, rows, 2), (0, columns))
    np.testing.assert_array_equal(*found)
    assert not np.array_equal(found[0], total)


def test_compiled_rounding_is_exact_around_every_boundary() -> None:
    halves = np.arange(0, 0x7C01, dtype=np.uint16).view(np.float16).astype(np.float32)
    middles = ((halves[:-1].astype(np.float64) + halves[1:]) / 2)[:-1].astype(np.float32)
    edge = np.array([65519.996, 65520.0, 65536.0, 1e9], np.float32)
    values = np.concatenate([middles, np.nextafter(middles, np.float32(0)), np.nextafter(middles, np.float32(np.inf)), edge])
    values = np.concatenate([values, -values])[None]
    total, one = np.zeros_like(values), np.ones_like(values)
    gemm_planes(F16, total[None], values[None], one[None], ((0, 1, 1),) * 3, (1, 1, 1), (0, 1, 1), (0, values.shape[1]))
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(total, values.astype(np.float16).astype(np.float32))


def test_every_instruction_is_priced_above_nothing() -> None:
    for declared in INSTRUCTIONS.values():
        shapes = tuple((4, 4) for _ in range(declared.inputs))
        if declared.name == "block_gemm":
            shapes = ((4, 4), (4, 4), (2, 2, 2), (2,))
        parameters = dict.fromkeys(declared.parameters, False)
        assert declared.cycles(Price(WSE2, "f32", (4, 4), shapes, parameters)) > 0
        assert declared.csl


def test_an_instruction_cannot_be_declared_twice() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        instruction("add", inputs=2, cycles=lambda price: 1, csl="")(lambda call: call.inputs[0])


def test_neither_engine_nor_arithmetic_uses_other_numpy_arithmetic() -> None:
    """No libm, no reduction whose order follows memory, no library product."""
    arrays = {"sum", "prod", "mean", "std", "var", "dot", "cumsum", "max", "min"}
    files = [*Path(arithmetic.__file__).parent.glob("*.py"), *Path(interpret.__file__).parent.glob("*.py")]
    assert len(files) >= 6
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            assert not isinstance(node, ast.MatMult), file
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("np", "numpy", "math"):
                assert node.attr not in FORBIDDEN_ARITHMETIC.split() or (node.value.id == "math" and node.attr == "prod"), (
                    f"{file.name}:{node.lineno} {node.attr}"
                )
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and not isinstance(node.func.value, ast.Name):
                assert node.func.attr not in arrays, f"{file.name}:{node.lineno} {node.func.attr}"

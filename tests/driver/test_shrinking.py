"""Precision on the command line and in Python: what is asked becomes passes, and what is wrong is told."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import cgptc
from cgptc.driver.compilation import target_of
from cgptc.driver.options import CompileOptions
from cgptc.driver.shrinking import Shrinking, parse_quantize
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.ir.diagnostics import CompileError, UsageError


@pytest.mark.parametrize(
    ("text", "passes"),
    [
        ("int8", "quantize"),
        ("int8:range=full", "quantize{bits=8}"),
        ("int8:block=64", "quantize{bits=8 block=64 activations=blocks}"),
        ("int8:activations=exact", "quantize{bits=8 activations=exact}"),
        ("int4", "quantize{bits=4 block=32 activations=blocks}"),
        ("int4:block=128,activations=exact", "quantize{bits=4 block=128 activations=exact}"),
    ],
)
def test_a_precision_is_a_pass(text: str, passes: str) -> None:
    assert str(parse_quantize(text)) == passes


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int9", "did you mean 'int8'"),
        ("int4:block=0", "no size"),
        ("int4:block", "write int4:block=32"),
        ("int4:range=full", "no setting 'range'"),
        ("int8:range=wide", "range that is not known"),
        ("int8:blok=3", "no setting 'blok'"),
    ],
)
def test_a_wrong_precision_is_told_with_what_is_right(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Shrinking(quantize=text)
    assert message in str(caught.value)


def test_layers_to_keep_need_something_to_keep_them_from() -> None:
    with pytest.raises(UsageError, match="--keep"):
        Shrinking(keep=("lm_head",))


def test_bf16_is_refused_where_onnxruntime_has_no_kernels() -> None:
    with pytest.raises(CompileError, match="no bf16 matrices"):
        target_of(CompileOptions(shrinking=Shrinking("bf16")))
    target_of(CompileOptions(shrinking=Shrinking("bf16"), target_options={"ep": "cuda"}))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.pt"
    write_model(preset("tiny"), path)
    return path


@pytest.mark.parametrize(
    "asked", [{"quantize": "int8"}, {"quantize": "int4:block=16"}, {"dtype": "f16"}, {"dtype": "f16", "quantize": "int8"}]
)
def test_a_shrunk_model_is_smaller_and_near(model: Path, asked: dict[str, str]) -> None:
    dense, small = cgptc.compile(model), cgptc.compile(model, **asked)  # type: ignore[arg-type]
    ids = np.array([[3, 1, 4, 1, 5]])
    expected, found = (artifact.run({"input_ids": ids})["logits"].astype(np.float64) for artifact in (dense, small))
    sizes = [artifact.report.backend["weight_bytes"] for artifact in (dense, small)]
    assert isinstance(sizes[0], int)
    assert isinstance(sizes[1], int)
    assert sizes[1] < 0.8 * sizes[0]
    assert np.corrcoef(expected.reshape(-1), found.reshape(-1))[0, 1] > 0.9
    assert len(small.generate([3, 1, 4], max_new_tokens=2).ids) == 2
    assert small.folder.manifest.options["dtype"] == asked.get("dtype")
    assert small.folder.manifest.options["quantize"] == asked.get("quantize")

"""What is given to run, completed and checked."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cgptc.ir.diagnostics import MalformedError, UsageError
from cgptc.ir.dims import Symbol
from cgptc.ir.dtypes import f32, i64
from cgptc.ir.types import TensorType
from cgptc.runtime.inputs import complete_inputs, require_known_ids
from cgptc.runtime.interface import Interface, Port

BATCH, SEQ, PAST = (Symbol(name, low, high).dim for name, low, high in (("batch", 1, 4), ("seq", 1, 8), ("past", 0, 8)))

CACHED = Interface(
    (
        Port("input_ids", TensorType(i64, (BATCH, SEQ))),
        Port("attention_mask", TensorType(i64, (BATCH, PAST + SEQ))),
        Port("past_key_values.0.key", TensorType(f32, (BATCH, 2, PAST, 4))),
        Port("past_key_values.0.value", TensorType(f32, (BATCH, 2, PAST, 4))),
    ),
    (
        Port("logits", TensorType(f32, (BATCH, SEQ, 11))),
        Port("present.0.key", TensorType(f32, (BATCH, 2, PAST + SEQ, 4))),
        Port("present.0.value", TensorType(f32, (BATCH, 2, PAST + SEQ, 4))),
    ),
)
PLAIN = Interface(
    (
        Port("input_ids", TensorType(i64, (BATCH, SEQ))),
        Port("attention_mask", TensorType(i64, (BATCH, SEQ))),
        Port("types", TensorType(i64, (BATCH, SEQ))),
    ),
    (Port("last_hidden_state", TensorType(f32, (BATCH, SEQ, 16))),),
)


def ids(batch: int, seq: int) -> Any:
    return np.arange(batch * seq).reshape(batch, seq) % 11


@given(st.integers(1, 4), st.integers(1, 8))
def test_ids_alone_are_enough_for_a_causal_model(batch: int, seq: int) -> None:
    found = complete_inputs(CACHED, {"input_ids": ids(batch, seq)})
    assert list(found) == [port.name for port in CACHED.inputs]
    assert found["attention_mask"].tolist() == np.ones((batch, seq)).tolist()
    assert found["past_key_values.0.key"].shape == (batch, 2, 0, 4)


@given(st.integers(1, 4), st.integers(1, 8), st.integers(0, 8))
def test_a_given_past_decides_the_masks_width(batch: int, seq: int, past: int) -> None:
    keys = np.zeros((batch, 2, past, 4), np.float32)
    given = {"input_ids": ids(batch, seq), "past_key_values.0.key": keys, "past_key_values.0.value": keys}
    assert complete_inputs(CACHED, given)["attention_mask"].shape == (batch, past + seq)


def test_integers_of_another_width_and_boolean_masks_are_taken() -> None:
    found = complete_inputs(CACHED, {"input_ids": ids(1, 3).astype(np.int32), "attention_mask": np.ones((1, 3), bool)})
    assert {found["input_ids"].dtype, found["attention_mask"].dtype} == {np.dtype(np.int64)}


def past(shape: tuple[int, ...]) -> Any:
    return np.zeros(shape, np.float32)


WRONG: list[tuple[Interface, dict[str, Any], str]] = [
    (CACHED, {}, "'input_ids' is not given"),
    (CACHED, {"input_id": ids(1, 2)}, "did you mean 'input_ids'"),
    (CACHED, {"x": ids(1, 2)}, "it has input_ids, attention_mask"),
    (CACHED, {"input_ids": ids(1, 2)[0]}, r"must be i64\[batch, seq\]"),
    (CACHED, {"input_ids": ids(1, 2) + 0.5}, "must be i64, got float64"),
    (CACHED, {"input_ids": ids(1, 9)}, "'seq' is 9, and the model was compiled for 1 to 8"),
    (CACHED, {"input_ids": ids(5, 2)}, "'batch' is 5"),
    (CACHED, {"input_ids": ids(2, 2), "attention_mask": ids(3, 2)}, r"axis 0 of 'attention_mask' must be batch, got 3 \(batch is 2\)"),
    (CACHED, {"input_ids": ids(1, 3), "attention_mask": np.array([[1, 0, 1]])}, "padding inside or after"),
    (CACHED, {"input_ids": ids(1, 3), "attention_mask": np.array([[1, 1, 0]])}, "pad on the left"),
    (CACHED, {"input_ids": ids(1, 2), "past_key_values.0.key": past((1, 2, 3, 4))}, "'past_key_values.0.value' is not given"),
    (CACHED, {"input_ids": ids(1, 2), "past_key_values.0.key": past((1, 3, 3, 4))}, "axis 1 of 'past_key_values.0.key' must be 2, got 3"),
    (PLAIN, {"input_ids": ids(1, 2)}, "'types' is not given"),
    (PLAIN, {"input_ids": ids(1, 2), "types": ids(1, 3)}, "axis 1 of 'types' must be seq, got 3"),
]


@pytest.mark.parametrize(("interface", "given", "message"), WRONG, ids=range(len(WRONG)))
def test_what_does_not_fit_is_named(interface: Interface, given: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        complete_inputs(interface, given)


@pytest.mark.parametrize(("wrong", "vocabulary", "fix"), [(-1, 11, "0 to 10"), (11, 11, "0 to 10"), (-1, None, "not negative")])
def test_an_id_that_the_model_does_not_have_is_named(wrong: int, vocabulary: int | None, fix: str) -> None:
    with pytest.raises(UsageError, match=f"'input_ids' has the id {wrong}: ids are {fix}"):
        require_known_ids(np.array([[0, wrong]]), vocabulary)
    require_known_ids(np.array([[0, 10]]), vocabulary)


def test_a_model_without_a_cache_takes_padding_anywhere() -> None:
    mask = np.array([[1, 0, 1]])
    assert (complete_inputs(PLAIN, {"input_ids": ids(1, 3), "attention_mask": mask, "types": ids(1, 3)})["attention_mask"] == mask).all()


@pytest.mark.parametrize("interface", [CACHED, PLAIN], ids=["cached", "plain"])
def test_an_interface_reads_back_from_json(interface: Interface) -> None:
    assert Interface.from_json(interface.to_json()) == interface


def test_a_past_is_paired_with_the_output_that_continues_it() -> None:
    assert CACHED.pasts == (("past_key_values.0.key", "present.0.key"), ("past_key_values.0.value", "present.0.value"))
    assert not PLAIN.cached


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("symbols", []),
        ("symbols", {"batch": [4, 1]}),
        ("symbols", {"batch": [1]}),
        ("symbols", {"b c": [1, 2]}),
        ("inputs", {}),
        ("inputs", [{"name": "x"}]),
        ("inputs", [{"name": "x", "type": "f32[nothing]"}]),
        ("inputs", [{"name": "x", "type": "f32[2] f32[2]"}]),
        ("inputs", [{"name": "x", "type": "f32[2]"}, {"name": "x", "type": "f32[2]"}]),
        ("outputs", None),
    ],
)
def test_an_interface_that_is_none_is_refused(key: str, value: Any) -> None:
    with pytest.raises(MalformedError, match="interface"):
        Interface.from_json({**CACHED.to_json(), key: value})


@pytest.mark.parametrize("size", ["seq - 5", "floordiv(seq, 1 - batch)", "9223372036854775807"])
def test_an_input_of_sizes_that_no_array_has_is_not_made_up(size: str) -> None:
    ports = CACHED.to_json()
    ports["inputs"][1]["type"] = f"i64[batch, {size}]"  # type: ignore[index,call-overload]
    with pytest.raises(UsageError, match="no array of these sizes"):
        complete_inputs(Interface.from_json(ports), {"input_ids": ids(1, 2)})


def test_an_empty_past_beside_a_size_that_no_array_has_is_not_made_up() -> None:
    ports = CACHED.to_json()
    ports["inputs"][2]["type"] = "f32[batch, past, 4611686018427387904]"  # type: ignore[index,call-overload]
    with pytest.raises(UsageError, match="no array of these sizes"):
        complete_inputs(Interface.from_json(ports), {"input_ids": ids(1, 2)})


@pytest.mark.parametrize("shape", ["[]", "[seq]", "[batch, seq, 2]"])
def test_the_mask_of_a_cached_model_has_rows_and_columns(shape: str) -> None:
    ports = CACHED.to_json()
    ports["inputs"][1]["type"] = f"i64{shape}"  # type: ignore[index,call-overload]
    with pytest.raises(MalformedError, match="none of a mask"):
        Interface.from_json(ports)

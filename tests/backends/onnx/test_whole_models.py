"""A small GPT through the backend: every form of attention, prefill, decode, padding, buffers."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from tests.backends.onnx.execution import ORT, STANDARD, model_of, session_of
from tests.backends.onnx.tiny_gpt import TinyGpt

from cgptc.backends.onnx import decoder as decoder_module
from cgptc.backends.onnx.decoder import GrowingDecoder, SharedDecoder
from cgptc.backends.onnx.options import OnnxOptions
from cgptc.backends.onnx.session import OnnxSession
from cgptc.ir.diagnostics import UsageError
from cgptc.ir.interpreter import evaluate_graph
from cgptc.ir.op import Array
from cgptc.testing.tolerances import NoiseFloor, assert_t3, largest_error, rmse

MODELS = (
    TinyGpt(),
    TinyGpt(window=3),
    TinyGpt(rotary=True, key_heads=4),
    TinyGpt(head_width=6, tied=False),  # a width that GroupQueryAttention does not take
)
OPTIONS = (ORT, STANDARD, OnnxOptions(ops="standard", opset=21))


def mode(options: OnnxOptions) -> str:
    return f"{options.ops}-{options.opset}"


def tokens(batch: int, length: int) -> Array:
    return np.random.default_rng(length).integers(0, 23, (batch, length))


def left_padded(*real: int) -> Array:
    width = max(real)
    return (np.arange(width)[None] >= width - np.array(real)[:, None]).astype(np.int64)


def empty_cache(model: TinyGpt, batch: int) -> dict[str, Array]:
    names = [f"past_key_values.{i}.{kind}" for i in range(model.layers) for kind in ("key", "value")]
    return {name: np.zeros((batch, model.key_heads, 0, model.head_width), np.float32) for name in names}


def continued(outputs: dict[str, Array]) -> dict[str, Array]:
    return {name.replace("present", "past_key_values"): array for name, array in outputs.items() if name.startswith("present")}


class Reference:
    """The model in float64 and in f32 by the interpreter: what is right, and how much rounding makes of it."""

    def __init__(self, model: TinyGpt, ids: Array, mask: Array) -> None:
        inputs = {"input_ids": ids, "attention_mask": mask}
        if model.cached:
            inputs |= empty_cache(model, len(ids))
        graph = model.graph()
        self.exact = evaluate_graph(graph, inputs, wide=True)["logits"]
        rounded = evaluate_graph(graph, inputs)["logits"]
        self.floor = NoiseFloor(rmse(self.exact, rounded), largest_error(self.exact, rounded))

    def check(self, actual: Array, where: object) -> None:
        assert_t3(self.exact[where], actual, self.floor)  # type: ignore[index]


@pytest.mark.parametrize("options", OPTIONS, ids=mode)
@pytest.mark.parametrize("model", MODELS, ids=str)
def test_prefill_and_decode_equal_the_full_run(model: TinyGpt, options: OnnxOptions) -> None:
    ids, mask = tokens(2, 7), left_padded(7, 5)
    reference = Reference(model, ids, mask)
    session = session_of(model_of(model.graph(), options))
    full = session.run({"input_ids": ids, "attention_mask": mask})
    real = mask.astype(bool)
    reference.check(full["logits"][real], real)
    assert np.isfinite(full["logits"]).all()

    outputs = session.run({"input_ids": ids[:, :4], "attention_mask": mask[:, :4]})
    for length in range(5, 8):
        step = {"input_ids": ids[:, length - 1 : length], "attention_mask": mask[:, :length], **continued(outputs)}
        outputs = session.run(step)
        reference.check(outputs["logits"][:, 0], np.s_[:, length - 1])


@pytest.mark.parametrize("options", OPTIONS, ids=mode)
def test_single_token_starts_a_text(options: OnnxOptions) -> None:
    ids = tokens(3, 1)
    outputs = session_of(model_of(TinyGpt().graph(), options)).run({"input_ids": ids})
    Reference(TinyGpt(), ids, np.ones((3, 1), np.int64)).check(outputs["logits"], np.s_[:])


@pytest.mark.parametrize("options", OPTIONS, ids=mode)
def test_several_tokens_continue_several_rows(options: OnnxOptions) -> None:
    ids, mask = tokens(2, 7), left_padded(7, 6)
    reference = Reference(TinyGpt(), ids, mask)
    session = session_of(model_of(TinyGpt().graph(), options))
    outputs = session.run({"input_ids": ids[:, :3], "attention_mask": mask[:, :3]})
    outputs = session.run({"input_ids": ids[:, 3:], "attention_mask": mask, **continued(outputs)})
    reference.check(outputs["logits"], np.s_[:, 3:])
    assert outputs["present.1.value"].shape == (2, 2, 7, 8)


@pytest.mark.parametrize("options", OPTIONS, ids=mode)
def test_padded_row_equals_the_row_alone(options: OnnxOptions) -> None:
    session = session_of(model_of(TinyGpt().graph(), options))
    ids, mask = tokens(2, 6), left_padded(6, 4)
    together = session.run({"input_ids": ids, "attention_mask": mask})["logits"][1, 2:]
    Reference(TinyGpt(), ids[1:, 2:], np.ones((1, 4), np.int64)).check(together[None], np.s_[:])


@pytest.mark.parametrize("options", OPTIONS, ids=mode)
def test_batch_in_which_every_row_is_padded_is_read_to_its_end(options: OnnxOptions) -> None:
    """The longest row sum of such a mask is less than its length."""
    session = session_of(model_of(TinyGpt().graph(), options))
    ids, mask = tokens(1, 5), np.array([[0, 0, 1, 1, 1]])
    logits = session.run({"input_ids": ids, "attention_mask": mask})["logits"][:, 2:]
    Reference(TinyGpt(), ids[:, 2:], np.ones((1, 3), np.int64)).check(logits, np.s_[:])


@pytest.mark.parametrize("options", OPTIONS, ids=mode)
def test_mask_of_fixed_width_ends_at_its_last_token(options: OnnxOptions) -> None:
    session = session_of(model_of(TinyGpt().graph(), options))
    ids, mask = tokens(2, 5), left_padded(5, 3)
    narrow = session.run({"input_ids": ids, "attention_mask": mask})
    wide = session.run({"input_ids": ids, "attention_mask": np.pad(mask, ((0, 0), (0, 4)))})
    for name, array in narrow.items():
        np.testing.assert_array_equal(wide[name], array)


def test_shared_buffer_longer_than_the_text_gives_the_same() -> None:
    session = session_of(model_of(TinyGpt().graph(), ORT))
    ids = tokens(1, 5)
    mask = np.ones((1, 5), np.int64)
    outputs = session.run({"input_ids": ids[:, :4], "attention_mask": mask[:, :4]})
    exact = continued(outputs)
    longer = {name: np.pad(array, ((0, 0), (0, 0), (0, 9), (0, 0)), constant_values=99) for name, array in exact.items()}
    step = {"input_ids": ids[:, 4:], "attention_mask": mask}
    np.testing.assert_array_equal(session.run({**step, **longer})["logits"], session.run({**step, **exact})["logits"])


@pytest.mark.parametrize(("options", "kind"), [(ORT, SharedDecoder), (STANDARD, GrowingDecoder)], ids=["shared", "growing"])
def test_decoder_gives_the_full_runs_logits(options: OnnxOptions, kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_module, "GROWTH", 4)  # so that its buffers grow twice
    model = TinyGpt(rotary=True)
    ids, mask = tokens(2, 14), left_padded(14, 12)
    reference = Reference(model, ids, mask)
    decoder = session_of(model_of(model.graph(), options)).decoder()
    assert isinstance(decoder, kind)
    reference.check(decoder.prefill(ids[:, :3], mask[:, :3].astype(bool)), np.s_[:, 2])
    for index in range(3, 14):
        reference.check(decoder.step(ids[:, index]), np.s_[:, index])


def test_decoder_forgets_at_prefill() -> None:
    decoder = session_of(model_of(TinyGpt().graph(), ORT)).decoder()
    ids = tokens(1, 4)
    first = decoder.prefill(ids, np.ones((1, 4), bool))
    decoder.step(ids[:, 0])
    np.testing.assert_array_equal(decoder.prefill(ids, np.ones((1, 4), bool)), first)


@pytest.mark.parametrize("options", [ORT, STANDARD], ids=mode)
def test_an_id_that_no_table_has_is_an_error_of_ours(options: OnnxOptions) -> None:
    session = session_of(model_of(TinyGpt().graph(), options))
    ids, mask = np.array([[99]]), np.ones((1, 1), np.int64)
    for run in (lambda: session.run({"input_ids": ids, "attention_mask": mask}), lambda: session.decoder().prefill(ids, mask.astype(bool))):
        with pytest.raises(UsageError, match="onnxruntime cannot compute this: indices element out of data bounds, idx=99"):
            run()


@pytest.mark.parametrize("rotary", [False, True])
def test_cached_attention_is_one_node_without_transposes(rotary: bool) -> None:
    counts = Counter(node.op_type for node in model_of(TinyGpt(rotary=rotary).graph(), ORT).graph.node)
    assert counts["GroupQueryAttention"] == 2
    assert counts["RotaryEmbedding"] == (4 if rotary else 0)
    assert counts["Transpose"] == 0


def test_model_without_cache_keeps_the_standards_attention() -> None:
    model = TinyGpt(cached=False)
    ids, mask = tokens(2, 6), left_padded(6, 4)
    session: OnnxSession = session_of(model_of(model.graph(), ORT))
    real = mask.astype(bool)
    Reference(model, ids, mask).check(session.run({"input_ids": ids, "attention_mask": mask})["logits"][real], real)


@pytest.mark.parametrize("options", OPTIONS, ids=mode)
def test_a_batch_without_a_real_token_gives_finite_numbers(options: OnnxOptions) -> None:
    session = session_of(model_of(TinyGpt().graph(), options))
    outputs = session.run({"input_ids": tokens(1, 3), "attention_mask": np.zeros((1, 3), np.int64)})
    assert all(np.isfinite(array).all() for array in outputs.values())
    assert outputs["present.0.key"].shape[2] == 3

"""Presets: published shapes, exact parameter counts."""

import pytest

from cgptc.frontend.gpt_config import AttentionScale
from cgptc.frontend.presets import PRESETS, preset
from cgptc.ir.diagnostics import UsageError

PUBLISHED = {
    "cerebras-gpt-111m": 111_050_496,
    "cerebras-gpt-256m": 255_977_024,
    "cerebras-gpt-590m": 590_310_912,
    "cerebras-gpt-1.3b": 1_315_723_264,
    "cerebras-gpt-2.7b": 2_651_553_280,
    "cerebras-gpt-6.7b": 6_658_404_352,
    "cerebras-gpt-13b": 12_853_386_240,
    "gpt2": 124_439_808,
    "gpt2-medium": 354_823_168,
    "gpt2-large": 774_030_080,
    "gpt2-xl": 1_557_611_200,
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_preset_has_the_published_parameter_count(name: str) -> None:
    assert preset(name).config.parameter_count == PUBLISHED[name]


def test_head_widths_are_the_published_ones() -> None:
    widths = [preset(name).config.head_width for name in PUBLISHED if name.startswith("cerebras")]
    assert widths == [64, 64, 128, 128, 80, 128, 128]


def test_mup_variant_scales_embeddings_scores_and_logits() -> None:
    config = preset("cerebras-gpt-111m-mup").config
    assert config.embeddings_scale == 10.0
    assert config.logits_scale == 256 / 768
    assert config.attention_scale is AttentionScale.HEAD_WIDTH
    assert config.scale_of_layer(3) == 1 / 64


def test_mup_variants_exist_for_the_published_sizes_alone() -> None:
    sizes = [name.removeprefix("cerebras-gpt-") for name in PRESETS if name.startswith("cerebras") and name.endswith("-mup")]
    assert sizes == ["111m-mup", "256m-mup", "590m-mup", "1.3b-mup", "2.7b-mup"]


def test_only_the_demo_is_trained() -> None:
    assert [entry.name for entry in PRESETS.values() if entry.trained] == ["demo"]


def test_unknown_preset_names_the_nearest() -> None:
    with pytest.raises(UsageError, match=r"cerebras-gpt-1\.1b") as caught:
        preset("cerebras-gpt-1.1b")
    assert "cerebras-gpt-1.3b" in caught.value.fix

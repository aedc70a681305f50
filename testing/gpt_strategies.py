"""Strategies for GPT configurations: every switch of the family, at sizes that run in a millisecond."""

from __future__ import annotations

from hypothesis import strategies as st

from cgptc.frontend.gpt_config import Activation, AttentionScale, GptConfig, Head


@st.composite
def gpt_configs(draw: st.DrawFn, *, max_layers: int = 3, max_heads: int = 5, max_head_width: int = 8) -> GptConfig:
    """A valid configuration; shrinks to one layer with one head of width 1 and no switch set."""
    heads = draw(st.integers(1, max_heads))
    return GptConfig(
        vocabulary=draw(st.integers(2, 40)),
        positions=draw(st.integers(1, 17)),
        layers=draw(st.integers(1, max_layers)),
        heads=heads,
        width=heads * draw(st.integers(1, max_head_width)),
        ffn_width=draw(st.integers(1, 48)),
        layer_norm_eps=draw(st.sampled_from([1e-5, 1e-6, 1e-3])),
        activation=draw(st.sampled_from(Activation)),
        head=draw(st.sampled_from(Head)),
        bias=draw(st.sampled_from([True, False])),
        attention_scale=draw(st.sampled_from(AttentionScale)),
        attention_scale_by_layer=draw(st.booleans()),
        embeddings_scale=draw(st.sampled_from([1.0, 10.0, 0.5])),
        logits_scale=draw(st.sampled_from([1.0, 0.25, 1 / 3])),
    )

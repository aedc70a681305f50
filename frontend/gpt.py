"""The project's own GPT in PyTorch: GPT-2's shape, with every switch that the Cerebras-GPT family has.

Parameters carry GPT-2's names and orientation (linear weights [in, out]), so that a GPT-2 state dict fits by name. Written so
that `torch.export` captures it whole, with batch and sequence dynamic and parameters on the meta device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from cgptc.frontend.gpt_config import Activation, GptConfig, Head


class Conv1D(nn.Module):
    """``x @ weight + bias`` with weight [in, out], as GPT-2's files have it."""

    def __init__(self, inputs: int, outputs: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(inputs, outputs))
        self.bias = nn.Parameter(torch.empty(outputs)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        return functional.linear(x, self.weight.t(), self.bias)


class Attention(nn.Module):
    """Causal self-attention with one fused projection; ``visible`` is bool [batch, 1, seq, seq], or None without padding."""

    def __init__(self, config: GptConfig, layer: int) -> None:
        super().__init__()
        self.heads = config.heads
        self.head_width = config.head_width
        self.scale = config.scale_of_layer(layer)
        self.c_attn = Conv1D(config.width, 3 * config.width, config.bias)
        self.c_proj = Conv1D(config.width, config.width, config.bias)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        batch, seq, width = x.shape
        q, k, v = self.c_attn(x).split(width, dim=-1)
        q, k, v = (part.view(batch, seq, self.heads, self.head_width).transpose(1, 2) for part in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, attn_mask=visible, is_causal=visible is None, scale=self.scale)
        return self.c_proj(y.transpose(1, 2).reshape(batch, seq, width))


class Mlp(nn.Module):
    """Two linear layers with the activation between them."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.activation = config.activation
        self.c_fc = Conv1D(config.width, config.ffn_width, config.bias)
        self.c_proj = Conv1D(config.ffn_width, config.width, config.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(_activate(self.activation, self.c_fc(x)))


class Block(nn.Module):
    """Attention and MLP, each behind a norm and beside the residual stream."""

    def __init__(self, config: GptConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.width, config.layer_norm_eps, bias=config.bias)
        self.attn = Attention(config, layer)
        self.ln_2 = nn.LayerNorm(config.width, config.layer_norm_eps, bias=config.bias)
        self.mlp = Mlp(config)

    def forward(self, x: Tensor, visible: Tensor | None) -> Tensor:
        x = x + self.attn(self.ln_1(x), visible)
        return x + self.mlp(self.ln_2(x))


class Transformer(nn.Module):
    """Embeddings, blocks and the last norm: ids [batch, seq] and mask [batch, seq] to hidden states [batch, seq, width]."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.embeddings_scale = config.embeddings_scale
        self.wte = nn.Embedding(config.vocabulary, config.width)
        self.wpe = nn.Embedding(config.positions, config.width)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.layers))
        self.ln_f = nn.LayerNorm(config.width, config.layer_norm_eps, bias=config.bias)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None) -> Tensor:
        seq = input_ids.shape[1]
        index = torch.arange(seq, device=input_ids.device)
        if attention_mask is None:
            positions, visible = index.unsqueeze(0), None
        else:
            positions = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)
            causal = index.unsqueeze(0) <= index.unsqueeze(1)
            visible = causal & attention_mask.bool()[:, None, None, :]
        x = self.wte(input_ids) + self.wpe(positions)
        if self.embeddings_scale != 1.0:
            x = x * self.embeddings_scale
        for block in self.h:
            x = block(x, visible)
        hidden: Tensor = self.ln_f(x)
        return hidden


class Gpt(nn.Module):
    """A GPT of the given configuration; parameters are left unset, for a state dict or `initialise`.

    ``forward(input_ids, attention_mask=None)``: int64 ids [batch, seq], mask bool or integer [batch, seq] with 1 for real
    tokens, to logits [batch, seq, vocabulary], or hidden states [batch, seq, width] without a head. With a mask, positions
    count real tokens only, so that a left-padded row equals the same row alone.
    """

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = config
        self.transformer = Transformer(config)
        if config.head is Head.SEPARATE:
            self.lm_head = nn.Linear(config.width, config.vocabulary, bias=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        hidden: Tensor = self.transformer(input_ids, attention_mask)
        match self.config.head:
            case Head.NONE:
                return hidden
            case Head.SEPARATE:
                logits: Tensor = self.lm_head(hidden)
            case Head.TIED:
                logits = functional.linear(hidden, self.transformer.wte.weight)
        return logits if self.config.logits_scale == 1.0 else logits * self.config.logits_scale


def _activate(activation: Activation, x: Tensor) -> Tensor:
    match activation:
        case Activation.GELU:
            return functional.gelu(x)
        case Activation.GELU_TANH:
            return functional.gelu(x, approximate="tanh")
        case Activation.RELU:
            return functional.relu(x)
        case Activation.SILU:
            return functional.silu(x)


def meta_gpt(config: GptConfig) -> Gpt:
    """The module with parameters of shape only: 13 B in seconds and no weight bytes."""
    with torch.device("meta"):
        model = Gpt(config)
    model.eval()
    return model

"""Attention of transformers models as one node with the raw padding mask.

Models on transformers' attention interface build their masks and call attention through two registries. While a module is captured, both
lead here: the mask function gives back the padding mask [batch, keys] as it came, and the attention function calls one custom operation
that carries causality and window as flags. What a mask function says is checked, not assumed: one that is neither bidirectional, causal nor
a causal window keeps its explicit mask.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from cgptc.ir.diagnostics import CompileError

NAME = "cgptc"
"""What the functions are registered as."""

_FAR = 1 << 20
_UNSUPPORTED_OPTIONS = ("softcap", "s_aux", "sinks", "head_mask", "position_bias", "cache")


@torch.library.custom_op("cgptc::attention", mutates_args=())
def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool, window: int | None) -> Tensor:
    """``Attention`` of the IR without a past: q [b, hq, s, d], k [b, hkv, n, d], v [b, hkv, n, dv], mask bool [b, n] to [b, hq, s, dv]."""
    seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
    if causal:
        seen = seen.tril(k.shape[2] - q.shape[2])
    if window is not None:
        seen = seen & ~seen.tril(k.shape[2] - q.shape[2] - window)
    seen = seen[None, None] if mask is None else seen & mask.bool()[:, None, None, :]
    y = functional.scaled_dot_product_attention(q, k, v, attn_mask=seen, scale=scale, enable_gqa=q.shape[1] != k.shape[1])
    return torch.where(seen.any(-1, keepdim=True), y, 0.0)


@attention.register_fake
def _attention_type(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, scale: float, causal: bool, window: int | None) -> Tensor:
    return q.new_empty((*q.shape[:3], v.shape[3]))


@dataclass(frozen=True)
class _Truth:
    """What a mask function computes with: a bool that answers like a tensor."""

    value: bool
    device: None = None

    def __and__(self, other: _Truth) -> _Truth:
        return _Truth(self.value and other.value)

    def __or__(self, other: _Truth) -> _Truth:
        return _Truth(self.value or other.value)

    def to(self, device: None) -> _Truth:
        return self


@dataclass(frozen=True)
class _Index:
    """A position that answers like a tensor."""

    value: int

    def __add__(self, other: int) -> _Index:
        return _Index(self.value + other)

    def __sub__(self, other: int) -> _Index:
        return _Index(self.value - other)

    def __le__(self, other: _Index | int) -> _Truth:
        return _Truth(self.value <= _number(other))

    def __lt__(self, other: _Index | int) -> _Truth:
        return _Truth(self.value < _number(other))

    def __ge__(self, other: _Index | int) -> _Truth:
        return _Truth(self.value >= _number(other))

    def __gt__(self, other: _Index | int) -> _Truth:
        return _Truth(self.value > _number(other))

    def new_ones(self, shape: tuple[int, ...], dtype: torch.dtype) -> _Truth:
        return _Truth(True)

    def new_zeros(self, shape: tuple[int, ...], dtype: torch.dtype) -> _Truth:
        return _Truth(False)


def _number(index: _Index | int) -> int:
    return index.value if isinstance(index, _Index) else index


@dataclass(frozen=True)
class Pattern:
    """Which keys a query sees: all, those up to itself, or the last ``window`` of these."""

    causal: bool
    window: int | None = None

    def sees(self, query: int, key: int) -> bool:
        return not self.causal or (key <= query and (self.window is None or key > query - self.window))


def pattern_of(mask_function: Callable[..., Any]) -> Pattern | None:
    """The pattern that a transformers mask function (batch, head, query, key → bool) computes; None for any other.

    The function is asked about a far query, which tells the window, and then everywhere around the edges of the pattern it would be.
    """

    def sees(query: int, key: int) -> bool:
        answer = mask_function(_Index(0), _Index(0), _Index(query), _Index(key))
        if not isinstance(answer, _Truth):
            raise TypeError("the mask function does more than compare positions")
        return answer.value

    try:
        if not sees(_FAR, _FAR):
            return None
        causal = not sees(_FAR, _FAR + 1)
        window = None if sees(_FAR, 0) else _first_seen(sees)
        pattern = Pattern(causal, window)
        edges = {0, 1, 2, 7, *(edge + step for edge in (window or 0, 2 * (window or 0)) for step in (-1, 0, 1))}
        for query in sorted(edge for edge in edges if edge >= 0):
            keys = {0, 1, query - 1, query, query + 1, query + 9, *(query - (window or 0) + step for step in (-1, 0, 1, 2))}
            if any(sees(query, key) != pattern.sees(query, key) for key in keys if key >= 0):
                return None
    except (TypeError, AttributeError):
        return None
    return pattern if pattern.causal or pattern.window is None else None


def _first_seen(sees: Callable[[int, int], bool]) -> int:
    """The window of a far query, by bisection on its first key."""
    hidden, seen = 0, _FAR
    while seen - hidden > 1:
        middle = (hidden + seen) // 2
        hidden, seen = (hidden, middle) if sees(_FAR, middle) else (middle, seen)
    return _FAR - seen + 1


@dataclass
class _Hooks:
    """The two functions that transformers calls during one capture."""

    explicit_mask: Callable[..., Tensor | None]
    patterns: set[Pattern] = field(default_factory=set)

    def mask(self, *, mask_function: Callable[..., Any], attention_mask: Tensor | None = None, **options: Any) -> Tensor | None:
        """The padding mask as it came, where flags say the rest; else an explicit bool mask [batch, 1, queries, keys]."""
        pattern = pattern_of(mask_function)
        if pattern is not None and options.get("q_offset", 0) == 0 and options.get("kv_offset", 0) == 0:
            self.patterns.add(pattern)
            return attention_mask
        options["allow_is_causal_skip"] = options["allow_is_bidirectional_skip"] = False
        return self.explicit_mask(mask_function=mask_function, attention_mask=attention_mask, **options)

    def attention(
        self,
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        sliding_window: int | None = None,
        **options: Any,
    ) -> tuple[Tensor, None]:
        """[b, h, s, d] operands to [b, s, h, d], as transformers' own attention functions."""
        for option in _UNSUPPORTED_OPTIONS:
            if options.get(option) is not None:
                raise CompileError("unsupported-attention", f"{type(module).__name__} attends with '{option}'", fix="use another model")
        scale = query.shape[-1] ** -0.5 if scaling is None else float(scaling)
        if attention_mask is not None and attention_mask.ndim == 4:
            grouped = query.shape[1] != key.shape[1]
            y = functional.scaled_dot_product_attention(query, key, value, attention_mask, dropout, scale=scale, enable_gqa=grouped)
            return y.transpose(1, 2).contiguous(), None
        causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
        if Pattern(causal, sliding_window) not in self.patterns:
            known = ", ".join(map(str, sorted(self.patterns, key=str))) or "none"
            raise CompileError(
                "unsupported-attention",
                f"{type(module).__name__} attends with causal={causal} and window {sliding_window}, but built masks for {known}",
                fix="use a model that builds its masks with transformers' mask functions",
            )
        y = attention(query, key, value, attention_mask, scale, causal, sliding_window)
        return y.transpose(1, 2).contiguous(), None


@contextlib.contextmanager
def whole_attention(module: nn.Module) -> Iterator[None]:
    """While the block runs, transformers models within ``module`` keep no cache, and those on the attention interface call
    ``cgptc::attention``; other models are left as they are."""
    parts = [part for part in module.modules() if "transformers" in sys.modules and hasattr(part, "_supports_attention_backend")]
    with contextlib.ExitStack() as undo:
        for config in {id(part.config): part.config for part in parts}.values():
            if getattr(config, "use_cache", False):
                undo.callback(setattr, config, "use_cache", True)
                config.use_cache = False
        supported = [part for part in parts if part._supports_attention_backend]
        if supported:
            undo.enter_context(_registered(supported))
        yield


@contextlib.contextmanager
def _registered(parts: Sequence[Any]) -> Iterator[None]:
    from transformers.masking_utils import AttentionMaskInterface, sdpa_mask
    from transformers.modeling_utils import AttentionInterface

    hooks = _Hooks(sdpa_mask)
    configs = {id(inner.config): inner.config for part in parts for inner in part.modules() if hasattr(inner, "config")}
    before = {key: config._attn_implementation for key, config in configs.items()}
    AttentionInterface.register(NAME, hooks.attention)
    AttentionMaskInterface.register(NAME, hooks.mask)
    try:
        for config in configs.values():
            config._attn_implementation = NAME
        yield
    finally:
        for key, config in configs.items():
            config._attn_implementation = before[key]
        AttentionInterface._global_mapping.pop(NAME, None)
        AttentionMaskInterface._global_mapping.pop(NAME, None)

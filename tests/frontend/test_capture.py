"""Capturing whole modules: symbols stay symbolic, weights stay references, lines stay known."""

from __future__ import annotations

import pytest
import torch
from tests.frontend.torch_equivalence import assert_imports, assert_same_results
from torch import nn
from torch.nn import functional

from cgptc.frontend.capture import capture
from cgptc.frontend.dynamic_sizes import OTHER_BOUNDS
from cgptc.frontend.gpt import Gpt, meta_gpt
from cgptc.frontend.gpt_config import GptConfig
from cgptc.ir.diagnostics import CompileError, UsageError
from cgptc.ir.ops.attention import Attention
from cgptc.ir.ops.constant import Constant
from cgptc.ir.ops.matmul import Linear
from cgptc.ir.weight_expressions import leaves
from cgptc.ir.weights import EMPTY_STORE, Stored

TOKENS = {"batch": None, "seq": None}
CONFIG = GptConfig(layers=2, width=16, heads=2, vocabulary=31, positions=12, ffn_width=32)


class TinyGpt(nn.Module):
    """A GPT as one writes it by hand: fused projection, causal attention, tied head."""

    def __init__(self, width: int = 16, heads: int = 2, positions: int = 8) -> None:
        super().__init__()
        self.heads = heads
        self.tokens = nn.Embedding(11, width)
        self.positions = nn.Embedding(positions, width)
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width, 11, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        batch, seq = ids.shape
        x = self.tokens(ids) + self.positions(torch.arange(seq, device=ids.device))
        q, k, v = self.qkv(self.norm(x)).split(x.shape[-1], dim=2)
        q, k, v = (part.view(batch, seq, self.heads, -1).transpose(1, 2) for part in (q, k, v))
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        logits: torch.Tensor = self.head(x + self.drop(self.out(y.transpose(1, 2).contiguous().view(batch, seq, -1))))
        return logits


def ids(batch: int, seq: int) -> torch.Tensor:
    return torch.randint(0, 11, (batch, seq), generator=torch.Generator().manual_seed(batch + seq))


def with_random_weights(module: nn.Module) -> nn.Module:
    generator = torch.Generator().manual_seed(0)
    for parameter in module.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return module


def test_a_tiny_gpt_computes_what_torch_does_at_every_length() -> None:
    graph = assert_imports(TinyGpt(), ids(2, 5), dynamic=TOKENS, also=[[ids(1, 1)], [ids(3, 8)]])
    assert str(graph.output("output").type) == "f32[batch, seq, 11]"
    assert graph.symbols["seq"].low == 1
    assert sum(isinstance(node.op, Attention) for node in graph.nodes) == 1


def test_tied_weights_are_one_weight() -> None:
    graph = capture(TinyGpt().eval(), (ids(2, 5),), dynamic=TOKENS)
    constants = [node.op.weight for node in graph.nodes if isinstance(node.op, Constant)]
    names = {leaf.name for weight in constants for leaf in leaves(weight) if isinstance(leaf, Stored)}
    assert "tokens.weight" in names
    assert "head.weight" not in names


def test_linear_weights_are_turned_without_reading_them() -> None:
    graph = capture(TinyGpt().eval(), (ids(2, 5),), dynamic=TOKENS)
    weights = [node.operands[1] for node in graph.nodes if isinstance(node.op, Linear)]
    assert [str(weight.type) for weight in weights if weight is not None] == ["f32[16, 48]", "f32[16, 16]", "f32[16, 11]"]
    assert all(weight is not None and isinstance(weight.op, Constant) for weight in weights)


def test_locations_name_module_and_line_and_no_absolute_path() -> None:
    graph = capture(TinyGpt().eval(), (ids(2, 5),), dynamic=TOKENS)
    frames = [frame for node in graph.nodes for frame in node.location.frames]
    assert any(frame.path == "qkv" for frame in frames)
    assert {frame.file for frame in frames} == {"test_capture.py"}
    assert all(frame.line > 0 for frame in frames)


def test_the_projects_own_gpt_imports_on_the_meta_device() -> None:
    graph = capture(meta_gpt(CONFIG), (ids(2, 5), torch.ones(2, 5, dtype=torch.int64)), dynamic=TOKENS)
    assert str(graph.output("output").type) == "f32[batch, seq, 31]"
    assert graph.store is EMPTY_STORE


def test_the_projects_own_gpt_computes_what_torch_does() -> None:
    mask = torch.tensor([[0, 0, 1, 1, 1], [1, 1, 1, 1, 1]])
    one = torch.ones(1, 1, dtype=torch.int64)
    model = with_random_weights(Gpt(CONFIG))
    graph = assert_imports(model, ids(2, 5), mask, dynamic=TOKENS, also=[(ids(1, 1), one)])
    assert (graph.symbols["seq"].low, graph.symbols["seq"].high) == OTHER_BOUNDS


def test_a_size_that_the_model_fixes_is_an_error_that_names_the_line() -> None:
    class Fixed(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + torch.ones(5, 3)

    with pytest.raises(CompileError, match=r"'seq' .* fixes it to 5") as caught:
        capture(Fixed(), (torch.ones(2, 5, 3),), dynamic=TOKENS)
    assert "test_capture.py:" in "\n".join(caught.value.details)


def test_what_depends_on_more_than_one_token_is_not_valid_for_one() -> None:
    class Branches(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.shape[1] > 1 else x

    graph = capture(Branches(), (torch.ones(2, 5, 3),), dynamic=TOKENS)
    assert graph.symbols["seq"].low == 2
    with pytest.raises(CompileError, match=r"takes only 2\.\.9") as caught:
        capture(Branches(), (torch.ones(2, 5, 3),), dynamic={"batch": None, "seq": (1, 9)})
    assert "test_capture.py:" in "\n".join(caught.value.details)


def test_a_branch_on_a_property_of_a_size_is_refused_and_named() -> None:
    class Halves(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.shape[1] % 2 == 0 else x

    with pytest.raises(CompileError, match="another path") as caught:
        capture(Halves(), (torch.ones(2, 6, 3),), dynamic=TOKENS)
    assert "Mod(" in caught.value.details[0]
    assert "test_capture.py:" in caught.value.details[0]


def test_a_branch_in_a_method_of_its_own_counts_as_well() -> None:
    class Shuffled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.gelu(nn.ReLU6()(x)) if self.short(x) else x

        def short(self, x: torch.Tensor) -> bool:
            return x.shape[1] % 3 != 0

    with pytest.raises(CompileError, match="another path"):
        capture(Shuffled(), (torch.ones(2, 7, 3),), dynamic=TOKENS)


def test_a_branch_that_the_bounds_decide_is_no_branch() -> None:
    class Short(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 2 if x.shape[1] <= 100 else x

    assert capture(Short(), (torch.ones(2, 6, 3),), dynamic=TOKENS).symbols["seq"].high == 100
    assert capture(Short(), (torch.ones(2, 6, 3),), dynamic={"batch": None, "seq": (1, 64)}).symbols["seq"].high == 64


def test_two_sizes_that_the_model_makes_equal_are_not_two() -> None:
    class Sum(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x + y

    axes = {"x": {0: "batch", 1: "source"}, "y": {0: "batch", 1: "seq"}}
    with pytest.raises(CompileError, match="makes them equal"):
        capture(Sum(), (torch.ones(2, 5, 3), torch.ones(2, 5, 3)), dynamic={**TOKENS, "source": None}, axes=axes)


def test_more_positions_than_the_table_has_are_refused() -> None:
    class Table(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.ones(8, 3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.table[: x.shape[1]]

    assert capture(Table(), (torch.ones(2, 5, 3),), dynamic=TOKENS).symbols["seq"].high == 8
    with pytest.raises(CompileError, match="8"):
        capture(Table(), (torch.ones(2, 5, 3),), dynamic={"batch": None, "seq": (1, 64)})


def test_all_that_is_not_supported_is_reported_at_once() -> None:
    class Unsupported(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = torch.fft.fft(x).abs()
            return torch.linalg.svd(y)[0] + torch.fft.fft(x).abs()

    with pytest.raises(CompileError) as caught:
        capture(Unsupported(), (torch.ones(3, 3),))
    text = "\n".join(caught.value.details)
    assert caught.value.exit == 5
    assert "2 × aten.fft_fft" in text
    assert "test_capture.py:" in text


def test_a_symbol_that_no_input_has_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="'past'"):
        capture(TinyGpt().eval(), (ids(2, 5),), dynamic={"past": None})


def test_what_the_model_raises_is_one_error() -> None:
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ torch.ones(7, 7)

    with pytest.raises(CompileError, match="could not capture Broken"):
        capture(Broken(), (torch.ones(3, 3),))


def test_a_buffer_is_kept_by_content() -> None:
    class Masked(nn.Module):
        mask: torch.Tensor
        small: torch.Tensor

        def __init__(self) -> None:
            super().__init__()
            self.register_buffer("mask", torch.tril(torch.ones(16, 16)), persistent=False)
            self.register_buffer("small", torch.arange(3.0))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            hidden = self.mask[: x.shape[1], : x.shape[2]] == 0
            return x.masked_fill(hidden, -1.0)[..., :3] * self.small

    module = Masked()
    graph = assert_imports(module, torch.ones(2, 5, 5), dynamic={"batch": None})
    assert graph.store.read("mask", 0, 1).sum() == 1
    assert_same_results(graph, module, [torch.ones(3, 5, 5)])


def test_one_tensor_given_twice_is_two_inputs() -> None:
    class Difference(nn.Module):
        def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
            return x - y

    one = torch.ones(2, 3)
    graph = capture(Difference(), (one, one))
    assert_same_results(graph, Difference(), [torch.full((2, 3), 5.0), one])


class Turned(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("angles", torch.polar(torch.ones(3), torch.arange(3.0)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(x.reshape(-1, 3, 2))
        return torch.view_as_real(pairs * self.angles) + torch.special.digamma(x.reshape(-1, 3, 2))


def test_a_buffer_of_complex_numbers_is_named_with_all_else_that_is_not_supported() -> None:
    with pytest.raises(CompileError, match="cannot be imported") as caught:
        capture(Turned(), (torch.ones(2, 6),), dynamic={})
    assert "the buffer 'angles' is of an element type that the IR lacks" in "\n".join(caught.value.details)
    assert "digamma" in "\n".join(caught.value.details)


def test_a_piece_that_a_short_axis_does_not_have_is_refused() -> None:
    class Narrow(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.narrow(1, 1, 2)

    with pytest.raises(CompileError, match="cannot be imported") as caught:
        capture(Narrow(), (torch.ones(2, 6, 3),), dynamic={"seq": None})
    assert "bound the size from below" in "\n".join(caught.value.details)
    assert str(capture(Narrow(), (torch.ones(2, 6, 3),), dynamic={"seq": (3, 9)}).output("output").type) == "f32[2, 2, 3]"

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from tests.frontend.hf_configurations import CONFIGS
from tests.frontend.test_hf_families import write_folder

from cgptc.driver.examination import captured_mlir
from cgptc.frontend.mlir import FIXED_NOTE, mlir_module, mlir_text
from cgptc.frontend.source import Request
from cgptc.ir.diagnostics import UsageError

pytest.importorskip("torch_mlir", reason="torch-mlir is not installed (pip install 'cgptc[mlir]')")


class Masked(torch.nn.Module):
    """A buffer that is not persistent: torch-mlir alone fails on it."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(4, 4)
        self.register_buffer("mask", torch.tril(torch.ones(4, 4)), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.linear(x) * self.mask
        return result


@pytest.mark.parametrize(
    ("dialect", "operation"), [("torch", "torch.aten."), ("linalg-on-tensors", "linalg.generic"), ("stablehlo", "stablehlo.")]
)
def test_a_module_with_a_buffer_of_no_state_dict_becomes_mlir(dialect: str, operation: str) -> None:
    text = mlir_text(mlir_module(Masked(), (torch.zeros(4, 4),), dialect))
    assert operation in text
    assert not re.search(r'"/|loc\(', text)


def test_a_folder_becomes_mlir_with_all_its_inputs(tmp_path: Path) -> None:
    folder = write_folder(tmp_path, {**CONFIGS["bert"], "num_hidden_layers": 1}, "BertForMaskedLM")
    text = captured_mlir(str(folder), Request(), "torch")
    assert len(re.findall(r"%arg\d+: !torch.vtensor<\[\?,\?\],si64>", text)) == 3


def test_the_module_itself_is_left_as_it_was() -> None:
    module = Masked()
    mlir_module(module, (torch.zeros(4, 4),), "torch")
    assert "mask" not in module.state_dict()


def test_an_unknown_form_is_refused() -> None:
    with pytest.raises(UsageError, match="choose one of torch, linalg-on-tensors, stablehlo"):
        mlir_module(Masked(), (torch.zeros(4, 4),), "tosa")


def test_what_stablehlo_has_for_fixed_sizes_only_is_given_for_them_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "counting.py").write_text(
        "import torch\nclass Counting(torch.nn.Module):\n    def forward(self, x): return x.cumsum(1)\ndef build(): return Counting()\n"
    )
    monkeypatch.chdir(tmp_path)
    assert captured_mlir("counting:build", Request(), "stablehlo").startswith(FIXED_NOTE)
    assert "tensor<?x?xi64>" in captured_mlir("counting:build", Request(), "linalg-on-tensors")

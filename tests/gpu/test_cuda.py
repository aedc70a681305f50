"""An artifact on a GPU. Skipped, saying so, where onnxruntime has no CUDA provider or the machine no device."""

from __future__ import annotations

from pathlib import Path

import onnxruntime
import pytest
import torch

import cgptc
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset

pytestmark = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or not torch.cuda.is_available(),
    reason="no CUDA provider in this onnxruntime, or no device: the GPU is checked statically, not run",
)


def test_a_gpu_writes_the_tokens_of_the_cpu(tmp_path: Path) -> None:
    write_model(preset("demo"), tmp_path / "demo")
    prompt = [17, 4, 99]
    expected = cgptc.compile(tmp_path / "demo", output=tmp_path / "cpu").generate(prompt, max_new_tokens=16).ids
    artifact = cgptc.compile(tmp_path / "demo", output=tmp_path / "cuda", ep="cuda")
    assert artifact.generate(prompt, max_new_tokens=16).ids == expected


def test_no_computing_node_is_left_to_the_cpu(tmp_path: Path) -> None:
    """Opening raises where one is."""
    write_model(preset("tiny"), tmp_path / "model.pt")
    artifact = cgptc.compile(tmp_path / "model.pt", output=tmp_path / "out", ep="cuda")
    assert artifact.run(input_ids=[[1, 2, 3]])["logits"].shape == (1, 3, 512)

"""What ``cgptc new`` writes, the readers read."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.frontend.readers import open_checkpoint


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "folder"])
def test_a_new_model_opens_with_its_configuration(tmp_path: Path, name: str) -> None:
    write_model(preset("tiny"), tmp_path / name)
    with open_checkpoint(tmp_path / name) as checkpoint:
        assert list(checkpoint.tensors) == [tensor for tensor, _ in preset("tiny").config.parameters()]
        assert checkpoint.config is not None
        if name != "folder":
            assert checkpoint.config == preset("tiny").config.to_mapping()
        for stored in checkpoint.tensors.values():
            assert math.prod(stored.shape) == stored.read(checkpoint.store).size

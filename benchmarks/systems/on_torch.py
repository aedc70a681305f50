"""PyTorch itself, running transformers' model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from systems.peer import Peer


def transformers_model(folder: Path, threads: int) -> Any:
    """The model of ``hf``, ready to run without gradients."""
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    torch.set_grad_enabled(False)
    return AutoModelForCausalLM.from_pretrained(folder / "hf").eval()


class TorchEager(Peer):
    """Operator by operator, with the model's own cache."""

    def __init__(self, folder: Path, form: str, threads: int) -> None:
        import torch

        self.torch = torch
        self.model = transformers_model(folder, threads)
        self.past: Any = None

    @classmethod
    def prepare(cls, folder: Path, form: str) -> None:
        import torch  # noqa: F401  (it reads ``hf`` as it is; that it is missing is told now)

    def prefill(self, ids: list[int]) -> int:
        self.past = None
        return self._read(ids)

    def step(self, token: int) -> int:
        return self._read([token])

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = self.model(self.torch.tensor([ids]), use_cache=False).logits[0].numpy()
        return found

    def _read(self, ids: list[int]) -> int:
        found = self.model(self.torch.tensor([ids]), past_key_values=self.past, use_cache=True, logits_to_keep=1)
        self.past = found.past_key_values
        return int(found.logits[0, -1].argmax())


class TorchCompile(Peer):
    """Compiled by inductor for each length, without a cache: a prefill is all that is timed."""

    def __init__(self, folder: Path, form: str, threads: int) -> None:
        import torch

        self.torch = torch
        self.compiled: Any = torch.compile(transformers_model(folder, threads), dynamic=False)

    @classmethod
    def prepare(cls, folder: Path, form: str) -> None:
        import torch  # noqa: F401

    def prefill(self, ids: list[int]) -> int:
        return int(self.compiled(self.torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1].argmax())

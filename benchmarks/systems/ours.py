"""This project: the compiled artifact through its own decoder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

from systems.peer import Peer

FLAGS = {"f32": (), "int8": ("--quantize", "int8"), "int4": ("--quantize", "int4")}


class Cgptc(Peer):
    """``cgptc compile``, and what ``cgptc run`` does without its sampler."""

    def __init__(self, folder: Path, form: str, threads: int) -> None:
        from cgptc.backends.onnx.session import OnnxSession

        self.session = OnnxSession.open(folder / f"cgptc-{form}" / "model.onnx", threads=threads)
        self.decoder = self.session.decoder()

    @classmethod
    def prepare(cls, folder: Path, form: str) -> None:
        command = [sys.executable, "-m", "cgptc", "compile", str(folder / "hf"), "-o", str(folder / f"cgptc-{form}"), "-q", *FLAGS[form]]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def prefill(self, ids: list[int]) -> int:
        return int(self.decoder.prefill(np.array([ids]), np.ones((1, len(ids)), np.bool_))[0].argmax())

    def step(self, token: int) -> int:
        return int(self.decoder.step(np.array([token]))[0].argmax())

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        found: npt.NDArray[np.float32] = self.session.run({"input_ids": np.array([ids])})["logits"][0]
        return found

"""CTranslate2's converter and generator."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt

from systems.peer import Peer


class CTranslate2(Peer):
    """Its steps are timed together: it has no call for one. One folder serves all forms, which are made when it is loaded."""

    def __init__(self, folder: Path, form: str, threads: int) -> None:
        import ctranslate2

        kind = {"f32": "float32", "int8": "int8"}[form]
        self.model = ctranslate2.Generator(str(folder / "ctranslate2"), device="cpu", compute_type=kind, intra_threads=threads)
        self.words: list[str] = json.loads((folder / "ctranslate2" / "vocabulary.json").read_text())

    @classmethod
    def prepare(cls, folder: Path, form: str) -> None:
        import ctranslate2

        if not (folder / "ctranslate2").exists():
            ctranslate2.converters.TransformersConverter(str(folder / "hf")).convert(str(folder / "ctranslate2"))

    def prefill(self, ids: list[int]) -> int:
        return self._generate(ids, 1)[0]

    def decode(self, ids: list[int], count: int) -> tuple[list[int], list[float]]:
        start = time.perf_counter()
        first = self._generate(ids, 1)
        middle = time.perf_counter()
        made = self._generate(ids, count + 1)
        end = time.perf_counter()
        assert made[:1] == first
        return made, [((end - middle) - (middle - start)) / count]

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        return np.array(self.model.forward_batch([ids]))[0]

    def _generate(self, ids: list[int], count: int) -> list[int]:
        (found,) = self.model.generate_batch(
            [[self.words[token] for token in ids]],
            max_length=count,
            min_length=count,
            include_prompt_in_result=False,
            sampling_topk=1,
            end_token=[],
        )
        made: list[int] = found.sequences_ids[0]
        return made

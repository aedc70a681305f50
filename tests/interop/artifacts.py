"""Writes what the tests of this folder open: artifacts, and the tokens that PyTorch generates from the same weights.

python tests/interop/artifacts.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch

import cgptc
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.frontend.source import open_model

PROMPTS = {
    "demo": [[17, 4, 99], [5, 300, 42, 8, 1999, 77]],
    "tiny": [[7, 8, 9], [500, 3]],
    "tiny-gpt2": [[7, 8, 9], [500, 3]],
    "tiny-mup": [[1, 2, 3, 4, 5]],
}
NEW_TOKENS = 24


def main(folder: Path) -> None:
    """Fill ``folder``: a subfolder an artifact, and ``cases.json``."""
    folder.mkdir(parents=True, exist_ok=True)
    cases: list[dict[str, object]] = []
    for name, prompts in PROMPTS.items():
        source = folder / f"{name}-model"
        write_model(preset(name), source)
        artifact = cgptc.compile(source, output=folder / name)
        stop = artifact.text_model.stop
        with open_model(str(source)) as model:
            assert model.reference is not None
            module = model.reference().double().eval()
        cases.append(
            {
                "name": name,
                "prompts": prompts,
                "tokens": [greedy(module, prompt, stop) for prompt in prompts],
                "has_tokenizer": artifact.tokenizer is not None,
            }
        )
    (folder / "cases.json").write_text(json.dumps(cases))


def greedy(module: torch.nn.Module, prompt: list[int], stop: frozenset[int]) -> list[int]:
    """Tokens of the whole text read again at every step, in float64."""
    ids = list(prompt)
    with torch.no_grad():
        while len(ids) < len(prompt) + NEW_TOKENS and not (len(ids) > len(prompt) and ids[-1] in stop):
            ids.append(int(module(torch.tensor([ids]))[0, -1].argmax()))
    return ids[len(prompt) :]


if __name__ == "__main__":
    main(Path(sys.argv[1]))

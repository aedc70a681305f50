"""A folder for `peers.py` with the trained GPT-2 from PyPI, and a text of its own making to score.

The package has no held-out text. What the model itself writes, drawn at temperature 1 with a seed, has its entropy as the least loss there
is: what a system needs more than f32 does is how far its distribution has moved.

    pip download --no-deps microformer-mgm==0.5.8
    python benchmarks/trained_gpt2.py microformer_mgm-0.5.8-py3-none-any.whl /tmp/micro
    python benchmarks/peers.py --folder /tmp/micro --preset microformer --venvs /tmp/peers --text /tmp/micro/text.txt --lines --rounds 0
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import torch
from peers import describe_tokenizer
from safetensors.torch import save_file

import cgptc
from cgptc.runtime.sampler import Sampling

ROWS, TOKENS = 64, 96
START = "<bos>"


def main(wheel: str, place: str) -> None:
    folder = Path(place)
    hf = folder / "hf"
    folder.mkdir(parents=True)
    runpy.run_path(str(Path(__file__).parents[1] / "examples" / "trained" / "microformer.py"))["unpack"](Path(wheel), hf)
    weights = torch.load(hf / "pytorch_model.bin", weights_only=True, map_location="cpu")
    floats = {name: tensor.clone() for name, tensor in weights.items() if tensor.is_floating_point() and name != "lm_head.weight"}
    save_file({name: tensor for name, tensor in floats.items() if "masked_bias" not in name}, hf / "model.safetensors", {"format": "pt"})
    (hf / "pytorch_model.bin").unlink()
    vocabulary: dict[str, int] = json.loads((hf / "tokenizer.json").read_text())["model"]["vocab"]
    words = {number: word for word, number in vocabulary.items()}
    describe_tokenizer(hf, START)
    made = cgptc.compile(hf).generate_batch([[vocabulary[START]]] * ROWS, max_new_tokens=TOKENS, sampling=Sampling(temperature=1.0, seed=0))
    lines = [" ".join([START, *(words[token] for token in row.ids)]) for row in made]
    (folder / "text.txt").write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])

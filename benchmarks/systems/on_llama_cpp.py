"""llama.cpp, on GGUF files written from the folder's weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from systems.peer import Peer

FILE_TYPES = {"int8": "LLAMA_FTYPE_MOSTLY_Q8_0", "int4": "LLAMA_FTYPE_MOSTLY_Q4_0"}
NAMES = {"ln_1": "attn_norm", "attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "ln_2": "ffn_norm", "mlp.c_fc": "ffn_up"}
NAMES |= {"mlp.c_proj": "ffn_down"}
"""Pieces of a GPT-2 layer in transformers and in GGUF."""


class LlamaCpp(Peer):
    """Its default settings: keys and values in f16."""

    def __init__(self, folder: Path, form: str, threads: int) -> None:
        from llama_cpp import Llama

        path = str(folder / f"llama-{form}.gguf")
        self.make = lambda every: Llama(
            path, n_ctx=1024, n_batch=1024, n_threads=threads, n_threads_batch=threads, logits_all=every, verbose=False
        )
        self.model: Any = None

    @classmethod
    def prepare(cls, folder: Path, form: str) -> None:
        plain, place = folder / "llama-f32.gguf", folder / f"llama-{form}.gguf"
        if not plain.exists():
            write_gguf(folder / "hf", plain)
        if form != "f32":
            import llama_cpp

            settings = llama_cpp.llama_model_quantize_default_params()
            settings.ftype = getattr(llama_cpp, FILE_TYPES[form])
            if code := llama_cpp.llama_model_quantize(str(plain).encode(), str(place).encode(), settings):
                raise RuntimeError(f"llama_model_quantize gave {code}")

    def prefill(self, ids: list[int]) -> int:
        if self.model is None:
            self.model = self.make(False)
        self.model.reset()
        return self.step_all(ids)

    def step(self, token: int) -> int:
        return self.step_all([token])

    def step_all(self, ids: list[int]) -> int:
        import llama_cpp

        self.model.eval(ids)
        last = llama_cpp.llama_get_logits_ith(self.model.ctx, -1)
        return int(np.ctypeslib.as_array(last, (self.model.n_vocab(),)).argmax())

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        if self.model is None:
            self.model = self.make(True)
        self.model.reset()
        self.model.eval(ids)
        found: npt.NDArray[np.float32] = self.model.scores[: len(ids)].copy()
        return found


def write_gguf(hf: Path, place: Path) -> None:
    """A GPT-2 of transformers in f32, without a vocabulary: token ids go in and come out."""
    from gguf import GGUFWriter
    from safetensors.numpy import load_file

    config = json.loads((hf / "config.json").read_text())
    weights = {name.removeprefix("transformer."): array for name, array in load_file(hf / "model.safetensors").items()}
    writer = GGUFWriter(str(place), "gpt2")
    writer.add_context_length(config["n_positions"])
    writer.add_embedding_length(config["n_embd"])
    writer.add_feed_forward_length(config.get("n_inner") or 4 * config["n_embd"])
    writer.add_block_count(config["n_layer"])
    writer.add_head_count(config["n_head"])
    writer.add_layer_norm_eps(config["layer_norm_epsilon"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    writer.add_tensor("token_embd.weight", weights["wte.weight"])
    writer.add_tensor("position_embd.weight", weights["wpe.weight"])
    for kind in ("weight", "bias"):
        writer.add_tensor(f"output_norm.{kind}", weights[f"ln_f.{kind}"])
        for layer in range(config["n_layer"]):
            for name, called in NAMES.items():
                array = weights[f"h.{layer}.{name}.{kind}"]
                writer.add_tensor(f"blk.{layer}.{called}.{kind}", np.ascontiguousarray(array.T) if array.ndim == 2 else array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

"""Train a GPT on a text file, or fine-tune one, and leave a model folder that `cgptc compile` takes.

    python train.py --data text.txt -o folder                      from scratch, with a tokenizer of its own
    python train.py --data text.txt -o folder --preset tiny        another shape
    python train.py --data more.txt -o tuned --init folder         fine-tune; takes a `.pt` of `cgptc new` as well

The text is one stream of tokens; a line ``<|endoftext|>`` separates documents. The last part of it is held out and its loss
reported. The folder holds config.json, model.safetensors, tokenizer.json and generation_config.json, as Hugging Face's do.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.nn import functional

from cgptc.frontend.gpt import Gpt
from cgptc.frontend.gpt_config import GptConfig
from cgptc.frontend.gpt_config_json import from_huggingface, to_huggingface
from cgptc.frontend.initialise import initial_tensors
from cgptc.frontend.presets import preset

END = "<|endoftext|>"


def train_tokenizer(text: str, vocabulary: int) -> Tokenizer:
    """A byte-level BPE of at most ``vocabulary`` tokens, the first of them the end of a document."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(text.split(END), trainer)
    return tokenizer


def load(init: Path) -> tuple[Gpt, Tokenizer | None]:
    """The model of a folder or of a `.pt` file that `cgptc new` wrote, with its tokenizer where there is one."""
    if init.is_dir():
        config = from_huggingface(json.loads((init / "config.json").read_text()))
        state = load_file(init / "model.safetensors")
        tokenizer = init / "tokenizer.json"
    else:
        file = torch.load(init, weights_only=True)
        config, state = GptConfig.from_mapping(file["config"]), file["model"]
        tokenizer = init.with_name("tokenizer.json")
    model = Gpt(config)
    model.load_state_dict({name: tensor.float() for name, tensor in state.items()})
    return model, Tokenizer.from_file(str(tokenizer)) if tokenizer.exists() else None


def new(name: str, seed: int) -> Gpt:
    """A model of a preset's shape with random weights."""
    config = preset(name).config
    model = Gpt(config)
    model.load_state_dict({key: torch.from_numpy(array) for key, array in initial_tensors(config, seed)})
    return model


class Muon(torch.optim.Optimizer):
    """Momentum whose step is made orthogonal by five Newton-Schulz iterations (Jordan 2024), for [in, out] matrices.

    In float32: torch's own works in bfloat16, which is slow on processors without it.
    """

    def __init__(self, parameters: list[torch.nn.Parameter], lr: float, momentum: float = 0.95, decay: float = 0.05) -> None:
        super().__init__(parameters, {"lr": lr, "momentum": momentum, "decay": decay})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                mean = self.state[parameter].setdefault("mean", torch.zeros_like(parameter))
                mean.lerp_(parameter.grad, 1 - group["momentum"])
                step = orthogonal(parameter.grad.lerp(mean, group["momentum"]))
                parameter.mul_(1 - group["lr"] * group["decay"])
                inputs, outputs = parameter.shape
                parameter.add_(step, alpha=-group["lr"] * max(1.0, outputs / inputs) ** 0.5)


def orthogonal(x: torch.Tensor) -> torch.Tensor:
    """Roughly the nearest matrix whose singular values are all 1."""
    wide = x.shape[0] <= x.shape[1]
    x = x if wide else x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x if wide else x.T


def optimisers(model: Gpt, rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the blocks' matrices, AdamW for embeddings, norms and biases."""
    matrices = [p for p in model.transformer.h.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        Muon(matrices, 10 * rate),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def batches(tokens: torch.Tensor, length: int, count: int, generator: torch.Generator) -> torch.Tensor:
    """``count`` random windows of ``length`` + 1 tokens."""
    starts = torch.randint(len(tokens) - length, (count,), generator=generator)
    return torch.stack([tokens[start : start + length + 1] for start in starts.tolist()])


def loss_of(model: Gpt, window: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy in nats of each token given those before it in its window."""
    return functional.cross_entropy(model(window[:, :-1]).flatten(0, 1), window[:, 1:].flatten())


@torch.no_grad()
def held_out_loss(model: Gpt, tokens: torch.Tensor, length: int) -> float:
    """Mean loss over consecutive windows."""
    count = (len(tokens) - 1) // length
    windows = [tokens[i * length : i * length + length + 1] for i in range(count)]
    return sum(loss_of(model, window[None]).item() for window in windows) / max(1, count)


def save(folder: Path, model: Gpt, tokenizer: Tokenizer) -> None:
    """Write the model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    end = tokenizer.token_to_id(END)
    save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()},
        folder / "model.safetensors",
        metadata={"format": "pt"},
    )
    config = to_huggingface(model.config) | {"bos_token_id": end, "eos_token_id": end, "dtype": "float32"}
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = {"bos_token_id": end, "eos_token_id": end, "do_sample": True, "temperature": 0.8, "top_k": 40}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2) + "\n")
    tokenizer.save(str(folder / "tokenizer.json"))


def rate_at(progress: float) -> float:
    """The learning rate's factor: a short warm-up, level, then straight down to 0 over the second half."""
    return min(1.0, progress / 0.01 + 0.05, (1.0 - progress) / 0.5)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a text file in UTF-8")
    parser.add_argument("-o", "--output", type=Path, required=True, help="the model folder to write")
    parser.add_argument("--preset", default="demo", help="the shape to train from scratch")
    parser.add_argument("--init", type=Path, help="start from this model folder or .pt file instead")
    parser.add_argument("--minutes", type=float, default=40.0, help="time to train")
    parser.add_argument("--steps", type=int, default=1_000_000, help="steps at most")
    parser.add_argument("--batch", type=int, default=8, help="windows per step")
    parser.add_argument("--rate", type=float, default=2e-3, help="peak learning rate of AdamW; Muon takes ten times it")
    parser.add_argument("--held-out", type=float, default=0.02, help="share of the text kept for validation")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    torch.manual_seed(options.seed)
    text = options.data.read_text(encoding="utf-8")
    model, tokenizer = load(options.init) if options.init else (new(options.preset, options.seed), None)
    length = model.config.positions
    tokenizer = tokenizer or train_tokenizer(text, model.config.vocabulary)
    if tokenizer.get_vocab_size() > model.config.vocabulary:
        parser.error(f"the tokenizer has {tokenizer.get_vocab_size()} tokens, the model {model.config.vocabulary}")
    tokens = torch.from_numpy(np.array(tokenizer.encode(text).ids, dtype=np.int64))
    split = int(len(tokens) * (1 - options.held_out))
    if split <= length:
        parser.error(f"the text is {len(tokens)} tokens: too short for windows of {length}")
    train, held_out = tokens[:split], tokens[split:]
    bytes_per_token = len(text.encode()) / len(tokens)
    print(f"{model.config.parameter_count:,} parameters, {len(tokens):,} tokens of {bytes_per_token:.2f} bytes", flush=True)

    steppers = optimisers(model, options.rate)
    peaks = [stepper.param_groups[0]["lr"] for stepper in steppers]
    generator = torch.Generator().manual_seed(options.seed)
    begin = last_saved = time.monotonic()
    smooth = math.nan
    for step in range(options.steps):
        now = time.monotonic()
        progress = max(step / options.steps, (now - begin) / (60 * options.minutes))
        if progress >= 1:
            break
        for stepper, peak in zip(steppers, peaks, strict=True):
            stepper.param_groups[0]["lr"] = peak * rate_at(progress)
        loss = loss_of(model, batches(train, length, options.batch, generator))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for stepper in steppers:
            stepper.step()
            stepper.zero_grad()
        smooth = loss.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * loss.item()
        if step % 50 == 0:
            print(f"step {step:5d}  {100 * progress:5.1f} %  loss {smooth:.3f} nats per token", flush=True)
        if now - last_saved > 120:
            last_saved = now
            save(options.output, model, tokenizer)
    save(options.output, model, tokenizer)
    if len(held_out) > length:
        loss_held_out = held_out_loss(model, held_out, length)
        bits = loss_held_out / math.log(2) / bytes_per_token
        print(f"held out: {loss_held_out:.3f} nats per token, {bits:.3f} bits per byte", flush=True)


if __name__ == "__main__":
    main()

"""What each further fusion gains on onnxruntime: prefill and decode of one compiled model, with and without it, in turns.

The fusions that no pass makes are made here, in the emitted model, node by node, so that what they would gain stays measurable. Each is
compared with the model as `cgptc compile` gives it, by ratios taken within a round. "by itself" counts how many of the fused operators
onnxruntime makes of the plain model when it loads it.

    python -m benchmarks.fusions [--model gpt --model llama] [--rounds 12] [--lengths 128 512]      (llama needs cgptc[hf])
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import helper

import cgptc
from cgptc.frontend.new_model import write_model
from cgptc.frontend.presets import preset
from cgptc.runtime.compiled import Artifact

CONTRIB = "com.microsoft"
PAST = 128


class Model:
    """An ONNX model under surgery."""

    def __init__(self, path: Path) -> None:
        self.proto = onnx.load(path, load_external_data=False)
        self.nodes = list(self.proto.graph.node)
        self.weights = {tensor.name: list(tensor.dims) for tensor in self.proto.graph.initializer}
        self.made = 0

    def producer(self, name: str, op: str) -> onnx.NodeProto | None:
        """The node of that operator that gives a value."""
        return next((node for node in self.nodes if name in node.output and node.op_type == op), None)

    def use_count(self, name: str) -> int:
        """How many operands and outputs a value is."""
        return sum(list(node.input).count(name) for node in self.nodes) + sum(output.name == name for output in self.proto.graph.output)

    def replace(self, old: onnx.NodeProto, new: onnx.NodeProto, *dropped: onnx.NodeProto) -> None:
        """Put ``new`` where ``old`` stood, drop others."""
        self.nodes[self.nodes.index(old)] = new
        for node in dropped:
            self.nodes.remove(node)
        self.made += 1

    def save(self, path: Path) -> None:
        """Write it beside its weights."""
        del self.proto.graph.node[:]
        self.proto.graph.node.extend(self.nodes)
        if not any(each.domain == CONTRIB for each in self.proto.opset_import):
            self.proto.opset_import.append(helper.make_opsetid(CONTRIB, 1))
        onnx.save(self.proto, path)


def _bias_of(model: Model, name: str) -> tuple[onnx.NodeProto, str, str] | None:
    """The addition of a vector of weights that gives a value which nothing else uses, what it is added to, and the vector."""
    add = model.producer(name, "Add")
    if add is None or model.use_count(name) != 1:
        return None
    for x, bias in (tuple(add.input), tuple(add.input)[::-1]):
        if len(model.weights.get(bias, ())) == 1:
            return add, x, bias
    return None


def residual_and_norm(model: Model, with_bias: bool = False) -> None:
    """A sum and the norm of it are one operator, which gives both; with the bias that one of the terms ends in."""
    for norm in [node for node in model.nodes if node.op_type in ("LayerNormalization", "RMSNormalization")]:
        add = model.producer(norm.input[0], "Add")
        if add is None or any(name in model.weights for name in add.input):
            continue
        left, right = add.input
        bias, dropped = "", [norm]
        if with_bias:
            found = _bias_of(model, right) or _bias_of(model, left)
            if found is not None:
                other = left if right == found[0].output[0] else right
                left, right, bias = found[1], other, found[2]
                dropped.append(found[0])
        simple = norm.op_type == "RMSNormalization"
        inputs = [left, right, norm.input[1], *([] if simple else [norm.input[2] if len(norm.input) > 2 else ""]), bias]
        epsilon = next(attribute.f for attribute in norm.attribute if attribute.name == "epsilon")
        op = "SkipSimplifiedLayerNormalization" if simple else "SkipLayerNormalization"
        fused = helper.make_node(op, inputs, [norm.output[0], "", "", add.output[0]], domain=CONTRIB, epsilon=epsilon)
        model.replace(add, fused, *dropped)


def residual_bias_and_norm(model: Model) -> None:
    """The same with the bias."""
    residual_and_norm(model, with_bias=True)


def bias_and_activation(model: Model) -> None:
    """A bias and GELU are one operator."""
    for gelu in [node for node in model.nodes if node.op_type == "Gelu"]:
        found = _bias_of(model, gelu.input[0])
        if found is not None:
            tanh = any(attribute.name == "approximate" and attribute.s == b"tanh" for attribute in gelu.attribute)
            fused = helper.make_node("FastGelu" if tanh else "BiasGelu", found[1:], gelu.output, domain=CONTRIB)
            model.replace(gelu, fused, found[0])


def packed_attention(model: Model) -> None:
    """Attention takes query, key and value as the one projection gives them, with nothing split."""
    for attention in [node for node in model.nodes if node.op_type == "GroupQueryAttention"]:
        split = model.producer(attention.input[0], "Split")
        if split is not None and list(split.output) == list(attention.input[:3]):
            packed = onnx.NodeProto()
            packed.CopyFrom(attention)
            packed.input[0], packed.input[1], packed.input[2] = split.input[0], "", ""
            model.replace(attention, packed, split)


SURGERY: dict[str, tuple[Callable[[Model], None], str]] = {
    "residual + norm": (residual_and_norm, "Skip(Simplified)?LayerNormalization"),
    "residual + bias + norm": (residual_bias_and_norm, "SkipLayerNormalization"),
    "bias + activation": (bias_and_activation, "BiasGelu"),
    "attention of packed projections": (packed_attention, ""),
}


@dataclass(frozen=True)
class Runner:
    """One model, loaded."""

    session: onnxruntime.InferenceSession
    feeds: Mapping[str, Mapping[str, onnxruntime.OrtValue]]

    @classmethod
    def open(cls, path: Path, lengths: list[int], optimised: Path | None = None) -> Runner:
        """Load with two threads; ``optimised`` is where onnxruntime leaves what it made of the model."""
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 2
        settings.log_severity_level = 3
        if optimised is not None:
            settings.optimized_model_filepath = str(optimised)
        session = onnxruntime.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
        feeds = {f"prefill {length}": _feed(session, 0, length) for length in lengths} | {"decode": _feed(session, PAST, 1)}
        return cls(session, feeds)

    def seconds(self, kind: str) -> float:
        """One run."""
        binding = self.session.io_binding()
        for name, value in self.feeds[kind].items():
            binding.bind_ortvalue_input(name, value)
        for output in self.session.get_outputs():
            binding.bind_output(output.name, "cpu")
        start = time.perf_counter()
        self.session.run_with_iobinding(binding)
        return time.perf_counter() - start


def _feed(session: onnxruntime.InferenceSession, past: int, new: int) -> dict[str, onnxruntime.OrtValue]:
    given: dict[str, np.ndarray] = {}
    for value in session.get_inputs():
        if value.name == "input_ids":
            given[value.name] = np.arange(new, dtype=np.int64)[None]
        elif value.name == "attention_mask":
            given[value.name] = np.ones((1, past + new), np.int64)
        elif value.name.startswith("past_key_values"):
            given[value.name] = np.zeros((1, value.shape[1], past, value.shape[3]), np.float32)
        elif value.name == "logits_to_keep":
            given[value.name] = np.array([1], np.int64)
    return {name: onnxruntime.OrtValue.ortvalue_from_numpy(array) for name, array in given.items()}


def gpt(folder: Path) -> Path:
    """Cerebras-GPT 111M."""
    write_model(preset("cerebras-gpt-111m"), folder / "model.pt")
    return folder / "model.pt"


def llama(folder: Path) -> Path:
    """LLaMA's shape at the same width and depth: separate projections, a gated MLP, RMS norms, rotary positions."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=32000,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=10,
        num_attention_heads=12,
        max_position_embeddings=2048,
    )
    LlamaForCausalLM(config).save_pretrained(folder / "llama")
    return folder / "llama"


MODELS: dict[str, Callable[[Path], Path]] = {"gpt": gpt, "llama": llama}


def variants(name: str, folder: Path) -> tuple[dict[str, Path], dict[str, int]]:
    """Model files by row, the plain one first, and how many places each fused."""
    source = MODELS[name](folder)
    plain: Artifact = cgptc.compile(source, output=folder / "plain")
    files, places = {"as compiled": plain.path / "model.onnx"}, {"as compiled": 0}
    for row, (change, _) in SURGERY.items():
        model = Model(plain.path / "model.onnx")
        change(model)
        if model.made:
            files[row], places[row] = plain.path / f"surgery-{len(files)}.onnx", model.made
            model.save(files[row])
    return files, places


def measure(name: str, rounds: int, lengths: list[int]) -> None:
    """Print a model's rows."""
    with tempfile.TemporaryDirectory() as place:
        files, places = variants(name, Path(place))
        by_itself = Path(place) / "optimised.onnx"
        runners = {row: Runner.open(file, lengths, by_itself if row == "as compiled" else None) for row, file in files.items()}
        made = Counter(node.op_type for node in onnx.load(by_itself, load_external_data=False).graph.node)
        print(f"{name}: onnxruntime by itself makes {dict(made)}")
        kinds = [f"prefill {length}" for length in lengths] + ["decode"]
        times: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
        for number in range(rounds + 1):
            for kind in kinds:
                order = random.Random(number).sample(list(runners), len(runners))
                repeats = 3 if kind == "decode" else 1
                taken = {row: min(runners[row].seconds(kind) for _ in range(repeats)) for row in order}
                if number:
                    times[kind].append(taken)
        for row in runners:
            cells = []
            for kind in kinds:
                ratios = [taken["as compiled"] / taken[row] for taken in times[kind]]
                low, middle, high = np.percentile(ratios, [5, 50, 95])
                cells.append(f"{kind}: {1e3 * np.median([taken[row] for taken in times[kind]]):.1f} ms {middle:.3f} ({low:.2f}-{high:.2f})")
            print(f"  {row:32} {places[row]:4} places  " + "   ".join(cells), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=tuple(MODELS), action="append")
    parser.add_argument("--rounds", type=int, default=12)
    parser.add_argument("--lengths", type=int, nargs="+", default=[128, 512])
    chosen = parser.parse_args()
    for name in chosen.model or MODELS:
        measure(name, chosen.rounds, chosen.lengths)


if __name__ == "__main__":
    main()

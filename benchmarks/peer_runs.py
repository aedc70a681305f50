"""One peer's part of `peers.py`, run by that peer's own interpreter: prepares the model once, or times it in this process.

    python benchmarks/peer_runs.py PEER prepare|run SPEC

SPEC is a JSON file; the last line printed is the result. Each peer reads the same Hugging Face folder (``hf``), computes in f32, and gives
the likeliest next token after the prompt: the logits of other positions are computed only where it cannot avoid them.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import Any

import numpy as np


class Peer(ABC):
    """A loaded model. ``steps`` is False where only a prefill is timed."""

    steps = True

    def __init__(self, folder: Path, threads: int) -> None:
        self.folder, self.threads = folder, threads

    @classmethod
    def prepare(cls, folder: Path) -> None:
        """Convert or export into ``folder``; not timed. Most read ``hf`` as it is."""
        assert (folder / "hf").is_dir()

    @abstractmethod
    def prefill(self, ids: list[int]) -> int:
        """Forget everything, read a prompt and give the next token."""

    def step(self, token: int) -> int:
        """Read one more token and give the next."""
        raise NotImplementedError

    def decode(self, ids: list[int], count: int) -> tuple[list[int], list[float]]:
        """Greedy tokens after a prompt, and the seconds that each step took."""
        made, seconds = [self.prefill(ids)], []
        for _ in range(count):
            start = time.perf_counter()
            made.append(self.step(made[-1]))
            seconds.append(time.perf_counter() - start)
        return made, seconds


class Cgptc(Peer):
    """This project: the compiled artifact through its own decoder."""

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(folder, threads)
        from cgptc.backends.onnx.session import OnnxSession

        self.decoder = OnnxSession.open(folder / "cgptc" / "model.onnx", threads=threads).decoder()

    @classmethod
    def prepare(cls, folder: Path) -> None:
        command = [sys.executable, "-m", "cgptc", "compile", str(folder / "hf"), "-o", str(folder / "cgptc"), "-q"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)

    def prefill(self, ids: list[int]) -> int:
        return int(self.decoder.prefill(np.array([ids]), np.ones((1, len(ids)), np.bool_))[0].argmax())

    def step(self, token: int) -> int:
        return int(self.decoder.step(np.array([token]))[0].argmax())


class TorchEager(Peer):
    """transformers on PyTorch, with its cache."""

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(folder, threads)
        import torch
        from transformers import AutoModelForCausalLM

        torch.set_num_threads(threads)
        torch.set_grad_enabled(False)
        self.torch = torch
        self.model: Any = AutoModelForCausalLM.from_pretrained(folder / "hf").eval()
        self.past: Any = None

    def prefill(self, ids: list[int]) -> int:
        self.past = None
        return self._read(ids)

    def step(self, token: int) -> int:
        return self._read([token])

    def _read(self, ids: list[int]) -> int:
        found = self.model(self.torch.tensor([ids]), past_key_values=self.past, use_cache=True, logits_to_keep=1)
        self.past = found.past_key_values
        return int(found.logits[0, -1].argmax())


class TorchCompile(TorchEager):
    """The same without a cache, compiled by inductor for each length."""

    steps = False

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(folder, threads)
        self.compiled = self.torch.compile(self.model, dynamic=False)

    def prefill(self, ids: list[int]) -> int:
        return int(self.compiled(self.torch.tensor([ids]), use_cache=False, logits_to_keep=1).logits[0, -1].argmax())


class TorchOnnx(Peer):
    """PyTorch's exporter, then onnxruntime; without a cache, which it does not derive."""

    steps = False

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(folder, threads)
        self.session = onnx_session(folder / "torch-onnx" / "model.onnx", threads)

    @classmethod
    def prepare(cls, folder: Path) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        class LastLogits(torch.nn.Module):
            def __init__(self, model: Any) -> None:
                super().__init__()
                self.model = model

            def forward(self, input_ids: Any) -> Any:
                return self.model(input_ids, use_cache=False, logits_to_keep=1).logits

        (folder / "torch-onnx").mkdir(exist_ok=True)
        model = LastLogits(AutoModelForCausalLM.from_pretrained(folder / "hf").eval())
        torch.onnx.export(
            model,
            (torch.zeros((1, 8), dtype=torch.int64),),
            folder / "torch-onnx" / "model.onnx",
            dynamo=True,
            external_data=True,
            verbose=False,
            dynamic_shapes={"input_ids": {1: torch.export.Dim("seq", min=2, max=1024)}},
        )

    def prefill(self, ids: list[int]) -> int:
        (name,) = [value.name for value in self.session.get_inputs()]
        return int(self.session.run(None, {name: np.array([ids])})[0][0, -1].argmax())


class Optimum(Peer):
    """optimum's exporter and its ORTModelForCausalLM."""

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(folder, threads)
        import onnxruntime
        import torch
        from optimum.onnxruntime import ORTModelForCausalLM

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        torch.set_num_threads(threads)
        self.torch = torch
        self.model: Any = ORTModelForCausalLM.from_pretrained(folder / "optimum", session_options=options)
        self.past: Any = None
        self.length = 0

    @classmethod
    def prepare(cls, folder: Path) -> None:
        from optimum.exporters.onnx import main_export

        main_export(str(folder / "hf"), folder / "optimum", task="text-generation-with-past", do_validation=False)

    def prefill(self, ids: list[int]) -> int:
        self.past, self.length = None, 0
        return self._read(ids)

    def step(self, token: int) -> int:
        return self._read([token])

    def _read(self, ids: list[int]) -> int:
        torch = self.torch
        positions = torch.arange(self.length, self.length + len(ids))[None]
        self.length += len(ids)
        mask = torch.ones((1, self.length), dtype=torch.int64)
        found = self.model(torch.tensor([ids]), attention_mask=mask, position_ids=positions, past_key_values=self.past, use_cache=True)
        self.past = found.past_key_values
        return int(found.logits[0, -1].argmax())


class OpenVino(Peer):
    """OpenVINO on the file that optimum exported, held to f32: its default on CPUs with bf16 is silently that."""

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(folder, threads)
        import openvino

        settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": threads, "PERFORMANCE_HINT": "LATENCY"}
        core = openvino.Core()
        self.request = core.compile_model(core.read_model(folder / "optimum" / "model.onnx"), "CPU", settings).create_infer_request()
        self.model = self.request.get_compiled_model()
        self.past: dict[str, Any] = {}
        self.length = 0

    def prefill(self, ids: list[int]) -> int:
        self.length, self.past = 0, {}
        for port in self.model.inputs:
            name, shape = port.get_any_name(), port.get_partial_shape()
            if name.startswith("past_key_values"):
                self.past[name] = np.zeros((1, shape[1].get_length(), 0, shape[3].get_length()), np.float32)
        return self._read(ids)

    def step(self, token: int) -> int:
        return self._read([token])

    def _read(self, ids: list[int]) -> int:
        names = {name for port in self.model.inputs for name in port.get_names()}
        feeds: dict[str, Any] = {"input_ids": np.array([ids]), **self.past}
        positions = np.arange(self.length, self.length + len(ids))[None]
        self.length += len(ids)
        feeds |= {"attention_mask": np.ones((1, self.length), np.int64), "position_ids": positions}
        self.request.infer({name: value for name, value in feeds.items() if name in names}, share_inputs=True)
        # Copies: the request's own outputs are overwritten by the next call.
        self.past = {name: self.request.get_tensor(name.replace("past_key_values", "present")).data.copy() for name in self.past}
        return int(self.request.get_tensor("logits").data[0, -1].argmax())


class CTranslate2(Peer):
    """CTranslate2's converter and generator, whose steps are timed together: it has no call for one."""

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(folder, threads)
        import ctranslate2

        self.model = ctranslate2.Generator(str(folder / "ctranslate2"), device="cpu", compute_type="float32", intra_threads=threads)

    @classmethod
    def prepare(cls, folder: Path) -> None:
        import ctranslate2

        ctranslate2.converters.TransformersConverter(str(folder / "hf")).convert(str(folder / "ctranslate2"), force=True)

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

    def _generate(self, ids: list[int], count: int) -> list[int]:
        prompt = [[f"w{token}" for token in ids]]
        (found,) = self.model.generate_batch(
            prompt, max_length=count, min_length=count, include_prompt_in_result=False, sampling_topk=1, end_token=[]
        )
        made: list[int] = found.sequences_ids[0]
        return made


class LlamaCpp(Peer):
    """llama.cpp on a GGUF file beside the folder (``hf.gguf``), which its own converter makes."""

    def __init__(self, folder: Path, threads: int) -> None:
        super().__init__(folder, threads)
        from llama_cpp import Llama

        self.model = Llama(str(folder / "hf.gguf"), n_ctx=2048, n_threads=threads, n_threads_batch=threads, n_batch=2048, verbose=False)

    @classmethod
    def prepare(cls, folder: Path) -> None:
        import llama_cpp  # noqa: F401  (that it is not installed is told before that the file is missing)

        if not (folder / "hf.gguf").exists():
            raise FileNotFoundError("hf.gguf: make it with llama.cpp's convert_hf_to_gguf.py, which is in no package")

    def prefill(self, ids: list[int]) -> int:
        self.model.reset()
        return self.step_all(ids)

    def step(self, token: int) -> int:
        return self.step_all([token])

    def step_all(self, ids: list[int]) -> int:
        self.model.eval(ids)
        return int(self.model.sample(temp=0.0))


PEERS: dict[str, type[Peer]] = {
    "cgptc": Cgptc,
    "torch-eager": TorchEager,
    "torch-compile": TorchCompile,
    "torch-onnx": TorchOnnx,
    "optimum": Optimum,
    "openvino": OpenVino,
    "ctranslate2": CTranslate2,
    "llama.cpp": LlamaCpp,
}


def onnx_session(path: Path, threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def run(peer: Peer, spec: dict[str, Any]) -> dict[str, Any]:
    """Seconds by prompt length, seconds of a decoded token, and the tokens themselves, for the same greedy text from all."""
    rng = np.random.default_rng(0)
    found: dict[str, Any] = {"prefill": {}, "first": {}}
    for length in spec["lengths"]:
        ids = rng.integers(spec["vocabulary"], size=length).tolist()
        found["first"][str(length)] = peer.prefill(ids)
        seconds = []
        for _ in range(spec["repeats"]):
            start = time.perf_counter()
            peer.prefill(ids)
            seconds.append(time.perf_counter() - start)
        found["prefill"][str(length)] = statistics.median(seconds)
    if peer.steps:
        ids = rng.integers(spec["vocabulary"], size=spec["decode_prompt"]).tolist()
        found["tokens"], seconds = peer.decode(ids, spec["new_tokens"])
        found["step"] = statistics.median(seconds)
    return found


def bandwidth(threads: int) -> float:
    """Bytes per second that this machine reads from memory now."""
    from cgptc.driver.bench.read_stream import ReadStream

    stream = ReadStream(threads)
    stream.measure()
    return statistics.median(stream.measure() for _ in range(5))


def main() -> None:
    name, action, place = sys.argv[1:]
    spec = json.loads(Path(place).read_text())
    folder = Path(spec["folder"])
    if action == "prepare":
        PEERS[name].prepare(folder)
        print("{}")
        return
    found = run(PEERS[name](folder, spec["threads"]), spec)
    if name == "cgptc":
        found["bandwidth"] = bandwidth(spec["threads"])
    print(json.dumps(found))


if __name__ == "__main__":
    main()

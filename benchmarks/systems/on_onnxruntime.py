"""Other ways to onnxruntime: PyTorch's exporter, and optimum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from systems.peer import Peer


def session_options(threads: int) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    return options


class TorchOnnx(Peer):
    """``torch.onnx.export(dynamo=True)``; without a cache, which it does not derive, so that a prefill is all that is timed."""

    def __init__(self, folder: Path, form: str, threads: int) -> None:
        import onnxruntime

        path = str(folder / "torch-onnx" / "model.onnx")
        self.session = onnxruntime.InferenceSession(path, session_options(threads), providers=["CPUExecutionProvider"])

    @classmethod
    def prepare(cls, folder: Path, form: str) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        class LastLogits(torch.nn.Module):
            def __init__(self, model: Any) -> None:
                super().__init__()
                self.model = model

            def forward(self, input_ids: Any) -> Any:
                return self.model(input_ids, use_cache=False, logits_to_keep=1).logits

        (folder / "torch-onnx").mkdir(exist_ok=True)
        torch.onnx.export(
            LastLogits(AutoModelForCausalLM.from_pretrained(folder / "hf").eval()),
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
    """optimum's exporter and its ORTModelForCausalLM; in int8 by its own quantiser, dynamically, with a scale for each column."""

    def __init__(self, folder: Path, form: str, threads: int) -> None:
        import torch
        from optimum.onnxruntime import ORTModelForCausalLM

        torch.set_num_threads(threads)
        self.torch = torch
        name = {} if form == "f32" else {"file_name": "model_quantized.onnx"}
        place = folder / ("optimum" if form == "f32" else f"optimum-{form}")
        self.model: Any = ORTModelForCausalLM.from_pretrained(place, session_options=session_options(threads), **name)
        self.past: Any = None
        self.length = 0

    @classmethod
    def prepare(cls, folder: Path, form: str) -> None:
        export(folder)
        if form == "int8":
            from optimum.onnxruntime import ORTQuantizer
            from optimum.onnxruntime.configuration import AutoQuantizationConfig

            settings = AutoQuantizationConfig.avx512(is_static=False, per_channel=True)
            ORTQuantizer.from_pretrained(folder / "optimum").quantize(save_dir=folder / "optimum-int8", quantization_config=settings)

    def prefill(self, ids: list[int]) -> int:
        self.past, self.length = None, 0
        return int(self._read(ids)[-1].argmax())

    def step(self, token: int) -> int:
        return int(self._read([token])[-1].argmax())

    def logits(self, ids: list[int]) -> npt.NDArray[np.float32]:
        self.past, self.length = None, 0
        found: npt.NDArray[np.float32] = self._read(ids).numpy()
        return found

    def _read(self, ids: list[int]) -> Any:
        torch = self.torch
        positions = torch.arange(self.length, self.length + len(ids))[None]
        self.length += len(ids)
        mask = torch.ones((1, self.length), dtype=torch.int64)
        found = self.model(torch.tensor([ids]), attention_mask=mask, position_ids=positions, past_key_values=self.past, use_cache=True)
        self.past = found.past_key_values
        return found.logits[0]


def export(folder: Path) -> None:
    """optimum's ONNX file, where it is not there yet."""
    from optimum.exporters.onnx import main_export

    if not (folder / "optimum" / "model.onnx").exists():
        main_export(str(folder / "hf"), folder / "optimum", task="text-generation-with-past", do_validation=False)

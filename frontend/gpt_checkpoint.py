"""From a file of weights to a captured GPT: recognise, build on the meta device, capture, refer to the file's tensors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cgptc.frontend.naming import Recognised, recognise
from cgptc.frontend.presets import Preset
from cgptc.frontend.readers import Checkpoint
from cgptc.ir.diagnostics import Warnings
from cgptc.ir.dtypes import DType, bf16, f16, f32, f64
from cgptc.ir.graph import Graph
from cgptc.ir.weight_expressions import converted, transposed
from cgptc.ir.weights import Weight

if TYPE_CHECKING:
    from cgptc.frontend.gpt import Gpt

Bounds = tuple[int, int]
EXAMPLE_BATCH, EXAMPLE_SEQ = 2, 8


@dataclass(frozen=True)
class CheckpointGpt:
    """A checkpoint that holds a GPT of the project's own family."""

    checkpoint: Checkpoint
    recognised: Recognised

    @classmethod
    def of(
        cls,
        checkpoint: Checkpoint,
        file: str,
        *,
        config: Mapping[str, object] | None = None,
        preset: Preset | None = None,
        warnings: Warnings | None = None,
    ) -> CheckpointGpt:
        """Recognise the GPT; ``config`` stands in for what the checkpoint itself says. Raises `recognise`'s `CompileError`."""
        known = config if config is not None else checkpoint.config
        return cls(checkpoint, recognise(checkpoint.tensors, config=known, preset=preset, file=file, warnings=warnings))

    @property
    def weights(self) -> dict[str, Weight]:
        """The weight of each of the module's parameters, by the parameter's name."""
        found: dict[str, Weight] = {}
        for name, source in self.recognised.sources.items():
            stored = converted(self.checkpoint.tensors[source.name], self.dtype)
            found[name] = transposed(stored, (1, 0)) if source.transposed else stored
        return found

    @property
    def dtype(self) -> DType:
        """The element type that the model computes in: the widest among its weights."""
        found = {self.checkpoint.tensors[source.name].dtype for source in self.recognised.sources.values()}
        return next(dtype for dtype in (f64, f32, bf16, f16) if dtype in found)

    def capture(self, dynamic: Mapping[str, Bounds], fixed: Mapping[str, int], *, with_mask: bool) -> Graph:
        """The graph over ``input_ids`` and, ``with_mask``, ``attention_mask``; sizes in ``fixed`` are integers, the others symbols."""
        import torch

        from cgptc.frontend.capture import capture
        from cgptc.frontend.gpt import meta_gpt
        from cgptc.frontend.torch_dtypes import TO_TORCH

        config = self.recognised.config
        limits: dict[str, Bounds | None] = {"batch": None, "seq": (1, config.positions)}
        requested = {name: dynamic.get(name, limits[name]) for name in limits if name not in fixed}
        shape = (fixed.get("batch", EXAMPLE_BATCH), fixed.get("seq", min(EXAMPLE_SEQ, config.positions)))
        ids = torch.zeros(shape, dtype=torch.int64)
        arguments = (ids, torch.ones(shape, dtype=torch.int64)) if with_mask else (ids,)
        return capture(
            meta_gpt(config).to(TO_TORCH[self.dtype]),
            arguments,
            dynamic=requested,
            weights=self.weights,
            store=self.checkpoint.store,
            output_names=["logits" if config.head.value != "none" else "last_hidden_state"],
        )

    def module(self) -> Gpt:
        """The module in PyTorch with its weights read into memory, in their own element type and evaluation mode."""
        from cgptc.frontend.gpt import meta_gpt
        from cgptc.frontend.torch_dtypes import to_torch

        module = meta_gpt(self.recognised.config)
        state = {name: to_torch(weight.read(self.checkpoint.store)) for name, weight in self.weights.items()}
        module.load_state_dict(state, assign=True)
        return module

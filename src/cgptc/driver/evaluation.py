"""Perplexity and bits per byte of a text."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cgptc.frontend.source import Request, open_model
from cgptc.ir.diagnostics import FileError, MalformedError, UsageError
from cgptc.ir.op import Array
from cgptc.runtime.compiled import Artifact
from cgptc.runtime.inputs import complete_inputs
from cgptc.runtime.interface import IDS, LOGITS, Interface

Run = Callable[[Array], Array]
"""Logits ``[1, length, vocabulary]`` of ids ``[1, length]``."""


@dataclass(frozen=True)
class Score:
    """How well a text was foreseen: ``loss`` in nats, summed over ``token_count`` tokens that stand for ``byte_count`` bytes."""

    name: str
    loss: float
    token_count: int
    byte_count: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss / self.token_count, 700.0))

    @property
    def bits_per_byte(self) -> float:
        return self.loss / math.log(2) / self.byte_count


def evaluate_text(artifact: Artifact, path: Path, against: str | None = None, request: Request | None = None) -> list[Score]:
    """The artifact's score on a text file, and that of the model ``against`` run by PyTorch in its own element types.

    The text is cut into windows as long as the model takes, each starting with the last token of the one before, so that every token but
    the first is foreseen once. `UsageError` where there is no tokenizer, or fewer than two tokens.
    """
    text = _read(path)
    ids = artifact.encode(text)
    if len(ids) < 2:
        raise UsageError("short-text", f"the text has {len(ids)} tokens", file=str(path), fix="give at least two")
    limit = artifact.text_model.context or len(ids)
    seq = artifact.interface.symbols.get("seq")
    length = min(limit, seq.high if seq is not None else limit, len(ids))
    size = len(text.encode())
    scores = [Score("artifact", text_loss(lambda window: artifact.run({IDS: window})[LOGITS], ids, length), len(ids) - 1, size)]
    if against is not None:
        scores.append(Score("PyTorch", _reference_loss(against, request or Request(), ids, length), len(ids) - 1, size))
    return scores


def text_loss(run: Run, ids: Sequence[int], length: int) -> float:
    """The sum of ``-log p`` over every token but the first, in windows of ``length`` tokens."""
    step = max(1, length - 1)
    total = 0.0
    for start in range(0, len(ids) - 1, step):
        window = np.array([ids[start : start + step + 1]], np.int64)
        logits = run(window[:, :-1])[0].astype(np.float64)
        if len(logits) != window.shape[1] - 1:
            raise UsageError("last-token", "the model gives the last token's logits alone", fix="compile without last-token-logits")
        total += _cross_entropy(logits, window[0, 1:])
    return total


def _cross_entropy(logits: Array, targets: Array) -> float:
    highest = logits.max(axis=-1)
    log_sums = highest + np.log(np.exp(logits - highest[:, None]).sum(axis=-1))
    return float((log_sums - np.take_along_axis(logits, targets[:, None], axis=-1)[:, 0]).sum())


def _reference_loss(model: str, request: Request, ids: Sequence[int], length: int) -> float:
    with open_model(model, request) as captured:
        if captured.reference is None:
            raise UsageError("shape-only", "there are no weights to compare with", file=model, fix="give a model file or folder")
        from cgptc.frontend.oracle import evaluate_module

        module, interface = captured.reference(), Interface.of(captured.graph)
        names = [port.name for port in interface.outputs]

        def run(window: Array) -> Array:
            inputs: Mapping[str, Array] = complete_inputs(interface, {IDS: window})
            return evaluate_module(module, inputs, output_names=names)[LOGITS]

        return text_loss(run, ids, length)


def _read(path: Path) -> str:
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise MalformedError("text", "is not UTF-8", file=str(path), fix="give a text file in UTF-8") from None
    except OSError as error:
        raise FileError("read", (error.strerror or str(error)).lower(), file=str(path), fix="give a text file") from error

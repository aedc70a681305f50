"""From what a user names to a captured model: the one way into the compiler."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from cgptc.frontend.presets import PRESETS, preset
from cgptc.frontend.readers import Kind, sniff
from cgptc.ir.diagnostics import FileError, UsageError
from cgptc.ir.graph import Graph
from cgptc.ir.result_tree import ResultTree

if TYPE_CHECKING:
    import torch

Bounds = tuple[int, int]

TOKENIZER_FILES = (("tokenizer.json",), ("vocab.json", "merges.txt"))
"""Complete sets of tokenizer files, preferred first."""

COMPANION_FILES = ("tokenizer_config.json", "special_tokens_map.json", "generation_config.json")
"""Further files that runtimes look for beside a model."""


@dataclass(frozen=True)
class Request:
    """What the user says of a model that its file does not.

    ``config`` is a JSON file, ``preset`` a name; ``dynamic`` bounds of sizes that stay symbolic, ``fixed`` sizes that do not.
    ``weights`` is the file for a model of the user's own class; ``unsafe_load_pickle`` lets a pickled module be unpickled, which runs
    whatever code its file names.
    """

    preset: str | None = None
    config: Path | None = None
    weights: Path | None = None
    unsafe_load_pickle: bool = False
    dynamic: Mapping[str, Bounds] = field(default_factory=dict)
    fixed: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class TextModel:
    """A causal language model: size of its vocabulary, most positions (None: no limit), ids that end a text."""

    vocabulary: int
    context: int | None
    stop: tuple[int, ...] = ()


@dataclass(frozen=True)
class CapturedModel:
    """A model captured, with what must be known of it beyond the graph.

    ``name`` is its class; ``format`` says what kind of file it was; ``digest`` computes the sha256 of the input ("" for a model
    without a file); ``companions`` are tokenizer and generation files by the name that an artifact gives them;
    ``configuration`` is what Hugging Face's ``config.json`` would hold where that is known; ``reference`` builds
    the PyTorch module with its weights, for comparison; ``close`` closes the files, after which weights can no longer be read; ``result``
    is the nest in which the original gives its outputs, where that is known.
    """

    graph: Graph
    name: str
    format: str
    parameter_count: int
    layer_count: int
    text: TextModel | None = None
    digest: Callable[[], str] = lambda: ""
    companions: Mapping[str, Path] = field(default_factory=dict)
    configuration: Mapping[str, object] | None = None
    warnings: tuple[str, ...] = ()
    reference: Callable[[], torch.nn.Module] | None = None
    close: Callable[[], None] = lambda: None
    result: ResultTree | None = None

    def __enter__(self) -> CapturedModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def is_preset(model: str) -> bool:
    """Whether a name is a preset's, which has a shape and no weights: what exists under the name comes first."""
    return model in PRESETS and not os.path.lexists(model)


def open_model(model: str, request: Request = Request(), *, shape_only: bool = False, hash_ahead: bool = False) -> CapturedModel:
    """Capture what ``model`` names: a file, a folder, ``package.module:callable`` or, with ``shape_only``, a preset.

    With ``hash_ahead`` the digest of the file is begun before the model is captured, beside PyTorch's import. Raises `CgptcError`: whatever
    the readers and the capture raise, and ``no-such-model`` for a name that is none of these.
    """
    from cgptc.frontend.exported_model import capture_exported
    from cgptc.frontend.own_gpt import capture_checkpoint, capture_preset
    from cgptc.frontend.user_class import NAME, capture_user_class

    if not os.path.lexists(model):
        if model in PRESETS:
            if shape_only:
                return capture_preset(preset(model), request)
            raise UsageError(
                "shape-only",
                f"'{model}' is a preset: a shape without weights",
                fix=f"cgptc new --preset {model} -o model.pt makes a file to compile",
            )
        if NAME.fullmatch(model):
            return capture_user_class(model, request, hash_ahead)
        raise _missing(model)
    path = Path(model)
    kind = sniff(path)
    if kind is Kind.EXPORTED:
        return capture_exported(path, request, hash_ahead)
    if kind is Kind.PICKLED_MODULE and request.unsafe_load_pickle:
        from cgptc.frontend.unsafe_pickle import capture_pickled

        return capture_pickled(path, request)
    return capture_checkpoint(path, request, hash_ahead)


def _missing(model: str) -> FileError:
    if model.count("/") == 1 and not model.startswith((".", "/", "~")) and not Path(model).parent.exists():
        folder = model.split("/")[1]
        return FileError(
            "no-such-model",
            f"'{model}' is no file or folder here, and nothing is downloaded",
            fix=f"if it is a hub name, put its config.json and weights in a folder, say '{folder}', and give that",
        )
    near = ", ".join(list(PRESETS)[:4])
    return FileError("no-such-model", f"there is no file, folder or preset '{model}'", fix=f"presets are {near}, …: cgptc list presets")


def find_companions(folder: Path) -> dict[str, Path]:
    """Tokenizer and generation files in a folder, by name."""
    found: dict[str, Path] = {}
    for names in TOKENIZER_FILES:
        if all((folder / name).is_file() for name in names):
            found.update((name, folder / name) for name in names)
            break
    found.update((name, folder / name) for name in COMPANION_FILES if (folder / name).is_file())
    return found

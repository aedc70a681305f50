"""Writes a model to start from: a preset's shape with random weights, or the trained demo model."""

from __future__ import annotations

import functools
import json
import os
import shutil
from collections.abc import Iterator
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path

from safetensors.numpy import load

from cgptc.frontend.atomic_file import replacing
from cgptc.frontend.gpt_config_json import to_huggingface
from cgptc.frontend.initialise import initial_blocks
from cgptc.frontend.presets import Preset
from cgptc.frontend.safetensors_writer import write_safetensors
from cgptc.frontend.state_dict_writer import write_state_dict
from cgptc.frontend.tensor_source import TensorSource
from cgptc.ir.diagnostics import FileError, UsageError
from cgptc.ir.dtypes import f32
from cgptc.ir.op import Array

CONFIG_KEY = "config"
"""Key of the configuration, as JSON, in the metadata of a safetensors file."""

COMPANIONS = ("tokenizer.json", "generation_config.json")
"""What a trained model has beside its weights."""


def write_model(preset: Preset, path: Path, seed: int = 0, *, force: bool = False) -> tuple[Path, ...]:
    """Write the preset's model and return the paths written, the model first.

    ``path`` ends in ``.pt`` (a state dict with its configuration, for torch.load), ``.safetensors`` (configuration in the
    metadata), or nothing (a folder as Hugging Face writes them). Weights stream: any size needs little memory. Equal arguments
    give equal bytes. A trained preset ignores ``seed`` and brings its tokenizer. What stands at ``path`` stays, since weights that took
    long to train look like any others, unless ``force`` lets one file take another's place, whole or not at all. Raises `UsageError`,
    `FileError`, and `CompileError` where a folder cannot say the configuration.
    """
    companions = [trained_model(preset.name) / name for name in COMPANIONS] if preset.trained else []
    match path.suffix:
        case ".pt" | ".pth" | ".safetensors":
            _refuse_to_replace(path, force)
            targets = [(companion, path.with_name(companion.name)) for companion in companions]
            for companion, target in targets:
                _refuse_to_overwrite(companion, target)
            _write_weights(preset, path, seed)
            for companion, target in targets:
                _copy(companion, target)
            return (path, *(target for _, target in targets))
        case "":
            return _write_folder(preset, path, seed, companions)
        case suffix:
            raise UsageError(
                "unknown-suffix",
                f"cannot tell the format from '{suffix}'",
                file=str(path),
                fix="end the path in .pt or .safetensors, or in nothing for a folder",
            )


def trained_model(name: str) -> Traversable:
    """The folder of a trained model that comes with cgptc: config.json, model.safetensors and `COMPANIONS`."""
    return resources.files("cgptc") / "models" / name


def _write_folder(preset: Preset, path: Path, seed: int, companions: list[Traversable]) -> tuple[Path, ...]:
    config = to_huggingface(preset.config) | {"dtype": "float32"}
    if preset.trained:
        config = json.loads((trained_model(preset.name) / "config.json").read_text(encoding="utf-8"))
    if path.exists():
        raise UsageError("output-exists", "the folder exists", file=str(path), fix="choose another name, or remove it")
    partial = path.with_name(f".{path.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        with replacing(partial / "config.json") as file:
            file.write((json.dumps(config, indent=2) + "\n").encode())
        _write_weights(preset, partial / "model.safetensors", seed)
        for companion in companions:
            _copy(companion, partial / companion.name)
        partial.rename(path)
    except OSError as error:
        raise FileError("cannot-write", error.strerror or str(error), file=str(path), fix="choose another output path") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    names = ("config.json", "model.safetensors", *(companion.name for companion in companions))
    return (path, *(path / name for name in names))


def _write_weights(preset: Preset, path: Path, seed: int) -> None:
    tensors = list(_trained_tensors(preset) if preset.trained else _random_tensors(preset, seed))
    config = preset.config.to_mapping()
    with replacing(path) as file:
        if path.suffix == ".safetensors":
            write_safetensors(file, tensors, {CONFIG_KEY: json.dumps(config), "format": "pt"})
        else:
            write_state_dict(file, tensors, config)


def _random_tensors(preset: Preset, seed: int) -> Iterator[TensorSource]:
    for name, shape in preset.config.parameters():
        yield TensorSource(name, f32, shape, functools.partial(initial_blocks, preset.config, name, shape, seed))


def _trained_tensors(preset: Preset) -> Iterator[TensorSource]:
    stored = load((trained_model(preset.name) / "model.safetensors").read_bytes())
    for name, shape in preset.config.parameters():
        yield TensorSource(name, f32, shape, functools.partial(_one_block, stored[name]))


def _one_block(tensor: Array) -> Iterator[Array]:
    yield tensor.reshape(-1)


def _refuse_to_replace(path: Path, force: bool) -> None:
    if not os.path.lexists(path) or (force and path.is_file()):
        return
    kind, fix = ("file", "choose another name, or --force replaces it") if path.is_file() else ("folder", "choose another name")
    raise UsageError("output-exists", f"there is a {kind} of that name", file=str(path), fix=fix)


def _refuse_to_overwrite(companion: Traversable, target: Path) -> None:
    if target.exists() and target.read_bytes() != companion.read_bytes():
        raise UsageError(
            "output-exists",
            "another model's file is where this model's belongs",
            file=str(target),
            fix="write the model into a folder of its own",
        )


def _copy(source: Traversable, target: Path) -> None:
    with replacing(target) as file:
        file.write(source.read_bytes())

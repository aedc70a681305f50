"""Folders as Hugging Face's ``save_pretrained`` writes them: ``config.json`` and weights, in one file or in shards with
an index.

Of several sets of weights the first of `WEIGHT_FILES` is read, as transformers does. Weight files are opened by
content; no name in an index leads out of the folder, nor does a link, other than into the ``blobs`` of a Hugging Face
cache.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from cgptc.frontend.readers.checkpoint import Checkpoint, Contents, make_checkpoint
from cgptc.frontend.readers.input_file import InputFile
from cgptc.frontend.readers.limits import SHARD_COUNT, TENSOR_COUNT
from cgptc.frontend.readers.plain_json import JsonObject, read_json_object
from cgptc.frontend.readers.quoting import listed, quoted
from cgptc.frontend.readers.weight_file import read_weight_file
from cgptc.ir.diagnostics import MalformedError
from cgptc.ir.printable import printable

CONFIG_FILE = "config.json"
SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
WEIGHT_FILES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)


def weight_file_of(folder: Path) -> str | None:
    """The name of the weight file or index that the folder is read from; None where it has none."""
    return next((name for name in WEIGHT_FILES if os.path.lexists(folder / name)), None)


def read_config(folder: Path) -> JsonObject:
    """The folder's ``config.json`` as plain data."""
    with InputFile(_inside(folder, CONFIG_FILE), printable(str(folder / CONFIG_FILE))) as file:
        return read_json_object(file, "the configuration")


def config_beside(path: Path) -> JsonObject | None:
    """The ``config.json`` beside a weight file of the name that transformers gives it, where it describes a model."""
    if path.name not in SINGLE_FILES or not os.path.lexists(path.parent / CONFIG_FILE):
        return None
    config = read_config(path.parent)
    return config if "model_type" in config or "architectures" in config else None


def open_folder(folder: Path, weights: str) -> Checkpoint:
    """The checkpoint in a folder that has ``config.json`` and ``weights``, one of `WEIGHT_FILES`."""
    with contextlib.ExitStack() as opened:

        def open_file(name: str) -> InputFile:
            return opened.enter_context(InputFile(_inside(folder, name), printable(str(folder / name))))

        files = [open_file(CONFIG_FILE), open_file(weights)]
        config = read_json_object(files[0], "the configuration")
        if weights in SINGLE_FILES:
            contents = read_weight_file(files[1])
            found = Contents(contents.format, contents.extents, contents.blobs, config, contents.metadata, contents.notes)
        else:
            weight_map = _weight_map(files[1])
            shards = {name: open_file(name) for name in sorted(set(weight_map.values()))}
            files += shards.values()
            found = _merged(weight_map, {name: read_weight_file(file) for name, file in shards.items()}, files[1], config)
        checkpoint = make_checkpoint(found, files)
        opened.pop_all()
        return checkpoint


def _inside(folder: Path, name: str) -> Path:
    """The file of that name in the folder itself; `MalformedError` where a link leads elsewhere."""
    home, target = Path(os.path.realpath(folder)), Path(os.path.realpath(folder / name))
    cache = home.parent.parent / "blobs" if home.parent.name == "snapshots" else home
    if target.parent not in (home, cache):
        raise MalformedError(
            "link-leaves-folder",
            "it is a link that leads out of the folder",
            file=printable(str(folder / name)),
            fix="put the file there",
        )
    return target


def _weight_map(index: InputFile) -> dict[str, str]:
    """Tensor → shard, every shard a plain file name."""
    found = read_json_object(index, "the index").get("weight_map")
    if not isinstance(found, dict) or not found:
        raise _malformed("the index has no 'weight_map'", index)
    if len(found) > TENSOR_COUNT:
        raise _malformed(f"the index names more than {TENSOR_COUNT} tensors", index)
    weight_map: dict[str, str] = {}
    for name, shard in found.items():
        if not isinstance(shard, str) or shard in ("", ".", "..") or any(mark in shard for mark in "/\\") or not shard.isprintable():
            raise _malformed(f"the index sends {quoted(name)} to {quoted(str(shard)[:99])}, which is no file name", index)
        weight_map[name] = shard
    if len(set(weight_map.values())) > SHARD_COUNT:
        raise _malformed(f"the index names more than {SHARD_COUNT} files", index)
    return weight_map


def _merged(weight_map: dict[str, str], shards: dict[str, Contents], index: InputFile, config: JsonObject) -> Contents:
    missing = [name for name, shard in weight_map.items() if name not in shards[shard].extents]
    if missing:
        raise _malformed(f"the shards lack {listed(missing)}, which the index sends to them", index)
    notes = [note for shard in shards.values() for note in shard.notes]
    for shard, contents in shards.items():
        extra = [name for name in contents.extents if weight_map.get(name) != shard]
        if extra:
            notes.append(f"{quoted(shard)}: tensors that the index does not send there are left out: {listed(extra)}")
    return Contents(
        f"sharded {next(iter(shards.values())).format}",
        {name: shards[shard].extents[name] for name, shard in weight_map.items()},
        tuple(blob for contents in shards.values() for blob in contents.blobs),
        config,
        notes=tuple(notes),
    )


def _malformed(what: str, file: InputFile) -> MalformedError:
    return MalformedError("malformed-index", what, file=file.label, fix="copy or download the folder again")

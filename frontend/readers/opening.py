"""The ways in: what a path is, its weights, its exported program. Nothing in a file is executed."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import stat
from pathlib import Path

from cgptc.frontend.readers.checkpoint import Checkpoint, make_checkpoint
from cgptc.frontend.readers.folder import CONFIG_FILE, config_beside, open_folder, weight_file_of
from cgptc.frontend.readers.input_file import InputFile, file_mode
from cgptc.frontend.readers.kinds import Kind, kind_of
from cgptc.frontend.readers.pt2 import ExportedArchive, read_pt2
from cgptc.frontend.readers.torch_legacy import unpickle_legacy
from cgptc.frontend.readers.torch_zip import unpickle_zip
from cgptc.frontend.readers.weight_file import read_weight_file, refusal
from cgptc.ir.diagnostics import CompileError
from cgptc.ir.printable import printable


def sniff(path: Path) -> Kind:
    """What a path is, by content alone.

    The pickle of a ``.pt`` is read, without executing it, to tell a state dict from a pickled module. `FileError` where
    the path cannot be read or is no regular file; `MalformedError` where a zip's directory or that pickle is damaged.
    """
    path = Path(path)
    if stat.S_ISDIR(file_mode(path, printable(str(path)))):
        return _folder_kind(path)
    with InputFile(path) as file:
        kind, archive = kind_of(file)
        if kind is Kind.STATE_DICT and archive is not None:
            pickle, _ = unpickle_zip(archive, archive.blobs())
        elif kind is Kind.LEGACY_STATE_DICT:
            pickle, _, _ = unpickle_legacy(file)
        else:
            return kind
        return Kind.PICKLED_MODULE if pickle.foreign else kind


def open_checkpoint(path: Path) -> Checkpoint:
    """The weights in a file or folder.

    Takes safetensors, PyTorch state dicts (zip and legacy, bare or in a dictionary with a configuration) and Hugging
    Face folders. Anything else, anything unsafe and anything damaged raises a `CgptcError` that names the file and says
    what to do.
    """
    path = Path(path)
    if stat.S_ISDIR(file_mode(path, printable(str(path)))):
        weights = weight_file_of(path)
        if weights is None or _folder_kind(path) is not Kind.HF_FOLDER:
            raise refusal(Kind.FOLDER, printable(str(path)))
        return open_folder(path, weights)
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(InputFile(path))
        contents = read_weight_file(file)
        if contents.config is None and (config := config_beside(path)) is not None:
            note = f"{CONFIG_FILE} beside {printable(path.name)} says what the weights are"
            contents = dataclasses.replace(contents, config=config, notes=(*contents.notes, note))
        checkpoint = make_checkpoint(contents, [file])
        opened.pop_all()
        return checkpoint


def open_exported(path: Path) -> ExportedArchive:
    """The exported program in a ``.pt2``, checked and read without ``torch.export.load``."""
    path = Path(path)
    if stat.S_ISDIR(file_mode(path, printable(str(path)))):
        raise refusal(Kind.FOLDER, printable(str(path)))
    with contextlib.ExitStack() as opened:
        file = opened.enter_context(InputFile(path))
        kind, archive = kind_of(file)
        if kind is not Kind.EXPORTED or archive is None:
            raise _not_exported(kind, file.label)
        exported = read_pt2(archive)
        opened.pop_all()
        return exported


def _folder_kind(path: Path) -> Kind:
    is_model = os.path.lexists(path / CONFIG_FILE) and weight_file_of(path) is not None
    return Kind.HF_FOLDER if is_model else Kind.FOLDER


def _not_exported(kind: Kind, label: str) -> Exception:
    if kind in (Kind.SAFETENSORS, Kind.STATE_DICT, Kind.LEGACY_STATE_DICT):
        return CompileError("not-a-program", f"{kind.value}, not an exported program", file=label, fix="open its weights")
    return refusal(kind, label)

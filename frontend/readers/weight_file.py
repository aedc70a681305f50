"""Weights from one file, whatever its name, and the refusal of everything that is none."""

from __future__ import annotations

from cgptc.frontend.readers.checkpoint import Contents
from cgptc.frontend.readers.input_file import InputFile
from cgptc.frontend.readers.kinds import Kind, kind_of
from cgptc.frontend.readers.safetensors_file import read_safetensors
from cgptc.frontend.readers.torch_legacy import read_torch_legacy
from cgptc.frontend.readers.torch_zip import read_torch_zip
from cgptc.ir.diagnostics import CgptcError, CompileError, MalformedError, UnsafeError

_OWN_CLASS = "cgptc compile package.module:callable --weights model.pt"
_RE_SAVE = f"re-save with torch.save(model.state_dict(), 'model.pt'), then {_OWN_CLASS}"
_FIXES = {
    Kind.TORCH_SCRIPT: f"from the Python model, {_RE_SAVE}",
    Kind.PICKLE: f"where you trust it, {_RE_SAVE}",
    Kind.PICKLED_MODULE: f"where you trust it, {_RE_SAVE}",
    Kind.EXPORTED: "it holds its own program: compile it by itself",
    Kind.OLD_EXPORTED: "export it again with torch.export.save, torch 2.10 or newer",
    Kind.GGUF: "give the safetensors model that it was made from",
    Kind.TAR: "unpack it and give the model inside",
    Kind.ZIP: "unpack it and give the model inside",
    Kind.COMPRESSED: "unpack it and give the model inside",
    Kind.JSON: "give the folder that it is in, or the weights",
    Kind.EMPTY: "copy or download the file again",
    Kind.FOLDER: "give a folder with config.json and model.safetensors or pytorch_model.bin, or their shards and index",
}
_UNSAFE = {Kind.TORCH_SCRIPT, Kind.PICKLE, Kind.PICKLED_MODULE}
_ACCEPTED = "give safetensors, a PyTorch state dict, a .pt2 of torch.export.save, or a Hugging Face folder"


def read_weight_file(file: InputFile) -> Contents:
    """The tensors of a safetensors file or a state dict; what else a file may be is refused by `refusal`."""
    kind, archive = kind_of(file)
    if kind is Kind.SAFETENSORS:
        return read_safetensors(file)
    if kind is Kind.LEGACY_STATE_DICT:
        return read_torch_legacy(file)
    if kind is Kind.STATE_DICT and archive is not None:
        return read_torch_zip(archive)
    raise refusal(kind, file.label)


def refusal(kind: Kind, label: str) -> CgptcError:
    """Why a path of this kind is not read: says what it is and what to give instead."""
    fix = _FIXES.get(kind, _ACCEPTED)
    if kind in _UNSAFE:
        return UnsafeError("unsafe-file", f"{kind.value}: opening it could run code", file=label, fix=fix)
    if kind is Kind.EMPTY:
        return MalformedError("empty-file", kind.value, file=label, fix=fix)
    return CompileError("not-a-model", kind.value, file=label, fix=fix)

"""What lies beside a model and belongs to it: its tokenizer, and where its text ends."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cgptc.frontend.readers.input_file import InputFile
from cgptc.frontend.readers.plain_json import JsonObject, read_json_object
from cgptc.ir.diagnostics import MalformedError, UsageError
from cgptc.runtime.tokenizer import TOKENIZER_FILES, Tokenizer, can_read

GENERATION_CONFIG = "generation_config.json"
MAXIMUM_BYTES = 64 << 20
"""Size of the largest tokenizer file that is read; the largest in use are under 40 MB."""


def folder_of(model: Path) -> Path:
    """Where the companions of a model file or folder are."""
    return model if model.is_dir() else model.parent


def find_tokenizer(model: Path | None, given: Path | None) -> dict[str, bytes]:
    """The tokenizer's files by name: the given file or folder, else what is beside the model, else nothing.

    `UsageError` where the given place holds no tokenizer, `MalformedError` where the files are none.
    """
    place = given if given is not None else folder_of(model) if model is not None else None
    if place is None:
        return {}
    if given is not None and given.is_file():
        if given.name not in ("tokenizer.json", "vocab.json", "merges.txt"):
            fix = "give tokenizer.json, or the folder of vocab.json and merges.txt"
            raise UsageError("no-tokenizer", f"'{given.name}' is not the name of a tokenizer's file", file=str(given), fix=fix)
        place = given.parent
    present = [name for name in TOKENIZER_FILES if (place / name).is_file()]
    if not can_read(present):
        if given is None:
            return {}
        raise UsageError(
            "no-tokenizer", "there is no tokenizer.json, nor vocab.json and merges.txt", file=str(given), fix="give their folder"
        )
    files = {name: _read(place / name) for name in present}
    Tokenizer(files, str(place))
    return files


def stop_tokens(model: Path | None, config: Mapping[str, object] | None, vocabulary: int) -> tuple[int, ...]:
    """Ids that end a text: ``eos_token_id`` of ``generation_config.json`` beside the model, else of the model's own configuration.

    `MalformedError` where it is something else than ids that the model has.
    """
    source = folder_of(model) / GENERATION_CONFIG if model is not None else None
    if source is not None and source.is_file():
        found = _json(source)
        if found.get("eos_token_id") is not None:
            return _ids(found["eos_token_id"], vocabulary, str(source))
    value = config.get("eos_token_id") if config else None
    return () if value is None else _ids(value, vocabulary, str(model or ""))


def _ids(value: object, vocabulary: int, file: str) -> tuple[int, ...]:
    listed = value if isinstance(value, list) else [value]
    ids = [item for item in listed if isinstance(item, int) and not isinstance(item, bool) and 0 <= item < vocabulary]
    if len(ids) != len(listed):
        what = f"'eos_token_id' is {str(value)[:80]}, and the model has the tokens 0 to {vocabulary - 1}"
        raise MalformedError("eos", what, file=file, fix="correct it, or remove it")
    return tuple(sorted(set(ids)))


def _json(path: Path) -> JsonObject:
    with InputFile(path) as file:
        return read_json_object(file, path.name)


def _read(path: Path) -> bytes:
    with InputFile(path) as file:
        if file.size > MAXIMUM_BYTES:
            raise MalformedError("too-large", f"the tokenizer's file is {file.size} bytes, more than {MAXIMUM_BYTES}", file=str(path))
        return file.read(0, file.size)

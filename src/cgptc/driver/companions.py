"""What lies beside a model and goes into its artifact: tokenizer and generation files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cgptc.frontend.readers.input_file import InputFile
from cgptc.ir.diagnostics import MalformedError, UsageError
from cgptc.runtime.tokenizer import TOKENIZER_FILES, Tokenizer, can_read

ORIGINAL_NAMES = {"vocab.json": "encoder.json", "merges.txt": "vocab.bpe"}
"""What GPT-2's own release calls its two files."""

MAXIMUM_BYTES = 64 << 20
"""Size of the largest file that is read; the largest tokenizers in use are under 40 MB."""


def read_companions(found: Mapping[str, Path], given: Path | None) -> dict[str, bytes]:
    """Contents by name of what was found beside the model, with the tokenizer in ``given``, a file or folder, in place of its own.

    `UsageError` where the given place holds no tokenizer, `MalformedError` where a tokenizer's files are none.
    """
    paths = dict(found)
    if given is not None:
        paths = {name: path for name, path in paths.items() if name not in TOKENIZER_FILES} | _tokenizer_in(given)
    files = {name: _read(path) for name, path in paths.items()}
    if can_read(files):
        Tokenizer(files, str(given) if given is not None else str(next(iter(paths.values())).parent))
    return files


def _tokenizer_in(given: Path) -> dict[str, Path]:
    folder = given
    if given.is_file():
        if given.name not in ("tokenizer.json", *ORIGINAL_NAMES, *ORIGINAL_NAMES.values()):
            fix = "give tokenizer.json, or the folder of vocab.json and merges.txt"
            raise UsageError("no-tokenizer", f"'{given.name}' is not the name of a tokenizer's file", file=str(given), fix=fix)
        folder = given.parent
    found = {name: folder / name for name in TOKENIZER_FILES if (folder / name).is_file()}
    if not can_read(found):
        found |= {name: folder / original for name, original in ORIGINAL_NAMES.items() if (folder / original).is_file()}
    if not can_read(found):
        raise UsageError(
            "no-tokenizer", "there is no tokenizer.json, nor vocab.json and merges.txt", file=str(given), fix="give their folder"
        )
    return found


def _read(path: Path) -> bytes:
    with InputFile(path) as file:
        if file.size > MAXIMUM_BYTES:
            raise MalformedError("too-large", f"it is {file.size} bytes, more than {MAXIMUM_BYTES}", file=str(path), fix="check the file")
        return file.read(0, file.size)

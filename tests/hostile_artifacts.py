"""Artifacts of which a file is damaged, with digests that are right again, so that what lies behind the first check is tried."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.file_mutations import Edits, mutate
from tests.json_mutations import JsonEdits, mutate_json

from cgptc.artifact.canonical import canonical_json
from cgptc.artifact.manifest import sealed
from cgptc.ir.diagnostics import CgptcError


def copied(original: Path) -> Path:
    """A copy beside the original, to be damaged."""
    place = original.with_name("copy")
    shutil.copytree(original, place)
    return place


def damage(original: Path, copy: Path, files: Sequence[str], name: str, edits: Edits) -> None:
    """Make ``files`` of the copy those of the original, but for the one whose bytes are edited."""
    _restore(original, copy, files)
    (copy / name).write_bytes(mutate((original / name).read_bytes(), edits))


def damage_json(original: Path, copy: Path, files: Sequence[str], name: str, edits: JsonEdits) -> None:
    """Make ``files`` of the copy those of the original, but for the one that is edited and still JSON."""
    _restore(original, copy, files)
    (copy / name).write_bytes(mutate_json((original / name).read_bytes(), edits))


def _restore(original: Path, copy: Path, files: Sequence[str]) -> None:
    for file in files:
        shutil.copyfile(original / file, copy / file)


def with_right_digests(artifact: Path) -> None:
    """Make the manifest say what the files are."""
    manifest = json.loads((artifact / "manifest.json").read_text())
    for name in manifest["files"]:
        data = (artifact / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
    (artifact / "manifest.json").write_text(canonical_json(sealed(manifest)))


def assert_said_in_one_line(read: Callable[[], object]) -> None:
    """Reading works or raises an error of ours, whose line is fit for a terminal."""
    line = "read"
    try:
        read()
    except CgptcError as error:
        line = error.line()
    assert line.isprintable()


def without_each_file(original: Path, copy: Path, read: Callable[[Path], object]) -> int:
    """Read the artifact as often as it has files, each time without one of them, of which its manifest says nothing."""
    names = sorted(json.loads((original / "manifest.json").read_text())["files"])
    for name in names:
        shutil.copytree(original, copy, dirs_exist_ok=True)
        (copy / name).unlink()
        manifest = json.loads((copy / "manifest.json").read_text())
        del manifest["files"][name]
        (copy / "manifest.json").write_text(canonical_json(sealed(manifest)))
        assert_said_in_one_line(lambda: read(copy))
    shutil.copytree(original, copy, dirs_exist_ok=True)
    return len(names)

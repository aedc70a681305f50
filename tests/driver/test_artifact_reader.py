"""Reading an artifact: nothing is believed."""

from __future__ import annotations

import contextlib
import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cgptc.artifact import ArtifactWriter, Manifest, check_files, open_folder
from cgptc.artifact.canonical import canonical_json, parse_json
from cgptc.artifact.manifest import ManifestError, UnknownVersionError, sealed
from cgptc.ir.diagnostics import CgptcError, CompileError, FileError, MalformedError, UsageError


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    with ArtifactWriter(tmp_path / "out") as writer:
        (writer.folder / "graph.cgir").write_text("graph")
        (writer.folder / "model.onnx.data").write_bytes(bytes(range(256)))
        writer.commit(Manifest(target="onnx", files={}, options={"cache": "dynamic"}))
    return tmp_path / "out"


def edit(artifact: Path, **changes: Any) -> None:
    value = json.loads((artifact / "manifest.json").read_text())
    value.update(changes)
    (artifact / "manifest.json").write_text(json.dumps(sealed(value)))


def test_what_was_written_is_read(artifact: Path) -> None:
    folder = open_folder(artifact)
    check_files(folder)
    assert folder.manifest.options == {"cache": "dynamic"}
    assert folder.read("graph.cgir") == b"graph"
    assert folder.extra_files == []


@pytest.mark.parametrize("name", ["graph.cgir", "model.onnx.data"])
def test_a_flipped_bit_is_refused_and_names_the_file(artifact: Path, name: str) -> None:
    data = bytearray((artifact / name).read_bytes())
    data[len(data) // 2] ^= 1
    (artifact / name).write_bytes(data)
    with pytest.raises(MalformedError, match=name.replace(".", r"\.")):
        check_files(open_folder(artifact))
    with pytest.raises(MalformedError, match=name.replace(".", r"\.")):
        open_folder(artifact).read(name)


def test_a_missing_file_is_named(artifact: Path) -> None:
    (artifact / "graph.cgir").unlink()
    with pytest.raises(MalformedError, match=r"'graph\.cgir' is missing"):
        check_files(open_folder(artifact))


def test_a_link_in_place_of_a_file_is_refused(artifact: Path) -> None:
    moved = artifact.parent / "elsewhere"
    (artifact / "graph.cgir").rename(moved)
    (artifact / "graph.cgir").symlink_to(moved)
    with pytest.raises(MalformedError, match="symbolic link"):
        check_files(open_folder(artifact))


def test_a_pipe_in_place_of_a_file_is_refused_without_waiting(artifact: Path) -> None:
    (artifact / "graph.cgir").unlink()
    os.mkfifo(artifact / "graph.cgir")
    with pytest.raises(MalformedError, match="not a regular file"):
        check_files(open_folder(artifact))


def test_a_pipe_in_place_of_the_manifest_is_refused_without_waiting(artifact: Path) -> None:
    (artifact / "manifest.json").unlink()
    os.mkfifo(artifact / "manifest.json")
    with pytest.raises(MalformedError, match="not a regular file"):
        open_folder(artifact)


def test_a_link_in_place_of_the_manifest_is_refused(artifact: Path) -> None:
    (artifact / "manifest.json").rename(artifact.parent / "elsewhere")
    (artifact / "manifest.json").symlink_to(artifact.parent / "elsewhere")
    with pytest.raises(MalformedError, match="symbolic link"):
        open_folder(artifact)


def test_extra_files_are_listed_and_not_readable_by_name(artifact: Path) -> None:
    (artifact / "extra.bin").write_text("x")
    folder = open_folder(artifact)
    assert folder.extra_files == ["extra.bin"]
    with pytest.raises(MalformedError, match="does not list"):
        folder.read("extra.bin")


def test_an_unknown_major_version_is_refused_naming_both(artifact: Path) -> None:
    edit(artifact, format_version="2.0")
    with pytest.raises(CompileError, match=r"2\.0.*1\.0"):
        open_folder(artifact)


def test_a_later_minor_version_is_read(artifact: Path) -> None:
    edit(artifact, format_version="1.99", later={"more": True})
    assert open_folder(artifact).manifest.format_version == "1.99"


@pytest.mark.parametrize(
    "name", ["../x", "/etc/passwd", "a//b", "a/../b", "", ".", "a\\..\\b", "manifest.json", "a\0b", "x" * 300, ".hidden"]
)
def test_a_hostile_file_name_is_refused(artifact: Path, name: str) -> None:
    edit(artifact, files={name: {"sha256": "0" * 64, "size": 1}})
    with pytest.raises(MalformedError, match=r"manifest\.json"):
        open_folder(artifact)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[" * 100_000,
        '{"format":' * 50_000,
        "nul",
        '{"a": NaN}',
        '{"format": "cgptc-artifact", "format": 1}',
        "\ufeff{}",
        "1" * 5000,
    ],
    ids=lambda text: text[:12],
)
def test_a_manifest_that_is_not_json_is_an_error_of_ours(artifact: Path, text: str) -> None:
    (artifact / "manifest.json").write_text(text)
    with pytest.raises(CgptcError, match=r"manifest\.json"):
        open_folder(artifact)


def test_nothing_there_and_not_an_artifact_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such artifact"):
        open_folder(tmp_path / "none")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="not an artifact"):
        open_folder(tmp_path / "file")
    with pytest.raises(UsageError, match=r"manifest\.json"):
        open_folder(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=settings().max_examples // 2)  # each takes tens of milliseconds
@given(json_values)
def test_canonical_json_reads_back_and_prints_the_same(value: Any) -> None:
    text = canonical_json(value)
    assert canonical_json(parse_json(text.encode())) == text


def test_canonical_json_refuses_what_json_cannot_hold() -> None:
    with pytest.raises(TypeError, match="not a string"):
        canonical_json({"a": [{1: "x"}]})
    with pytest.raises(ValueError):
        canonical_json(float("nan"))


VALID = Manifest(target="onnx", files={}, options={"cache": "dynamic"}, versions={"cgptc": "0.1.0"}).to_json()


@given(st.data())
def test_a_mutated_manifest_is_read_or_refused_as_a_manifest_error(data: st.DataObject) -> None:
    value = json.loads(VALID)
    key = data.draw(st.sampled_from(sorted(value)))
    value[key] = data.draw(json_values)
    with contextlib.suppress(ManifestError):
        Manifest.from_json(json.dumps(sealed(value)).encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_manifest_error(data: bytes) -> None:
    with pytest.raises(ManifestError):
        Manifest.from_json(data)


def test_every_major_version_but_ours_is_unknown() -> None:
    for major in ("0", "2", "10"):
        with pytest.raises(UnknownVersionError, match=rf"{major}\.3.*1\.0"):
            Manifest.from_json(VALID.replace('"1.0"', f'"{major}.3"').encode())

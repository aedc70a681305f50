"""Zip archives that mean different things to different readers are refused."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.frontend.readers.model_files import members_of, state_dict_zip, tensor_pickle, zip_of

from cgptc.frontend.readers import open_checkpoint
from cgptc.ir.diagnostics import CompileError, MalformedError


def good() -> bytes:
    return state_dict_zip(tensor_pickle(), {"0": bytes(24)})


def end_record(data: bytes) -> int:
    return data.rindex(b"PK\5\6")


def with_bytes(data: bytes, offset: int, replacement: bytes) -> bytes:
    return data[:offset] + replacement + data[offset + len(replacement) :]


def with_end_field(data: bytes, field_offset: int, form: str, change: Callable[[int], int]) -> bytes:
    offset = end_record(data) + field_offset
    (value,) = struct.unpack_from(form, data, offset)
    return with_bytes(data, offset, struct.pack(form, change(value)))


def renamed(old: str, new: str) -> bytes:
    assert len(old) == len(new)
    return good().replace(old.encode(), new.encode())


def with_local_byte(offset: int, value: int) -> bytes:
    """The archive with a byte of its first local header changed."""
    return with_bytes(good(), offset, bytes([value]))


def overlapping() -> bytes:
    """Two directory entries for the same bytes."""
    data = good()
    entry = data.index(b"PK\1\2")
    second = data.index(b"PK\1\2", entry + 4)
    (offset,) = struct.unpack_from("<I", data, entry + 42)
    return with_bytes(data, second + 42, struct.pack("<I", offset))


TRICKS: dict[str, tuple[str, Callable[[], bytes]]] = {
    "bytes before": ("directory is not where", lambda: b"PK\3\4" + good()),
    "bytes after": ("does not end with its end record", lambda: good() + b"x"),
    "a comment": ("does not end with its end record", lambda: with_end_field(good() + b"x", 20, "<H", lambda size: 1)[:-1] + b"x"),
    "an archive after an archive": ("directory is not where", lambda: good() + good()),
    "cut short": ("does not end with its end record", lambda: good()[:-1]),
    "half": ("does not end with its end record", lambda: good()[: len(good()) // 2]),
    "no end record": ("does not end with its end record", lambda: good()[: end_record(good())]),
    "one entry too few": (
        "holds more than its members",
        lambda: with_end_field(with_end_field(good(), 8, "<H", lambda n: n - 1), 10, "<H", lambda n: n - 1),
    ),
    "one entry too many": (
        "directory is cut short",
        lambda: with_end_field(with_end_field(good(), 8, "<H", lambda n: n + 1), 10, "<H", lambda n: n + 1),
    ),
    "a million entries": (
        "65534 members in 238 bytes",
        lambda: with_end_field(with_end_field(good(), 8, "<H", lambda n: 65534), 10, "<H", lambda n: 65534),
    ),
    "two counts": ("several parts", lambda: with_end_field(good(), 8, "<H", lambda n: n + 1)),
    "directory moved": ("directory is not where", lambda: with_end_field(good(), 16, "<I", lambda n: n - 1)),
    "directory beyond the file": ("directory is not where", lambda: with_end_field(good(), 16, "<I", lambda n: 0xFFFFFFF0)),
    "directory grown": ("directory is not where", lambda: with_end_field(good(), 12, "<I", lambda n: n + 1)),
    "several disks": ("several parts", lambda: with_end_field(good(), 4, "<H", lambda n: 1)),
    "sizes in a zip64 record that is not there": ("directory is not where", lambda: with_end_field(good(), 16, "<I", lambda n: 0xFFFFFFFF)),
    "local name differs": ("local header of 'model/data.pkl' differs", lambda: good().replace(b"data.pkl", b"date.pkl", 1)),
    "local method differs": ("local header of 'model/data.pkl' differs", lambda: with_local_byte(8, 8)),
    "local size differs": ("local header of 'model/data.pkl' differs", lambda: with_local_byte(22, 1)),
    "local checksum differs": ("local header of 'model/data.pkl' differs", lambda: with_local_byte(14, good()[14] ^ 1)),
    "local flags differ": ("local header of 'model/data.pkl' differs", lambda: with_local_byte(7, 8)),
    "local signature differs": (
        "local header of 'model/byteorder' differs",
        lambda: with_bytes(good(), good().index(b"PK\3\4", 4), b"PK\3\5"),
    ),
    "encrypted": (
        "is encrypted",
        lambda: good().replace(b"PK\3\4\x14\0\0\0", b"PK\3\4\x14\0\1\0").replace(b"\x14\x03\x14\0\0\0", b"\x14\x03\x14\0\1\0"),
    ),
    "overlapping members": ("overlaps another", overlapping),
    "compressed": ("is compressed", lambda: zip_of({"m/data.pkl": tensor_pickle(), "m/data/0": bytes(24)}, compressed=True)),
    "a bomb": ("is compressed", lambda: zip_of({"m/data.pkl": tensor_pickle(), "m/data/0": bytes(1 << 24)}, compressed=True)),
    "parent folder": ("no plain path", lambda: renamed("model/data/0", "../el/data/0")),
    "parent folder inside": ("no plain path", lambda: renamed("model/data/0", "model/../a/0")),
    "absolute": ("no plain path", lambda: renamed("model/data/0", "/odel/data/0")),
    "backslash": ("no plain path", lambda: renamed("model/data/0", "model\\data/0")),
    "drive": ("no plain path", lambda: renamed("model/data/0", "c:/el/data/0")),
    "dot": ("no plain path", lambda: renamed("model/data/0", "model/data/.")),
    "empty part": ("no plain path", lambda: renamed("model/data/0", "model//ata/0")),
    "a folder": ("no plain path", lambda: renamed("model/data/0", "model/data//")),
    "NUL": ("no plain path", lambda: renamed("model/data/0", "model/data/\0")),
    "not text": ("name is not text", lambda: good().replace(b"model/data/0", b"model/data/\xff")),
    "an unknown member": ("which no state dict has", lambda: renamed("model/version", "model/vermont")),
    "the storage is missing": ("storage '0' needs 24 bytes, but is not there", lambda: renamed("model/data/0", "model/data/1")),
    "two roots": ("no PyTorch file", lambda: renamed("model/data/0", "other/data/0")),
    "an empty pickle": ("cut short", lambda: zip_of({"m/data.pkl": b"", "m/version": b"3"})),
}


@pytest.mark.parametrize("trick", TRICKS)
def test_a_zip_with_two_readings_or_hidden_bytes_is_refused(tmp_path: Path, trick: str) -> None:
    (tmp_path / "good.pt").write_bytes(good())
    with open_checkpoint(tmp_path / "good.pt") as checkpoint:
        checkpoint.verify()
    reason, make = TRICKS[trick]
    data = make()
    assert data != good()
    (tmp_path / "bad.pt").write_bytes(data)
    with pytest.raises((MalformedError, CompileError), match=reason):
        open_checkpoint(tmp_path / "bad.pt")


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pt")
    members = members_of(tmp_path / "model.pt")
    with zipfile.ZipFile(tmp_path / "twice.pt", "w") as archive:
        for name, data in [*members.items(), ("model/data/0", bytes(8))]:
            archive.writestr(name, data)
    with pytest.raises(MalformedError, match="twice"):
        open_checkpoint(tmp_path / "twice.pt")


def test_bytes_before_the_first_member_are_refused(tmp_path: Path) -> None:
    (tmp_path / "late.pt").write_bytes(b"PK\3\4 anything")
    with zipfile.ZipFile(tmp_path / "late.pt", "a") as archive:
        archive.writestr("m/data.pkl", tensor_pickle())
        archive.writestr("m/data/0", bytes(24))
    with pytest.raises(MalformedError, match="before the first member"):
        open_checkpoint(tmp_path / "late.pt")


def test_bytes_between_members_are_refused(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "gap.pt", "w") as archive:
        archive.writestr("m/data.pkl", tensor_pickle())
        assert archive.fp is not None
        archive.fp.write(b"hidden")
        archive.start_dir = archive.fp.tell()
        archive.writestr("m/data/0", bytes(24))
    with pytest.raises(MalformedError, match="stray bytes"):
        open_checkpoint(tmp_path / "gap.pt")


def test_big_endian_files_are_refused(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pt")
    members = members_of(tmp_path / "model.pt")
    (tmp_path / "big.pt").write_bytes(zip_of(members | {"model/byteorder": b"big"}))
    with pytest.raises(CompileError, match="little-endian"):
        open_checkpoint(tmp_path / "big.pt")


def test_an_archive_written_by_another_tool_is_read(tmp_path: Path) -> None:
    torch.save({"w": torch.arange(3.0)}, tmp_path / "model.pt")
    (tmp_path / "again.pt").write_bytes(zip_of(members_of(tmp_path / "model.pt")))
    with open_checkpoint(tmp_path / "again.pt") as checkpoint:
        assert checkpoint.tensors["w"].read(checkpoint.store).tolist() == [0, 1, 2]

"""Zip archives, read strictly.

PyTorch writes one kind of zip: members stored one after another from the first byte on, then the directory, then the
end records. Anything that gives two readers two views of one file is refused: bytes before, between or after the
members, local headers that differ from the directory, names twice, overlaps. Format: PKWARE's APPNOTE 6.3, sections 4.3
and 4.5.3.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from cgptc.frontend.readers.input_file import Blob, InputFile
from cgptc.frontend.readers.limits import HEADER_BYTES, TENSOR_COUNT
from cgptc.frontend.readers.quoting import quoted
from cgptc.ir.diagnostics import MalformedError

LOCAL_SIGNATURE = b"PK\x03\x04"
EMPTY_SIGNATURE = b"PK\x05\x06"

_END = struct.Struct("<4s4H2IH")
_END64_LOCATOR = struct.Struct("<4sIQI")
_END64 = struct.Struct("<4sQ2H2I4Q")
_ENTRY = struct.Struct("<4s6H3I5H2I")
_LOCAL = struct.Struct("<4s5H3I2H")
_FULL16, _FULL32 = 0xFFFF, 0xFFFFFFFF
_FLAG_DESCRIPTOR, _FLAG_UTF8 = 1 << 3, 1 << 11
_STORED = 0


@dataclass(frozen=True)
class Member:
    """A file of the archive, as the directory describes it. ``header`` is the offset of its local header."""

    name: str
    raw_name: bytes
    flags: int
    method: int
    crc: int
    packed_size: int
    size: int
    header: int


class ZipArchive:
    """The directory of a zip archive, read when made; `MalformedError` where it is inconsistent.

    Making one reads the directory alone. `blobs` checks the members themselves.
    """

    def __init__(self, file: InputFile) -> None:
        self.file = file
        self._directory_start, directory_size, count = self._end_records()
        self.members = self._directory(directory_size, count)

    def _malformed(self, what: str) -> MalformedError:
        return MalformedError("malformed-zip", what, file=self.file.label, fix="the archive is damaged or altered: write it again")

    def _end_records(self) -> tuple[int, int, int]:
        """Start, size and entry count of the directory."""
        file, end = self.file, self.file.size - _END.size
        if end < 0:
            raise self._malformed("the archive is cut short")
        fields = _END.unpack(file.read(end, _END.size))
        signature, disk, first_disk, disk_count, count, size, start, comment = fields
        if signature != EMPTY_SIGNATURE or comment:
            raise self._malformed("the archive does not end with its end record, or has a comment")
        locator = end - _END64_LOCATOR.size
        if locator >= 0 and file.read(locator, 4) == b"PK\x06\x07":
            _, disk64, end64, disk_total = _END64_LOCATOR.unpack(file.read(locator, _END64_LOCATOR.size))
            if disk64 or disk_total != 1 or end64 != locator - _END64.size or end64 < 0:
                raise self._malformed("the zip64 end record is not where it should be")
            fields64 = _END64.unpack(file.read(end64, _END64.size))
            signature64, record_size, _, _, disk, first_disk, disk_count64, count64, size64, start64 = fields64
            if signature64 != b"PK\x06\x06" or record_size != _END64.size - 12 or disk_count64 != count64:
                raise self._malformed("the zip64 end record is inconsistent")
            for short, full, value in (
                (count, _FULL16, count64),
                (disk_count, _FULL16, count64),
                (size, _FULL32, size64),
                (start, _FULL32, start64),
            ):
                if short not in (full, value):
                    raise self._malformed("the two end records differ")
            disk_count, count, size, start, end = count64, count64, size64, start64, end64
        if disk or first_disk or disk_count != count:
            raise self._malformed("the archive is in several parts")
        if start + size != end:
            raise self._malformed("the directory is not where the end record says")
        if size > HEADER_BYTES or count > 2 * TENSOR_COUNT or count * _ENTRY.size > size:
            raise self._malformed(f"the directory says {count} members in {size} bytes")
        return start, size, count

    def _directory(self, size: int, count: int) -> dict[str, Member]:
        data = self.file.read(self._directory_start, size)
        members: dict[str, Member] = {}
        position = 0
        for _ in range(count):
            if position + _ENTRY.size > size:
                raise self._malformed("the directory is cut short")
            fields = _ENTRY.unpack_from(data, position)
            signature, _, _, flags, method, _, _, crc, packed, full, name_size, extra_size, comment_size = fields[:13]
            disk, header = fields[13], fields[16]
            end = position + _ENTRY.size + name_size + extra_size + comment_size
            if signature != b"PK\x01\x02" or end > size or disk or comment_size:
                raise self._malformed("the directory is damaged")
            name_end = position + _ENTRY.size + name_size
            raw_name = data[position + _ENTRY.size : name_end]
            name = self._name(raw_name, flags)
            full, packed, header = self._wide_sizes(data[name_end : name_end + extra_size], full, packed, header, name)
            if name in members:
                raise self._malformed(f"the member {quoted(name)} occurs twice")
            if flags & ~(_FLAG_DESCRIPTOR | _FLAG_UTF8):
                raise self._malformed(f"the member {quoted(name)} is encrypted or of an unknown kind")
            members[name] = Member(name, raw_name, flags, method, crc, packed, full, header)
            position = end
        if position != size:
            raise self._malformed("the directory holds more than its members")
        return members

    def _name(self, raw: bytes, flags: int) -> str:
        try:
            name = raw.decode("utf-8" if flags & _FLAG_UTF8 else "ascii")
        except UnicodeDecodeError:
            raise self._malformed("a member's name is not text") from None
        parts = name.split("/")
        if "\\" in name or "\0" in name or ":" in parts[0] or any(part in ("", ".", "..") for part in parts):
            raise self._malformed(f"the member name {quoted(name)} is no plain path within the archive")
        return name

    def _wide_sizes(self, extra: bytes, full: int, packed: int, header: int, name: str) -> tuple[int, int, int]:
        """Sizes and offset with those that do not fit 32 bits taken from the zip64 field."""
        wide = b""
        position = 0
        while position + 4 <= len(extra):
            tag, size = struct.unpack_from("<2H", extra, position)
            if tag == 1:
                wide = extra[position + 4 : position + 4 + size]
            position += 4 + size
        values = []
        for value in (full, packed, header):
            if value == _FULL32:
                if len(wide) < 8:
                    raise self._malformed(f"the member {quoted(name)} lacks its zip64 sizes")
                value = int.from_bytes(wide[:8], "little")
                wide = wide[8:]
            values.append(value)
        return values[0], values[1], values[2]

    def blobs(self) -> dict[str, Blob]:
        """The content of every member, by name, once all are known to be stored, whole, and side by side."""
        order = sorted(self.members.values(), key=lambda member: member.header)
        ends = [member.header for member in order[1:]] + [self._directory_start]
        if (order[0].header if order else self._directory_start) != 0:
            raise self._malformed("there are bytes before the first member")
        blobs = {member.name: self._blob(member, end) for member, end in zip(order, ends, strict=True)}
        return {name: blobs[name] for name in self.members}

    def _blob(self, member: Member, end: int) -> Blob:
        """The member's content; its local header, bytes and descriptor fill the archive up to ``end`` exactly."""
        name = quoted(member.name)
        if member.method != _STORED or member.packed_size != member.size:
            raise self._malformed(f"the member {name} is compressed")
        if member.header + _LOCAL.size + len(member.raw_name) + member.size > end:
            raise self._malformed(f"the member {name} overlaps another, or is cut short")
        local = self.file.read(member.header, _LOCAL.size + len(member.raw_name))
        signature, _, flags, method, _, _, crc, packed, full, name_size, extra_size = _LOCAL.unpack_from(local)
        if (
            signature != LOCAL_SIGNATURE
            or (flags, method, name_size) != (member.flags, member.method, len(member.raw_name))
            or local[_LOCAL.size :] != member.raw_name
        ):
            raise self._malformed(f"the local header of {name} differs from the directory")
        described = bool(flags & _FLAG_DESCRIPTOR)
        unsaid = {0} if described else set()
        sizes = unsaid | {member.size, _FULL32}
        if crc not in unsaid | {member.crc} or packed not in sizes or full not in sizes:
            raise self._malformed(f"the local header of {name} differs from the directory")
        start = member.header + len(local) + extra_size
        gap = end - start - member.size
        if gap < 0:
            raise self._malformed(f"the member {name} overlaps another, or is cut short")
        if not self._is_descriptor(member, start + member.size, gap, described):
            raise self._malformed(f"there are stray bytes after the member {name}")
        return Blob(self.file, member.name, start, member.size, member.crc)

    def _is_descriptor(self, member: Member, start: int, size: int, described: bool) -> bool:
        if size == 0:
            return True
        if not described or size > 24:
            return False
        found = self.file.read(start, size)
        if found[:4] == b"PK\x07\x08" and size in (16, 24):
            found = found[4:]
        expected = struct.pack("<3I", member.crc, member.size & _FULL32, member.size & _FULL32)
        return found in (expected, struct.pack("<I2Q", member.crc, member.size, member.size))


def common_root(names: list[str]) -> str:
    """The folder that all members are in, with its slash; "" where they share none."""
    roots = {name.partition("/")[0] for name in names if "/" in name}
    return roots.pop() + "/" if len(roots) == 1 and all("/" in name for name in names) else ""

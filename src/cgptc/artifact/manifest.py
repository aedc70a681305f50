"""What an artifact says about itself."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from cgptc.artifact.canonical import Json, canonical_json, parse_json

MANIFEST = "manifest.json"
FORMAT = "cgptc-artifact"
FORMAT_VERSION = "1.0"
"""Major and minor. A reader takes every minor of its own major and refuses other majors."""

SEAL = "seal"
"""The key under which a manifest has the digest of everything else in it."""

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]{0,199}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAXIMUM_FILES = 100_000


class ManifestError(ValueError):
    """The manifest is malformed. The message completes the sentence "manifest.json …"."""


class NotAnArtifactError(ManifestError):
    """The file is JSON, but not the manifest of an artifact."""


class UnknownVersionError(ManifestError):
    """The manifest is of a major version that this reader does not know."""


@dataclass(frozen=True)
class FileEntry:
    """Digest and size in bytes of one file."""

    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """Everything that ``manifest.json`` holds: no path of the host, no user, no time.

    ``files`` are relative names with ``/``. ``input`` says what was compiled and its digest, ``interface`` the graph's inputs and
    outputs, ``generation`` what text generation needs, ``backend`` what the target's loader needs.
    """

    target: str
    files: Mapping[str, FileEntry]
    pipeline: str = ""
    options: Mapping[str, Json] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    input: Mapping[str, Json] = field(default_factory=dict)
    interface: Mapping[str, Json] = field(default_factory=dict)
    generation: Mapping[str, Json] = field(default_factory=dict)
    backend: Mapping[str, Json] = field(default_factory=dict)
    format_version: str = FORMAT_VERSION

    def to_json(self) -> str:
        """The file's content."""
        return canonical_json(
            sealed(
                {
                    "format": FORMAT,
                    "format_version": self.format_version,
                    "target": self.target,
                    "pipeline": self.pipeline,
                    "options": dict(self.options),
                    "versions": dict(self.versions),
                    "input": dict(self.input),
                    "interface": dict(self.interface),
                    "generation": dict(self.generation),
                    "backend": dict(self.backend),
                    "files": {name: {"sha256": entry.sha256, "size": entry.size} for name, entry in self.files.items()},
                }
            )
        )

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read and check; `ManifestError` says what is wrong. Keys that a later minor version adds are ignored."""
        try:
            value = parse_json(data)
        except ValueError as error:
            raise ManifestError(str(error)) from None
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise NotAnArtifactError(f'does not say "format": "{FORMAT}"')
        version = value.get("format_version")
        if not isinstance(version, str) or not re.fullmatch(r"\d{1,6}\.\d{1,6}", version):
            raise ManifestError("has no 'format_version' such as \"1.0\"")
        if version.split(".")[0] != FORMAT_VERSION.split(".")[0]:
            raise UnknownVersionError(f"is of format version {version}, and this cgptc reads version {FORMAT_VERSION}")
        if value.get(SEAL) != _seal(value):
            raise ManifestError(f"does not match its own '{SEAL}': it was changed or damaged")
        return cls(
            target=_text(value, "target"),
            pipeline=_text(value, "pipeline"),
            options=_object(value, "options"),
            versions=_versions(value),
            input=_object(value, "input"),
            interface=_object(value, "interface"),
            generation=_object(value, "generation"),
            backend=_object(value, "backend"),
            files=_files(value),
            format_version=version,
        )


def sealed(value: Mapping[str, Json]) -> dict[str, Json]:
    """A manifest's JSON with its seal, by which a flipped byte in any of its texts and numbers shows."""
    return {**value, SEAL: _seal(value)}


def _seal(value: Mapping[str, Json]) -> str:
    """The sha256 of the canonical spelling of everything else."""
    try:
        text = canonical_json({key: item for key, item in value.items() if key != SEAL})
    except RecursionError:
        raise ManifestError("is nested too deeply") from None
    except ValueError:  # an infinity: JSON spells it as a number that is too large
        raise ManifestError("holds a number that is too large") from None
    return hashlib.sha256(text.encode()).hexdigest()


def require_file_name(name: str) -> None:
    """ValueError unless ``name`` is a plain relative path that an artifact may hold."""
    parts = name.split("/")
    if not parts or len(parts) > 8 or not all(_NAME.fullmatch(part) for part in parts) or str(PurePosixPath(name)) != name:
        raise ValueError(f"names the file {name[:80]!r}, which is not a plain relative name")
    if name == MANIFEST:
        raise ValueError(f"lists '{MANIFEST}' itself")


def _text(value: Mapping[str, Json], key: str) -> str:
    text = value.get(key)
    if not isinstance(text, str):
        raise ManifestError(f"has no text under '{key}'")
    return text


def _object(value: Mapping[str, Json], key: str) -> dict[str, Json]:
    found = value.get(key)
    if not isinstance(found, dict):
        raise ManifestError(f"has no object under '{key}'")
    return found


def _versions(value: Mapping[str, Json]) -> dict[str, str]:
    versions: dict[str, str] = {}
    for name, version in _object(value, "versions").items():
        if not isinstance(version, str):
            raise ManifestError(f"gives no text as the version of '{name[:80]}'")
        versions[name] = version
    return versions


def _files(value: Mapping[str, Json]) -> dict[str, FileEntry]:
    listed = _object(value, "files")
    if len(listed) > _MAXIMUM_FILES:
        raise ManifestError(f"lists {len(listed)} files, more than {_MAXIMUM_FILES}")
    files: dict[str, FileEntry] = {}
    for name, entry in listed.items():
        try:
            require_file_name(name)
        except ValueError as error:
            raise ManifestError(str(error)) from None
        digest = entry.get("sha256") if isinstance(entry, dict) else None
        size = entry.get("size") if isinstance(entry, dict) else None
        if not isinstance(digest, str) or not _SHA256.fullmatch(digest):
            raise ManifestError(f"gives no sha256 for '{name}'")
        if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 63:
            raise ManifestError(f"gives no size for '{name}'")
        files[name] = FileEntry(digest, size)
    return files

"""``.pt2`` archives of ``torch.export.save``: the program as JSON, the weights as raw bytes.

``torch.export.load`` unpickles what such an archive asks it to; nothing here does. Members:
``<root>/models/<name>.json`` and the raw ``data/weights/weight_N`` and ``data/constants/tensor_N`` that
``<name>_weights_config.json`` and ``<name>_constants_config.json`` describe. Sample inputs (a pickle) are never read.
Anything that only a pickle or native code could give is refused. Schema: ``torch/_export/serde/schema.py``, major
version 8.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

from cgptc.frontend.readers.ahead import Ahead
from cgptc.frontend.readers.checkpoint import files_digest
from cgptc.frontend.readers.element_types import BY_SCALAR_TYPE
from cgptc.frontend.readers.input_file import Blob, InputFile
from cgptc.frontend.readers.limits import HEADER_BYTES, TENSOR_COUNT
from cgptc.frontend.readers.plain_json import JsonObject, JsonValue, parse_json_object
from cgptc.frontend.readers.quoting import listed, quoted
from cgptc.frontend.readers.tensor_store import Extent, TensorStore, strided_extent, tensor_table
from cgptc.frontend.readers.zip_archive import ZipArchive, common_root
from cgptc.ir.diagnostics import CompileError, MalformedError, UnsafeError
from cgptc.ir.weights import Stored

SCHEMA_MAJOR = 8
_STRIDED = 7
_WEIGHTS, _CONSTANTS = "data/weights/", "data/constants/"
_INERT = re.compile(
    r"archive_format|archive_version|byteorder|version|\.format_version|\.storage_alignment|\.data/serialization_id|\.data/version|extra/.+"
)
_EXECUTABLE = re.compile(
    r"data/weights/[^/]*\.pt|data/constants/(custom_obj_|opaque_obj_)[^/]*|data/constants/[^/]*\.pt|data/aotinductor/.*|executorch/.*|mtia/.*"
)


@dataclass(frozen=True, eq=False)
class ExportedArchive:
    """A checked ``.pt2``: ``program`` is the content of ``models/<name>.json`` as plain data, the weights are
    references.

    ``weights`` are the entries of the program's state dict and ``constants`` its lifted tensors and non-persistent
    buffers, both by the names that the program's signature uses and into one ``store``; ``parameters`` are the weights
    that are parameters, not buffers. Tied names share a reference, see ``aliases``. The file stays open until `close`.
    Checksums are verified as `Checkpoint` does it.
    """

    name: str
    program: JsonObject
    weights: dict[str, Stored]
    constants: dict[str, Stored]
    parameters: frozenset[str]
    aliases: dict[str, str]
    store: TensorStore
    file: InputFile
    blobs: tuple[Blob, ...]
    hashing: Ahead[str] | None = None

    def __enter__(self) -> ExportedArchive:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; reading weights afterwards is an error."""
        self.store.release()
        self.file.close()

    def verify(self) -> None:
        """Verify the checksum of every member; `MalformedError` names the first that differs."""
        for blob in self.blobs:
            self.store.verify(blob)

    def digest(self) -> str:
        """The file's sha256, after `verify`."""
        if self.hashing is not None:
            return self.hashing.result()
        self.verify()
        return files_digest((self.file,))

    def hashed_ahead(self) -> ExportedArchive:
        """The same, with the digest begun in a thread of its own, for whoever will ask for it after other work."""
        return replace(self, hashing=Ahead(self.digest))


def read_pt2(archive: ZipArchive) -> ExportedArchive:
    """The exported program in a zip that has ``<root>/archive_format``."""
    file = archive.file
    members = _Members(archive)
    name = members.model_name()
    members.require_closed(name)
    for text, expected in (("archive_format", b"pt2"), ("byteorder", b"little")):
        if members.small(text).strip() != expected:
            raise _malformed(f"{quoted(text)} does not say {expected.decode()}", file)
    program = members.json(f"models/{name}.json")
    _require_schema(program, file)
    weights = members.payload(_WEIGHTS, f"{name}_weights_config.json", "weight_")
    constants = members.payload(_CONSTANTS, f"{name}_constants_config.json", "tensor_")
    twice = weights.extents.keys() & constants.extents.keys()
    if twice:
        raise _malformed(f"{listed(sorted(twice))} is both a weight and a constant", file)
    table = tensor_table(weights.extents | constants.extents)
    return ExportedArchive(
        name,
        program,
        {key: table.tensors[key] for key in weights.extents},
        {key: table.tensors[key] for key in constants.extents},
        weights.parameters,
        table.aliases,
        table.store,
        file,
        tuple(members.blobs.values()),
    )


@dataclass(frozen=True)
class _Payload:
    extents: dict[str, Extent]
    parameters: frozenset[str]


class _Members:
    """The archive's members by their names below the root."""

    def __init__(self, archive: ZipArchive) -> None:
        file = self.file = archive.file
        root = common_root(list(archive.members))
        unsafe = [name for name in archive.members if _EXECUTABLE.fullmatch(name.removeprefix(root))]
        if unsafe:
            raise UnsafeError(
                "executable-member",
                f"the archive holds pickles or code: {listed(unsafe)}",
                file=file.label,
                fix="export the program again with torch.export.save, torch 2.10 or newer, without custom objects",
            )
        self.blobs = {name.removeprefix(root): blob for name, blob in archive.blobs().items()}

    def model_name(self) -> str:
        names = [name for name in self.blobs if re.fullmatch(r"models/[^/]+\.json", name)]
        if len(names) != 1:
            raise CompileError(
                "not-one-program",
                f"the archive holds {len(names)} programs, not one",
                file=self.file.label,
                fix="save each with torch.export.save of its own",
            )
        return names[0].removeprefix("models/").removesuffix(".json")

    def require_closed(self, name: str) -> None:
        """Every member is one that `torch.export.save` writes for one program."""
        own = {
            f"models/{name}.json",
            f"{_WEIGHTS}{name}_weights_config.json",
            f"{_CONSTANTS}{name}_constants_config.json",
            f"data/sample_inputs/{name}.pt",
        }
        numbered = re.compile(r"data/(weights/weight|constants/tensor)_[0-9]+")
        for member in self.blobs:
            if not (member in own or numbered.fullmatch(member) or _INERT.fullmatch(member)):
                raise MalformedError(
                    "unexpected-member",
                    f"the archive holds {quoted(member)}, which torch.export.save does not write",
                    file=self.file.label,
                    fix="export the program again",
                )

    def small(self, member: str) -> bytes:
        blob = self.blobs.get(member)
        if blob is None:
            raise _malformed(f"the archive lacks {quoted(member)}", self.file)
        if blob.size > HEADER_BYTES:
            raise _malformed(f"{quoted(member)} has {blob.size} bytes, more than {HEADER_BYTES}", self.file)
        return blob.read()

    def json(self, member: str) -> JsonObject:
        return parse_json_object(self.small(member), self.file.label, quoted(member))

    def payload(self, folder: str, config: str, prefix: str) -> _Payload:
        """The tensors that a ``*_config.json`` describes, by name."""
        entries = self.json(folder + config).get("config")
        if not isinstance(entries, dict):
            raise _malformed(f"{quoted(config)} has no list of tensors", self.file)
        if len(entries) > TENSOR_COUNT:
            raise _malformed(f"{quoted(config)} names more than {TENSOR_COUNT} tensors", self.file)
        extents: dict[str, Extent] = {}
        parameters = []
        for name, entry in entries.items():
            if not isinstance(entry, dict) or not isinstance(entry.get("path_name"), str):
                raise _malformed(f"the entry of {quoted(name)} is no tensor", self.file)
            path = str(entry["path_name"])
            if entry.get("use_pickle") is not False:
                raise UnsafeError(
                    "pickled-weight",
                    f"{quoted(name)} is stored as a pickle: opening it could run code",
                    file=self.file.label,
                    fix="export the program again with plain tensors as weights",
                )
            blob = self.blobs.get(folder + path) if re.fullmatch(rf"{prefix}[0-9]+", path) else None
            if blob is None:
                raise _malformed(f"the bytes of {quoted(name)} are not in the archive", self.file)
            extents[name] = self._extent(name, entry.get("tensor_meta"), blob)
            if entry.get("is_param") is True:
                parameters.append(name)
        return _Payload(extents, frozenset(parameters))

    def _extent(self, name: str, meta: JsonValue, blob: Blob) -> Extent:
        if not isinstance(meta, dict) or meta.get("layout") != _STRIDED:
            raise CompileError(
                "unsupported-tensor",
                f"{quoted(name)} is not a dense tensor",
                file=self.file.label,
                fix="make it dense and export again",
            )
        number = meta.get("dtype")
        element = BY_SCALAR_TYPE.get(number) if isinstance(number, int) else None
        if element is None:
            raise _malformed(f"{quoted(name)} has the unknown element type {str(number)[:40]}", self.file)
        sizes, strides = _integers(meta.get("sizes")), _integers(meta.get("strides"))
        offset = _integer(meta.get("storage_offset"))
        return strided_extent(name, blob, element, sizes, strides, offset)


def _integers(values: JsonValue) -> list[JsonValue]:
    return [_integer(value) for value in values] if isinstance(values, list) else [None]


def _integer(value: JsonValue) -> JsonValue:
    """The number in ``{"as_int": 3}``; None, which no shape holds, for anything else."""
    return value["as_int"] if isinstance(value, dict) and value.keys() == {"as_int"} else None


def _require_schema(program: JsonObject, file: InputFile) -> None:
    version = program.get("schema_version")
    major = version.get("major") if isinstance(version, dict) else None
    if not isinstance(major, int) or not isinstance(program.get("graph_module"), dict):
        raise _malformed("the program is no serialised torch.export program", file)
    if major != SCHEMA_MAJOR:
        raise CompileError(
            "unsupported-schema",
            f"the program has schema version {str(major)[:20]}, cgptc reads {SCHEMA_MAJOR}",
            file=file.label,
            fix="export it again with torch 2.10 or newer",
        )


def _malformed(what: str, file: InputFile) -> MalformedError:
    return MalformedError("malformed-pt2", what, file=file.label, fix="export the program again with torch.export.save")

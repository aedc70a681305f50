"""``.pt2`` archives: program and weights without ``torch.export.load``; tampered ones are refused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.frontend.readers.model_files import export_linear, members_of, zip_of

from cgptc.frontend.readers import Kind, open_checkpoint, open_exported, sniff
from cgptc.ir.diagnostics import CgptcError, CompileError, MalformedError, UnsafeError

WEIGHTS = "model/data/weights/model_weights_config.json"
CONSTANTS = "model/data/constants/model_constants_config.json"
PROGRAM = "model/models/model.json"


class Mixed(torch.nn.Module):
    """Tied and strided weights, a bfloat16 buffer, a non-persistent buffer and a lifted constant."""

    table: torch.Tensor
    scale: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(3, 3, bias=False)
        self.second = torch.nn.Linear(3, 3, bias=False)
        self.second.weight = self.first.weight
        self.strided = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).t())
        self.register_buffer("table", torch.arange(3, dtype=torch.bfloat16))
        self.register_buffer("scale", torch.tensor(2.0), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shifted = x + torch.tensor([1.0, 2.0, 3.0])
        return (self.second(self.first(shifted)) * self.table.float() * self.scale) @ self.strided


@pytest.fixture(scope="module")
def linear(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("pt2") / "model.pt2"
    export_linear(path)
    return path


def tampered(linear: Path, folder: Path, member: str, change: Callable[[Any], None]) -> Path:
    """A copy of the archive with one JSON member changed in place; checksums are right again."""
    members = members_of(linear)
    value = json.loads(members[member])
    change(value)
    (folder / "evil.pt2").write_bytes(zip_of(members | {member: json.dumps(value).encode()}))
    return folder / "evil.pt2"


def test_too_many_tensors_are_refused(linear: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cgptc.frontend.readers.pt2.TENSOR_COUNT", 1)
    with pytest.raises(MalformedError, match="more than 1 tensors"):
        open_exported(linear)


def test_program_and_weights_come_back(linear: Path) -> None:
    assert sniff(linear) is Kind.EXPORTED
    expected = torch.export.load(linear)
    with open_exported(linear) as archive:
        assert archive.name == "model"
        assert archive.program == json.loads(members_of(linear)[PROGRAM])
        assert archive.weights.keys() == expected.state_dict.keys() == archive.parameters
        for name, tensor in expected.state_dict.items():
            np.testing.assert_array_equal(archive.weights[name].read(archive.store), tensor.detach().numpy())
        assert archive.digest() == archive.hashed_ahead().digest() == hashlib.sha256(linear.read_bytes()).hexdigest()


@pytest.mark.filterwarnings("ignore:No complete tensor found")
def test_tied_strided_and_constant_tensors_come_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    module = Mixed()
    export_linear(tmp_path / "mixed.pt2", module)
    expected = torch.export.load(tmp_path / "mixed.pt2")
    with open_exported(tmp_path / "mixed.pt2") as archive:
        assert archive.aliases == {"second.weight": "first.weight"}
        assert archive.parameters == {"first.weight", "second.weight", "strided"}
        assert archive.constants.keys() == expected.constants.keys()
        assert "scale" in archive.constants
        for stored, tensors in ((archive.weights, expected.state_dict), (archive.constants, expected.constants)):
            for name, tensor in tensors.items():
                array = stored[name].read(archive.store)
                np.testing.assert_array_equal(array.astype(np.float32), tensor.detach().float().numpy())


def test_an_archive_is_no_checkpoint_and_a_checkpoint_no_archive(linear: Path, tmp_path: Path) -> None:
    with pytest.raises(CompileError, match=r"a torch\.export program"):
        open_checkpoint(linear)
    torch.save({"w": torch.ones(1)}, tmp_path / "model.pt")
    with pytest.raises(CompileError, match="not an exported program"):
        open_exported(tmp_path / "model.pt")
    with pytest.raises(CompileError, match="folder"):
        open_exported(tmp_path)


def meta(config: Any) -> Any:
    return config["config"]["weight"]["tensor_meta"]


TAMPERINGS: dict[str, tuple[type[CgptcError], str, Callable[[Any], object]]] = {
    "pickle": (UnsafeError, WEIGHTS, lambda c: c["config"]["weight"].update(use_pickle=True)),
    "pickle by another truth": (UnsafeError, WEIGHTS, lambda c: c["config"]["weight"].update(use_pickle=1)),
    "pickle unsaid": (UnsafeError, WEIGHTS, lambda c: c["config"]["weight"].pop("use_pickle")),
    "pickled constant": (
        UnsafeError,
        CONSTANTS,
        lambda c: c["config"].update(x={"path_name": "tensor_0", "use_pickle": True}),
    ),
    "path out": (MalformedError, WEIGHTS, lambda c: c["config"]["weight"].update(path_name="../../../weight_0")),
    "path to another member": (MalformedError, WEIGHTS, lambda c: c["config"]["weight"].update(path_name="../../byteorder")),
    "path missing": (MalformedError, WEIGHTS, lambda c: c["config"]["weight"].update(path_name="weight_7")),
    "path no text": (MalformedError, WEIGHTS, lambda c: c["config"]["weight"].update(path_name=0)),
    "too large": (MalformedError, WEIGHTS, lambda c: meta(c)["sizes"][0].update(as_int=5)),
    "huge": (MalformedError, WEIGHTS, lambda c: meta(c)["sizes"][0].update(as_int=1 << 80)),
    "negative": (MalformedError, WEIGHTS, lambda c: meta(c)["sizes"][0].update(as_int=-4)),
    "symbolic size": (MalformedError, WEIGHTS, lambda c: meta(c)["sizes"].__setitem__(0, {"as_expr": "s0"})),
    "stride": (MalformedError, WEIGHTS, lambda c: meta(c)["strides"][0].update(as_int=1000)),
    "offset": (MalformedError, WEIGHTS, lambda c: meta(c)["storage_offset"].update(as_int=1)),
    "no sizes": (MalformedError, WEIGHTS, lambda c: meta(c).pop("sizes")),
    "no meta": (CompileError, WEIGHTS, lambda c: c["config"]["weight"].update(tensor_meta=None)),
    "sparse": (CompileError, WEIGHTS, lambda c: meta(c).update(layout=1)),
    "complex": (CompileError, WEIGHTS, lambda c: meta(c).update(dtype=10)),
    "unknown type": (MalformedError, WEIGHTS, lambda c: meta(c).update(dtype=99)),
    "wider type": (MalformedError, WEIGHTS, lambda c: meta(c).update(dtype=8)),
    "no config": (MalformedError, WEIGHTS, lambda c: c.clear()),
    "entry no object": (MalformedError, WEIGHTS, lambda c: c["config"].update(weight=[])),
    "weight and constant": (
        MalformedError,
        CONSTANTS,
        lambda c: c["config"].update(weight={"path_name": "tensor_0", "use_pickle": False, "tensor_meta": None}),
    ),
    "newer schema": (CompileError, PROGRAM, lambda c: c["schema_version"].update(major=9)),
    "no schema": (MalformedError, PROGRAM, lambda c: c.pop("schema_version")),
    "no graph": (MalformedError, PROGRAM, lambda c: c.pop("graph_module")),
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_a_description_that_lies_is_refused(linear: Path, tmp_path: Path, name: str) -> None:
    error, member, change = TAMPERINGS[name]
    with pytest.raises(error):
        open_exported(tampered(linear, tmp_path, member, lambda value: change(value) and None))


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"model/models/second.json": b"{}"}, CompileError),
        ({"model/models/model.json": b"{}"}, MalformedError),
        ({"model/models/model.json": b"[" * 20_000}, MalformedError),
        ({"model/archive_format": b"pt3"}, MalformedError),
        ({"model/byteorder": b"big"}, MalformedError),
        ({"model/data/weights/weight_00x": b""}, MalformedError),
        ({"model/surprise": b""}, MalformedError),
        ({"model/data/weights/weight_0": bytes(47)}, MalformedError),
        ({"model/data/weights/weight_0": b""}, MalformedError),
        ({"other/archive_version": b""}, CompileError),
    ],
    ids=lambda value: next(iter(value), "") if isinstance(value, dict) else "",
)
def test_a_member_that_torch_does_not_write_is_refused(
    linear: Path, tmp_path: Path, changes: dict[str, bytes], error: type[CgptcError]
) -> None:
    (tmp_path / "evil.pt2").write_bytes(zip_of(members_of(linear) | changes))
    with pytest.raises(error):
        open_exported(tmp_path / "evil.pt2")


@pytest.mark.parametrize("member", ["model/byteorder", WEIGHTS, CONSTANTS, PROGRAM, "model/archive_format"])
def test_a_missing_member_is_named(linear: Path, tmp_path: Path, member: str) -> None:
    members = members_of(linear)
    del members[member]
    (tmp_path / "less.pt2").write_bytes(zip_of(members))
    with pytest.raises(CgptcError) as failure:
        open_exported(tmp_path / "less.pt2")
    assert failure.value.exit in (4, 5)


def test_a_compressed_archive_is_refused(linear: Path, tmp_path: Path) -> None:
    (tmp_path / "small.pt2").write_bytes(zip_of(members_of(linear), compressed=True))
    with pytest.raises(MalformedError, match="compressed"):
        open_exported(tmp_path / "small.pt2")


def test_a_flipped_byte_is_refused_wherever_it_is_in_a_member(linear: Path, tmp_path: Path) -> None:
    data = linear.read_bytes()
    for content in members_of(linear).values():
        flipped = bytearray(data)
        flipped[data.index(content) + len(content) // 2] ^= 4
        (tmp_path / "flipped.pt2").write_bytes(flipped)
        with pytest.raises(CgptcError), open_exported(tmp_path / "flipped.pt2") as archive:
            archive.digest()


def test_extra_files_are_inert(tmp_path: Path) -> None:
    torch.export.save(
        torch.export.export(torch.nn.Linear(3, 4), (torch.ones(2, 3),)), tmp_path / "m.pt2", extra_files={"note.txt": "hello"}
    )
    with open_exported(tmp_path / "m.pt2") as archive:
        archive.verify()
        assert archive.weights.keys() == {"weight", "bias"}

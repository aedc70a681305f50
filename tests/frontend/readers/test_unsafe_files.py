"""Files that would run code in torch: every one is refused, or read without running it."""

from __future__ import annotations

import argparse
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.frontend.readers.model_files import (
    Canary,
    EvalCanary,
    export_linear,
    global_opcode,
    members_of,
    plain_pickle,
    save_legacy,
    state_dict_zip,
    tensor_pickle,
    zip_of,
)

from cgptc.frontend.readers import Kind, open_checkpoint, open_exported, sniff
from cgptc.ir.diagnostics import CgptcError, CompileError, Exit, UnsafeError

RE_SAVE = "torch.save(model.state_dict(), 'model.pt')"
OWN_CLASS = "cgptc compile package.module:callable --weights model.pt"


class Block(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x)  # type: ignore[no-any-return]


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "the canary ran"


def refuse(path: Path) -> CgptcError:
    """The error of opening the path either way, which is the same one line of text."""
    is_program = sniff(path) is Kind.EXPORTED
    with pytest.raises(CgptcError) as failure:
        open_exported(path) if is_program else open_checkpoint(path)
    line = failure.value.line()
    assert "\n" not in line
    assert path.name in line
    assert failure.value.fix
    return failure.value


@pytest.mark.parametrize("canary", [Canary, EvalCanary])
@pytest.mark.parametrize("save", [torch.save, save_legacy], ids=["zip", "legacy"])
@pytest.mark.parametrize(
    "wrap",
    [lambda x: x, lambda x: [x], lambda x: {"weight": torch.ones(2), "x": x}, lambda x: {"model": {"w": x}}, lambda x: {x: 1}],
    ids=["root", "list", "beside", "inside", "key"],
)
def test_a_canary_in_a_pt_file_never_runs(
    canary: type[Canary], save: Callable[[object, Path], None], wrap: Callable[[object], object], tmp_path: Path, marker: Path
) -> None:
    save(wrap(canary(marker)), tmp_path / "model.pt")
    error = refuse(tmp_path / "model.pt")
    assert isinstance(error, UnsafeError)
    assert error.exit == Exit.UNSAFE
    name = "posix.system" if canary is Canary else "__builtin__.eval"
    assert name in str(error)
    assert not marker.exists()


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("name", ["model.pkl", "model.pt", "model.safetensors", "pytorch_model.bin"])
def test_a_raw_pickle_under_any_name_is_refused(protocol: int, name: str, tmp_path: Path, marker: Path) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Canary(marker), protocol=protocol))
    assert sniff(tmp_path / name) is Kind.PICKLE
    error = refuse(tmp_path / name)
    assert isinstance(error, UnsafeError)
    assert "a pickle" in error.what
    assert not marker.exists()


def test_every_instruction_that_calls_is_inert_and_named(tmp_path: Path, marker: Path) -> None:
    command = plain_pickle(f"touch '{marker}'")
    system = global_opcode("os.system")
    programs = [
        b"\x80\x02" + system + command + b"\x85R.",
        b"\x80\x04" + plain_pickle("os") + plain_pickle("system") + b"\x93" + command + b"\x85R.",
        b"\x80\x02(" + command + b"ios\nsystem\n.",
        b"\x80\x02(" + system + command + b"o.",
        b"\x80\x02" + system + command + b"\x85\x81.",
        b"\x80\x04" + system + command + b"\x85}\x92.",
        b"\x80\x02)" + system + b"b.",
        b"\x80\x02" + global_opcode("copyreg._reconstructor") + system + b"NN\x87R}" + command + b"Nsb.",
        b"\x80\x02}" + plain_pickle("w") + system + command + b"\x85R" + b"s.",
        b"cos\nsystem\n(S'touch x'\ntR.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02" + global_opcode("torch._tensor._rebuild_from_type_v2") + b"(" + system + system + command + b"\x85NtR.",
        b"\x80\x02" + plain_pickle("storage") + system + b"NNN" + b"(" + plain_pickle("storage") + system + b"NNNtQ.",
    ]
    for index, program in enumerate(programs):
        path = tmp_path / f"{index}.pt"
        path.write_bytes(state_dict_zip(program))
        error = refuse(path)
        assert isinstance(error, UnsafeError), (index, error)
        assert "system" in str(error) or "extension" in str(error) or "_reconstructor" in str(error)
        assert not marker.exists()
        assert not Path("x").exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins.getattr",
        "torch.load",
        "torch.hub.load",
        "torch.os.system",
        "torch._utils._import_dotted_name",
        "operator.attrgetter",
        "torch.jit.load",
        "numpy.core.multiarray.scalar",
    ],
)
def test_a_global_that_is_not_on_the_list_is_refused_by_name(name: str, tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_bytes(state_dict_zip(b"\x80\x02" + global_opcode(name) + b")R."))
    error = refuse(tmp_path / "m.pt")
    assert isinstance(error, UnsafeError)
    assert f"'{name}'" in str(error)


def test_a_whole_pickled_module_is_refused_with_its_class_and_what_to_do(tmp_path: Path) -> None:
    for save in (torch.save, save_legacy):
        save(Block(), tmp_path / "model.pt")
        assert sniff(tmp_path / "model.pt") is Kind.PICKLED_MODULE
        error = refuse(tmp_path / "model.pt")
        assert isinstance(error, UnsafeError)
        assert f"{Block.__module__}.Block" in error.what
        assert RE_SAVE in error.fix
        assert OWN_CLASS in error.fix


def test_a_training_checkpoint_with_a_namespace_is_refused_by_entry(tmp_path: Path) -> None:
    torch.save({"args": argparse.Namespace(lr=1), "model": {"w": torch.ones(1)}}, tmp_path / "model.pt")
    error = refuse(tmp_path / "model.pt")
    assert isinstance(error, UnsafeError)
    assert "entry 'args'" in error.what
    assert "argparse.Namespace" in error.what


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_is_refused(tmp_path: Path) -> None:
    torch.jit.script(torch.nn.Linear(2, 2)).save(str(tmp_path / "model.pt"))
    assert sniff(tmp_path / "model.pt") is Kind.TORCH_SCRIPT
    error = refuse(tmp_path / "model.pt")
    assert isinstance(error, UnsafeError)
    assert "TorchScript" in error.what
    assert "model.state_dict()" in error.fix


@pytest.mark.parametrize(
    ("data", "kind", "word"),
    [
        (b"GGUF" + bytes(64), Kind.GGUF, "GGUF"),
        (bytes(257) + b"ustar\x0000" + bytes(300), Kind.TAR, "tar"),
        (b"\x1f\x8b" + bytes(20), Kind.COMPRESSED, "compressed"),
        (b"\x89HDF\r\n\x1a\n", Kind.HDF5, "HDF5"),
        (b"\x93NUMPY\x01\x00", Kind.NUMPY, "NumPy"),
        (b'{"weight_map": {}}', Kind.JSON, "JSON"),
        (b"hello", Kind.UNKNOWN, "no kind of file"),
        (b"\x80\x02", Kind.PICKLE, "pickle"),
        (zip_of({"a/readme.txt": b"x"}), Kind.ZIP, "zip"),
        (zip_of({"readme.txt": b"x"}, compressed=True), Kind.ZIP, "zip"),
        (zip_of({"a.npy": b"x"}), Kind.NUMPY, "NumPy"),
        (zip_of({}), Kind.ZIP, "zip"),
        (zip_of({"version": b"1", "serialized_exported_program.json": b"{}"}), Kind.OLD_EXPORTED, "torch.export"),
    ],
    ids=lambda value: value.name if isinstance(value, Kind) else "",
)
def test_what_is_no_model_is_refused_saying_what_it_is(data: bytes, kind: Kind, word: str, tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(data)
    assert sniff(tmp_path / "model.pt") is kind
    error = refuse(tmp_path / "model.pt")
    assert word in error.what
    assert error.exit in (Exit.UNSAFE, Exit.UNSUPPORTED)


def test_an_empty_file_is_malformed(tmp_path: Path) -> None:
    (tmp_path / "model.pt").write_bytes(b"")
    assert sniff(tmp_path / "model.pt") is Kind.EMPTY
    assert refuse(tmp_path / "model.pt").exit == Exit.MALFORMED


def test_the_suffix_means_nothing(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(1)}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        assert checkpoint.format == "torch zip"


def test_a_pickled_weight_in_a_pt2_is_refused_and_never_runs(tmp_path: Path, marker: Path) -> None:
    export_linear(tmp_path / "model.pt2")
    torch.save(Canary(marker), tmp_path / "canary.pt")
    members = members_of(tmp_path / "model.pt2")
    config = "model/data/weights/model_weights_config.json"
    members[config] = members[config].replace(b'"use_pickle": false', b'"use_pickle": true', 1)
    members["model/data/weights/weight_0"] = (tmp_path / "canary.pt").read_bytes()
    (tmp_path / "evil.pt2").write_bytes(zip_of(members))
    error = refuse(tmp_path / "evil.pt2")
    assert isinstance(error, UnsafeError)
    assert "'weight'" in error.what
    assert not marker.exists()


def test_pickled_sample_inputs_in_a_pt2_are_never_read(tmp_path: Path, marker: Path) -> None:
    module = export_linear(tmp_path / "model.pt2")
    members = members_of(tmp_path / "model.pt2")
    members["model/data/sample_inputs/model.pt"] = pickle.dumps(Canary(marker))
    (tmp_path / "evil.pt2").write_bytes(zip_of(members))
    with open_exported(tmp_path / "evil.pt2") as archive:
        archive.verify()
        weight = archive.weights["weight"].read(archive.store)
    np.testing.assert_array_equal(weight, module.weight.detach().numpy())  # type: ignore[union-attr, operator]
    assert not marker.exists()


@pytest.mark.parametrize(
    "member",
    [
        "data/weights/model.pt",
        "data/constants/model.pt",
        "data/constants/custom_obj_0",
        "data/constants/opaque_obj_0",
        "data/aotinductor/model/model.so",
        "executorch/model.pte",
    ],
)
def test_a_pt2_with_pickles_or_code_of_its_own_is_refused(tmp_path: Path, marker: Path, member: str) -> None:
    export_linear(tmp_path / "model.pt2")
    members = members_of(tmp_path / "model.pt2") | {f"model/{member}": pickle.dumps(Canary(marker))}
    (tmp_path / "evil.pt2").write_bytes(zip_of(members))
    error = refuse(tmp_path / "evil.pt2")
    assert isinstance(error, UnsafeError)
    assert member in error.what
    assert not marker.exists()


def test_a_zip_within_a_zip_is_only_bytes(tmp_path: Path, marker: Path) -> None:
    torch.save(Canary(marker), tmp_path / "inner.pt")
    inner = (tmp_path / "inner.pt").read_bytes()
    inner += bytes(-len(inner) % 4)
    data = tensor_pickle(count=len(inner) // 4, shape=(len(inner) // 4,), strides=(1,))
    (tmp_path / "outer.pt").write_bytes(state_dict_zip(data, {"0": inner}))
    with open_checkpoint(tmp_path / "outer.pt") as checkpoint:
        assert checkpoint.tensors["weight"].read(checkpoint.store).tobytes() == inner
    with zipfile.ZipFile(tmp_path / "nested.pt", "w") as archive:
        archive.writestr("outer/inner.pt", inner)
    assert isinstance(refuse(tmp_path / "nested.pt"), CompileError)
    assert not marker.exists()


def test_names_from_a_file_cannot_forge_a_message(tmp_path: Path) -> None:
    torch.save({"bad\nerror[x]: \x1b[31m" + "y" * 500: torch.zeros(1, dtype=torch.complex64)}, tmp_path / "model.pt")
    line = refuse(tmp_path / "model.pt").line()
    assert line.isprintable()
    assert len(line) < 400

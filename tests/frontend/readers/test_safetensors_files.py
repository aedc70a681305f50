"""safetensors: what the format's own library writes comes back; headers that lie are refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model
from tests.frontend.readers.model_files import as_numpy, safetensors_bytes, small_tensors

from cgptc.frontend.readers import Kind, open_checkpoint, sniff
from cgptc.ir.diagnostics import CompileError, MalformedError


def entry(dtype: object = "F32", shape: object = (2,), offsets: object = (0, 8)) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_every_element_type_and_shape_comes_back(tmp_path: Path) -> None:
    tensors = small_tensors()
    save_file(tensors, tmp_path / "model.safetensors")
    assert sniff(tmp_path / "model.safetensors") is Kind.SAFETENSORS
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        assert checkpoint.tensors.keys() == tensors.keys()
        for name, tensor in tensors.items():
            array = checkpoint.tensors[name].read(checkpoint.store)
            assert array.shape == tuple(tensor.shape)
            np.testing.assert_array_equal(array.astype(as_numpy(tensor).dtype), as_numpy(tensor))


@pytest.mark.parametrize("length", [0x280, 0x580, 0x8B1F])
def test_a_header_whose_length_reads_as_another_format_is_a_header(length: int, tmp_path: Path) -> None:
    """640 and 1408 are the start of a pickle, 0x8b1f that of a compressed file."""
    header = json.dumps({"x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode().ljust(length)
    (tmp_path / "m").write_bytes(length.to_bytes(8, "little") + header + np.array([1.5, 2.5], np.float32).tobytes())
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert checkpoint.tensors["x"].read(checkpoint.store).tolist() == [1.5, 2.5]


def test_an_empty_file_of_the_format_has_no_tensors(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(safetensors_bytes({}))
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert checkpoint.tensors == {}


def test_names_tied_by_the_library_are_tied_again(tmp_path: Path) -> None:
    module = torch.nn.ModuleDict({"wte": torch.nn.Embedding(8, 4), "head": torch.nn.Linear(4, 8, bias=False)})
    module["head"].weight = module["wte"].weight
    save_model(module, str(tmp_path / "m"))
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert checkpoint.tensors.keys() == {"wte.weight", "head.weight"}
        assert len(checkpoint.aliases) == 1
        assert checkpoint.tensors["head.weight"] == checkpoint.tensors["wte.weight"]


def test_a_configuration_in_the_metadata_is_found(tmp_path: Path) -> None:
    save_file({"pt": torch.ones(1)}, tmp_path / "m", {"config": json.dumps({"n_layer": 3}), "format": "pt"})
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert checkpoint.config == {"n_layer": 3}
        assert checkpoint.metadata["format"] == "pt"
        assert checkpoint.tensors.keys() == {"pt"}


@pytest.mark.parametrize(
    "data",
    [
        b"\x05\0\0\0\0\0\0\0{",
        safetensors_bytes({}, length=(1 << 64) - 1),
        safetensors_bytes({}, length=99_999_999),
        safetensors_bytes({}, length=100_000_001),
        safetensors_bytes({}, length=1),
        safetensors_bytes({}, b"more"),
        safetensors_bytes(b"{]"),
        safetensors_bytes(b'{"a": "\xff"}'),
        safetensors_bytes(b'{"\\ud800": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}}'),
        safetensors_bytes(b'{"a": {}, "a": {}}'),
        safetensors_bytes({"a": entry()}, bytes(7)),
        safetensors_bytes({"a": entry()}, bytes(9)),
        safetensors_bytes({"a": entry(offsets=(1, 9))}, bytes(9)),
        safetensors_bytes({"a": entry(offsets=(8, 0))}, bytes(8)),
        safetensors_bytes({"a": entry(offsets=(-8, 0))}, bytes(8)),
        safetensors_bytes({"a": entry(offsets=(False, 8))}, bytes(8)),
        safetensors_bytes({"a": entry(offsets=(0, 8.0))}, bytes(8)),
        safetensors_bytes({"a": entry(offsets=(0,))}, bytes(8)),
        safetensors_bytes({"a": entry(offsets="08")}, bytes(8)),
        safetensors_bytes({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)),
        safetensors_bytes({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)),
        safetensors_bytes({"a": entry(), "b": entry()}, bytes(8)),
        safetensors_bytes({"a": entry(shape=(3,))}, bytes(8)),
        safetensors_bytes({"a": entry(shape=(-2,))}, bytes(8)),
        safetensors_bytes({"a": entry(shape=(True, 2))}, bytes(8)),
        safetensors_bytes({"a": entry(shape=(2.0,))}, bytes(8)),
        safetensors_bytes({"a": entry(shape=(1 << 62, 1 << 62), offsets=(0, 0))}),
        safetensors_bytes({"a": entry(shape=(1 << 63, 0), offsets=(0, 0))}),
        safetensors_bytes({"a": entry(shape=2)}, bytes(8)),
        safetensors_bytes({"a": entry(dtype=3)}, bytes(8)),
        safetensors_bytes({"a": 3}),
        safetensors_bytes({"a": {"dtype": "F32", "shape": [2]}}, bytes(8)),
        safetensors_bytes({"a": entry() | {"more": 1}}, bytes(8)),
        safetensors_bytes({"__metadata__": {"a": 1}}),
        safetensors_bytes({"__metadata__": "a"}),
        safetensors_bytes({"__metadata__": {"config": "{"}}),
        safetensors_bytes(b'{"a":' + b"9" * 5000 + b"}"),
        safetensors_bytes(b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
        safetensors_bytes(b'{"a":' + b'{"a":' * 20_000 + b"1" + b"}" * 20_000 + b"}"),
        safetensors_bytes(b"{" + b"[" * 20_000),
    ],
)
def test_a_header_that_lies_is_malformed(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(data)
    with pytest.raises(MalformedError):
        open_checkpoint(tmp_path / "model.safetensors")


@pytest.mark.parametrize("dtype", ["F8_E4M3", "F8_E5M2", "C64", "U64", "F4", "X"])
def test_an_element_type_without_a_form_in_the_ir_is_refused_with_the_tensor(tmp_path: Path, dtype: str) -> None:
    (tmp_path / "m").write_bytes(safetensors_bytes({"a": entry(dtype, [1], [0, 8])}, bytes(8)))
    if dtype.startswith("F8"):
        (tmp_path / "m").write_bytes(safetensors_bytes({"a": entry(dtype, [8], [0, 8])}, bytes(8)))
    with pytest.raises(CompileError, match="'a' has element type"):
        open_checkpoint(tmp_path / "m")


def test_nine_dimensions_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(safetensors_bytes({"a": entry(shape=[1] * 9, offsets=(0, 4))}, bytes(4)))
    with pytest.raises(CompileError, match="9 dimensions"):
        open_checkpoint(tmp_path / "m")


def test_tensors_that_are_empty_share_a_place_without_overlap(tmp_path: Path) -> None:
    header = {"a": entry(shape=[0], offsets=(0, 0)), "b": entry(), "c": entry(shape=[0, 3], offsets=(8, 8))}
    (tmp_path / "m").write_bytes(safetensors_bytes(header, bytes(8)))
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert checkpoint.tensors["c"].read(checkpoint.store).shape == (0, 3)
        assert checkpoint.aliases == {}


def test_tensors_at_odd_offsets_come_back(tmp_path: Path) -> None:
    header = {"a": entry("U8", [1], (0, 1)), "b": entry("F32", [2], (1, 9))}
    (tmp_path / "m").write_bytes(safetensors_bytes(header, b"\7" + np.array([1.5, 2.5], np.float32).tobytes()))
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert checkpoint.tensors["b"].read(checkpoint.store).tolist() == [1.5, 2.5]
        assert checkpoint.tensors["a"].read(checkpoint.store).tolist() == [7]

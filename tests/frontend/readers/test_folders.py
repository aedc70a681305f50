"""Hugging Face folders: single and sharded, in both formats; indexes that lead elsewhere are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from tests.frontend.readers.model_files import Canary, save_legacy

from cgptc.frontend.readers import Kind, open_checkpoint, read_config, sniff
from cgptc.ir.diagnostics import CgptcError, CompileError, FileError, MalformedError, UnsafeError

TENSORS = {"wte.weight": torch.arange(12.0).reshape(4, 3), "h.0.bias": torch.ones(3).half(), "ln.weight": torch.zeros(3)}
SHARDS = {"a": ["wte.weight"], "b": ["h.0.bias", "ln.weight"]}


def write_config(folder: Path, **values: Any) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2", "n_layer": 1} | values))


def write_sharded(folder: Path, extension: str, weight_map: dict[str, Any] | None = None) -> Path:
    """A sharded folder; the index can be replaced."""
    write_config(folder)
    for shard, names in SHARDS.items():
        tensors = {name: TENSORS[name] for name in names}
        if extension == "safetensors":
            save_file(tensors, folder / f"{shard}.safetensors")
        else:
            torch.save(tensors, folder / f"{shard}.bin")
    index = "model.safetensors.index.json" if extension == "safetensors" else "pytorch_model.bin.index.json"
    mapped = weight_map or {name: f"{shard}.{extension}" for shard, names in SHARDS.items() for name in names}
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": mapped}))
    return folder


def assert_reads(folder: Path, format: str) -> None:
    assert sniff(folder) is Kind.HF_FOLDER
    with open_checkpoint(folder) as checkpoint:
        assert checkpoint.format == format
        assert checkpoint.config == read_config(folder)
        assert checkpoint.tensors.keys() == TENSORS.keys()
        for name, tensor in TENSORS.items():
            stored = checkpoint.tensors[name]
            assert str(stored.dtype) == ("f16" if tensor.dtype is torch.float16 else "f32")
            np.testing.assert_array_equal(stored.read(checkpoint.store), tensor.numpy())


def test_a_folder_with_one_safetensors_file_opens(tmp_path: Path) -> None:
    write_config(tmp_path)
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert_reads(tmp_path, "safetensors")


def test_a_folder_with_one_bin_file_opens(tmp_path: Path) -> None:
    write_config(tmp_path)
    torch.save(TENSORS, tmp_path / "pytorch_model.bin")
    assert_reads(tmp_path, "torch zip")
    save_legacy(TENSORS, tmp_path / "pytorch_model.bin")
    assert_reads(tmp_path, "torch legacy")


@pytest.mark.parametrize(("extension", "format"), [("safetensors", "sharded safetensors"), ("bin", "sharded torch zip")])
def test_a_sharded_folder_opens(tmp_path: Path, extension: str, format: str) -> None:
    assert_reads(write_sharded(tmp_path, extension), format)


def test_safetensors_are_preferred_as_transformers_does(tmp_path: Path) -> None:
    write_sharded(tmp_path, "bin")
    save_file(TENSORS, tmp_path / "model.safetensors")
    assert_reads(tmp_path, "safetensors")


def test_the_digest_covers_every_file_and_no_path(tmp_path: Path) -> None:
    digests = []
    for name, extra in (("one", {}), ("two", {}), ("three", {"n_layer": 2})):
        (tmp_path / name).mkdir()
        write_sharded(tmp_path / name, "safetensors")
        write_config(tmp_path / name, **extra)
        with open_checkpoint(tmp_path / name) as checkpoint:
            digests.append(checkpoint.digest())
            assert len(checkpoint.files) == 4
    assert digests[0] == digests[1] != digests[2]


def test_a_weight_file_beside_its_configuration_has_it(tmp_path: Path) -> None:
    write_config(tmp_path)
    save_file(TENSORS, tmp_path / "model.safetensors")
    save_file(TENSORS, tmp_path / "other.safetensors")
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        assert checkpoint.config == {"model_type": "gpt2", "n_layer": 1}
    with open_checkpoint(tmp_path / "other.safetensors") as checkpoint:
        assert checkpoint.config is None
    (tmp_path / "config.json").write_text('{"learning_rate": 1}')
    with open_checkpoint(tmp_path / "model.safetensors") as checkpoint:
        assert checkpoint.config is None


@pytest.mark.parametrize(
    "weight_map",
    [
        {"wte.weight": "../a.safetensors"},
        {"wte.weight": "/etc/passwd"},
        {"wte.weight": "sub/a.safetensors"},
        {"wte.weight": ".."},
        {"wte.weight": ""},
        {"wte.weight": "a\0b"},
        {"wte.weight": "\x7f.safetensors"},
        {"wte.weight": "a\nb"},
        {"wte.weight": "..\\a.safetensors"},
        {"wte.weight": ["a.safetensors"]},
        {"wte.weight": "b.safetensors"},
        {"unknown": "a.safetensors"},
        {str(number): f"{number}.safetensors" for number in range(5000)},
    ],
    ids=lambda value: str(value)[:40],
)
def test_an_index_that_leads_elsewhere_is_malformed(tmp_path: Path, weight_map: dict[str, Any]) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "sub").mkdir()
    save_file({"wte.weight": torch.ones(1)}, tmp_path / "a.safetensors")
    save_file({"wte.weight": torch.ones(1)}, tmp_path / "model" / "sub" / "a.safetensors")
    write_sharded(tmp_path / "model", "safetensors", weight_map)
    with pytest.raises(MalformedError):
        open_checkpoint(tmp_path / "model")


@pytest.mark.parametrize("index", ["{}", '{"weight_map": []}', '{"weight_map": {}}', "[]", "{", '{"weight_map": {"a": "b", "a": "c"}}'])
def test_a_damaged_index_is_malformed(tmp_path: Path, index: str) -> None:
    write_sharded(tmp_path, "safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(index)
    with pytest.raises(MalformedError):
        open_checkpoint(tmp_path)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    write_sharded(tmp_path, "bin")
    (tmp_path / "b.bin").unlink()
    with pytest.raises(FileError, match="no such file") as failure:
        open_checkpoint(tmp_path)
    assert failure.value.file == str(tmp_path / "b.bin")


def test_tensors_that_the_index_leaves_out_are_noted(tmp_path: Path) -> None:
    write_sharded(tmp_path, "safetensors", {"wte.weight": "a.safetensors", "ln.weight": "b.safetensors"})
    with open_checkpoint(tmp_path) as checkpoint:
        assert checkpoint.tensors.keys() == {"wte.weight", "ln.weight"}
        assert "'h.0.bias'" in checkpoint.notes[0]


def test_a_canary_in_a_shard_never_runs(tmp_path: Path) -> None:
    write_sharded(tmp_path, "bin")
    torch.save({"wte.weight": Canary(tmp_path / "ran")}, tmp_path / "a.bin")
    with pytest.raises(UnsafeError, match="system"):
        open_checkpoint(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_bin_that_is_no_state_dict_is_refused_by_content(tmp_path: Path) -> None:
    write_config(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"GGUF" + bytes(100))
    with pytest.raises(CompileError, match="GGUF"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1, "a": 2}', "[" * 20_000, "\ufeff{}"])
def test_a_damaged_configuration_is_malformed(tmp_path: Path, text: str) -> None:
    write_sharded(tmp_path, "safetensors")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(MalformedError) as failure:
        open_checkpoint(tmp_path)
    assert failure.value.file.endswith("config.json")
    with pytest.raises(MalformedError):
        read_config(tmp_path)


@pytest.mark.parametrize("names", [[], ["config.json"], ["model.safetensors"]])
def test_a_folder_that_is_no_model_is_refused(tmp_path: Path, names: list[str]) -> None:
    for name in names:
        (tmp_path / name).write_text("{}")
    assert sniff(tmp_path) is Kind.FOLDER
    with pytest.raises(CompileError, match="a folder without") as failure:
        open_checkpoint(tmp_path)
    assert "config.json" in failure.value.fix


def test_links_within_the_folder_and_in_a_hub_cache_are_followed(tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "abc"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    write_config(blobs)
    save_file(TENSORS, blobs / "123")
    (snapshot / "config.json").symlink_to("../../blobs/config.json")
    (snapshot / "model.safetensors").symlink_to("../../blobs/123")
    assert_reads(snapshot, "safetensors")
    (tmp_path / "link").symlink_to(snapshot)
    assert_reads(tmp_path / "link", "safetensors")


@pytest.mark.parametrize("name", ["config.json", "a.safetensors", "model.safetensors.index.json"])
def test_a_link_out_of_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "model").mkdir()
    write_sharded(tmp_path / "model", "safetensors")
    (tmp_path / "model" / name).rename(tmp_path / "outside")
    (tmp_path / "model" / name).symlink_to("../outside")
    with pytest.raises(MalformedError, match="leads out of the folder"):
        open_checkpoint(tmp_path / "model")


def test_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    write_config(tmp_path)
    (tmp_path / "model.safetensors").symlink_to("model.safetensors")
    with pytest.raises(CgptcError):
        open_checkpoint(tmp_path)


def test_a_refused_folder_leaves_no_file_open(tmp_path: Path) -> None:
    write_sharded(tmp_path, "safetensors", {"wte.weight": "b.safetensors"})
    descriptors = Path("/proc/self/fd")
    if not descriptors.is_dir():
        pytest.skip("this system does not list a process's open files")
    before = len(list(descriptors.iterdir()))
    for _ in range(3):
        with pytest.raises(MalformedError):
            open_checkpoint(tmp_path)
    assert len(list(descriptors.iterdir())) == before

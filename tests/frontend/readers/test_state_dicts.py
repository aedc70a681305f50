"""State dicts in ``.pt`` files, zip and legacy."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from tests.frontend.readers.model_files import (
    as_numpy,
    save_legacy,
    small_tensors,
    sparse_state_dict,
    state_dict_zip,
    tensor_pickle,
)

from cgptc.frontend.readers import Kind, open_checkpoint, sniff
from cgptc.ir.diagnostics import CompileError, FileError, MalformedError

Save = Callable[[object, Path], None]


@pytest.fixture(params=[torch.save, save_legacy], ids=["zip", "legacy"])
def save(request: pytest.FixtureRequest) -> Save:
    saver: Save = request.param
    return saver


def test_every_element_type_and_shape_comes_back(save: Save, tmp_path: Path) -> None:
    tensors = small_tensors()
    save(tensors, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert list(checkpoint.tensors) == list(tensors)
        for name, tensor in tensors.items():
            stored = checkpoint.tensors[name]
            array = stored.read(checkpoint.store)
            assert str(stored.dtype) == {"i16": "i32", "scalar": "f32", "empty": "f32", "four_axes": "f32"}.get(name, name)
            assert array.dtype == stored.dtype.numpy
            assert array.shape == stored.shape == tuple(tensor.shape)
            np.testing.assert_array_equal(array.astype(as_numpy(tensor).dtype), as_numpy(tensor))


def test_unsigned_integers_widen_without_loss(tmp_path: Path) -> None:
    torch.save(
        {"u16": torch.tensor([65535], dtype=torch.uint16), "u32": torch.tensor([2**32 - 1], dtype=torch.uint32)},
        tmp_path / "m",
    )
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert checkpoint.tensors["u16"].read(checkpoint.store).tolist() == [65535]
        assert checkpoint.tensors["u32"].read(checkpoint.store).tolist() == [2**32 - 1]


def test_rows_come_back_one_block_at_a_time(save: Save, tmp_path: Path) -> None:
    tensor = torch.arange(60.0).reshape(10, 6)
    save({"weight": tensor}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        for start, stop in ((0, 3), (3, 10), (4, 4), (9, 10)):
            np.testing.assert_array_equal(checkpoint.store.read("weight", start, stop), tensor[start:stop].numpy())
        with pytest.raises(ValueError, match="rows"):
            checkpoint.store.read("weight", 5, 11)
        with pytest.raises(KeyError):
            checkpoint.store.read("other", 0, 1)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.t(),
        lambda x: x[:, ::2],
        lambda x: x[2:5, 1:4],
        lambda x: x[3],
        lambda x: x.reshape(2, 3, 2, 2).permute(3, 1, 0, 2),
        lambda x: x[1:2].expand(4, 4),
        lambda x: x[:, :1].expand(6, 3),
    ],
    ids=["transposed", "every second", "window", "row", "permuted", "expanded rows", "expanded columns"],
)
def test_a_strided_tensor_comes_back_in_order(save: Save, tmp_path: Path, view: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensor = view(torch.arange(24.0).reshape(6, 4))
    save({"view": tensor}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        stored = checkpoint.tensors["view"]
        np.testing.assert_array_equal(stored.read(checkpoint.store), tensor.numpy())
        for row in range(stored.row_count):
            np.testing.assert_array_equal(checkpoint.store.read("view", row, row + 1), tensor[row : row + 1].numpy())


def test_a_large_transposed_tensor_is_read_in_blocks(tmp_path: Path) -> None:
    tensor = torch.arange(3000 * 3000, dtype=torch.float32).reshape(3000, 3000).t()
    torch.save({"wide": tensor}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        for start in (0, 1000, 2000):
            block = checkpoint.store.read("wide", start, start + 1000)
            np.testing.assert_array_equal(block, tensor[start : start + 1000].numpy())


def test_tied_tensors_are_stored_once(save: Save, tmp_path: Path) -> None:
    table = torch.randn(8, 4)
    save({"wte": table, "view": table.t(), "head": table, "copy": table.clone()}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert checkpoint.aliases == {"head": "wte"}
        assert checkpoint.tensors["head"] == checkpoint.tensors["wte"]
        assert {stored.name for stored in checkpoint.tensors.values()} == {"wte", "view", "copy"}


def test_a_module_with_tied_parameters_keeps_them_tied(tmp_path: Path) -> None:
    module = torch.nn.ModuleDict({"wte": torch.nn.Embedding(8, 4), "head": torch.nn.Linear(4, 8, bias=False)})
    module["head"].weight = module["wte"].weight
    torch.save(module.state_dict(), tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert checkpoint.aliases == {"head.weight": "wte.weight"}


def test_parameters_and_tensors_with_attributes_are_tensors(save: Save, tmp_path: Path) -> None:
    marked = torch.ones(2)
    marked.note = "an attribute"  # type: ignore[attr-defined]
    save({"parameter": torch.nn.Parameter(torch.ones(3)), "marked": marked}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert [stored.shape for stored in checkpoint.tensors.values()] == [(3,), (2,)]


def test_a_configuration_beside_the_state_dict_is_plain_data(save: Save, tmp_path: Path) -> None:
    config = {
        "n_layer": 2,
        "eps": 1e-5,
        "bias": True,
        "name": "tiny",
        "none": None,
        "dtype": torch.bfloat16,
        "size": torch.Size([2, 3]),
        "device": torch.device("cpu"),
        "kinds": {"b", "a"},
        "nested": [(1, 2), {"x": 10**30, 3: b"bytes", "y": b"bytes"}],
    }
    save(
        {"model": {"weight": torch.ones(2)}, "config": config, "optimizer": {"state": {0: torch.ones(5)}}},
        tmp_path / "m",
    )
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert list(checkpoint.tensors) == ["weight"]
        assert checkpoint.config == {
            **config,
            "dtype": "bfloat16",
            "size": [2, 3],
            "device": "cpu",
            "kinds": ["a", "b"],
            "nested": [[1, 2], {"x": 10**30}],
        }


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state_dict", "anything"])
def test_a_state_dict_is_found_under_its_usual_keys(tmp_path: Path, key: str) -> None:
    torch.save({key: {"weight": torch.ones(2)}, "epoch": 3, "loss": 0.5}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert list(checkpoint.tensors) == ["weight"]
        assert checkpoint.config is None


def test_nanogpt_checkpoints_give_the_model_arguments(tmp_path: Path) -> None:
    value = {
        "model": {"w": torch.ones(1)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1, "params": [0]}]},
        "model_args": {"n_layer": 1},
        "iter_num": 5,
        "best_val_loss": torch.tensor(1.0),
        "config": {"batch_size": 2},
    }
    torch.save(value, tmp_path / "ckpt.pt")
    with open_checkpoint(tmp_path / "ckpt.pt") as checkpoint:
        assert checkpoint.config == {"n_layer": 1}


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2),
        [torch.ones(2)],
        {},
        {"epoch": 3},
        {"a": {"w": torch.ones(1)}, "b": {"w": torch.ones(1)}},
        {"a": {"w": torch.ones(1)}, "b": torch.ones(1)},
        {"model": {"block": {"w": torch.ones(1)}}},
        "text",
        None,
    ],
    ids=["tensor", "list", "empty", "numbers", "two", "mixed", "nested", "text", "none"],
)
def test_what_is_not_one_state_dict_is_named_and_refused(save: Save, tmp_path: Path, value: object) -> None:
    save(value, tmp_path / "model.pt")
    with pytest.raises(CompileError, match="not one state dict") as failure:
        open_checkpoint(tmp_path / "model.pt")
    assert failure.value.code == "no-state-dict"


def test_entries_that_are_no_tensors_are_noted(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(2), "version": 3, "config": {"n": 1}}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert list(checkpoint.tensors) == ["weight"]
        assert checkpoint.config == {"n": 1}
        assert len(checkpoint.notes) == 1
        assert "'version'" in checkpoint.notes[0]
        assert "'config'" not in checkpoint.notes[0]


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol_of_torch_is_read(tmp_path: Path, protocol: int) -> None:
    torch.save(
        {"model": {"w": torch.ones(2)}, "config": {"a": [1, -1, 2.5, 300, 70000, "x" * 300]}},
        tmp_path / "m",
        pickle_protocol=protocol,
    )
    with open_checkpoint(tmp_path / "m") as checkpoint:
        assert checkpoint.config == {"a": [1, -1, 2.5, 300, 70000, "x" * 300]}


@pytest.mark.parametrize(
    ("tensor", "name"),
    [
        (torch.zeros(2, dtype=torch.float8_e4m3fn), "float8_e4m3fn"),
        (torch.zeros(2, dtype=torch.complex64), "complex64"),
        (torch.zeros(2, dtype=torch.uint64), "uint64"),
        (torch.eye(2).to_sparse(), "a sparse tensor"),
        (torch.empty(2, device="meta"), "meta device"),
    ],
)
def test_an_element_type_or_layout_without_a_form_in_the_ir_is_refused_by_name(tmp_path: Path, tensor: torch.Tensor, name: str) -> None:
    torch.save({"odd": tensor}, tmp_path / "model.pt")
    with pytest.raises(CompileError, match=name) as failure:
        open_checkpoint(tmp_path / "model.pt")
    assert "'odd'" in failure.value.what


@pytest.mark.parametrize(
    "description",
    [
        {"count": 7},
        {"count": -1},
        {"count": "6"},
        {"key": "1"},
        {"key": 0},
        {"offset": 1},
        {"offset": -1},
        {"offset": 1 << 70},
        {"offset": 0.0},
        {"shape": (2, 4)},
        {"shape": (2, -3)},
        {"shape": (1 << 62, 1 << 62)},
        {"shape": (True, 3)},
        {"shape": (2,)},
        {"shape": (0, 1 << 63)},
        {"strides": (3, -1)},
        {"strides": (4, 1)},
        {"strides": (1 << 63, 1)},
        {"strides": ((3,), 1)},
        {"storage_class": "torch.DoubleStorage"},
        {"storage_class": "torch.bfloat16"},
        {"storage_class": "torch.Size"},
    ],
    ids=str,
)
def test_a_tensor_that_does_not_fit_its_storage_is_malformed(tmp_path: Path, description: dict[str, object]) -> None:
    (tmp_path / "good").write_bytes(state_dict_zip(tensor_pickle(), {"0": bytes(24)}))
    with open_checkpoint(tmp_path / "good") as checkpoint:
        assert checkpoint.tensors["weight"].shape == (2, 3)
    (tmp_path / "bad").write_bytes(state_dict_zip(tensor_pickle(**description), {"0": bytes(24)}))
    with pytest.raises(MalformedError):
        open_checkpoint(tmp_path / "bad")


def test_more_dimensions_than_eight_are_refused(tmp_path: Path) -> None:
    torch.save({"deep": torch.ones([1] * 9)}, tmp_path / "model.pt")
    with pytest.raises(CompileError, match="9 dimensions"):
        open_checkpoint(tmp_path / "model.pt")


def test_a_small_storage_repeated_to_gigabytes_is_refused(tmp_path: Path) -> None:
    torch.save({"huge": torch.ones(1).expand(1 << 20, 1 << 20)}, tmp_path / "model.pt")
    with pytest.raises(CompileError, match="repeats 4 stored bytes"):
        open_checkpoint(tmp_path / "model.pt")


def test_a_flipped_byte_in_a_storage_is_refused_when_it_is_read_and_by_the_digest(tmp_path: Path) -> None:
    tensor = torch.arange(1000.0)
    torch.save({"other": torch.ones(3), "weight": tensor}, tmp_path / "model.pt")
    data = bytearray((tmp_path / "model.pt").read_bytes())
    data[data.index(tensor.numpy().tobytes()) + 1234] ^= 1
    (tmp_path / "model.pt").write_bytes(data)
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        checkpoint.tensors["other"].read(checkpoint.store)
        with pytest.raises(MalformedError, match="checksum"):
            checkpoint.store.read("weight", 0, 1)
        with pytest.raises(MalformedError, match="checksum"):
            checkpoint.digest()


def test_a_flipped_byte_in_the_pickle_is_refused_when_opened(tmp_path: Path) -> None:
    torch.save({"weight": torch.ones(3)}, tmp_path / "model.pt")
    data = (tmp_path / "model.pt").read_bytes().replace(b"weight", b"weighs", 1)
    (tmp_path / "model.pt").write_bytes(data)
    with pytest.raises(MalformedError, match="checksum"):
        open_checkpoint(tmp_path / "model.pt")


def test_the_digest_is_that_of_the_file(save: Save, tmp_path: Path) -> None:
    save({"weight": torch.ones(3)}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert checkpoint.digest() == checkpoint.hashed_ahead().digest() == hashlib.sha256((tmp_path / "model.pt").read_bytes()).hexdigest()


def test_a_legacy_file_with_bytes_after_or_missing_is_malformed(tmp_path: Path) -> None:
    save_legacy({"weight": torch.ones(3)}, tmp_path / "model.pt")
    data = (tmp_path / "model.pt").read_bytes()
    for changed in (data + b"\0", data[:-1], data[:-13], data[:40]):
        (tmp_path / "model.pt").write_bytes(changed)
        with pytest.raises(MalformedError):
            open_checkpoint(tmp_path / "model.pt")


def test_booleans_other_than_zero_and_one_are_malformed(tmp_path: Path) -> None:
    (tmp_path / "m").write_bytes(state_dict_zip(tensor_pickle("torch.BoolStorage"), {"0": bytes([0, 1, 2, 0, 0, 0])}))
    with open_checkpoint(tmp_path / "m") as checkpoint, pytest.raises(MalformedError, match="booleans"):
        checkpoint.store.read("weight", 0, 1)


def test_zip64_archives_and_holes_are_read(tmp_path: Path) -> None:
    sparse_state_dict(tmp_path / "model.pt", 5 << 30, crc=0)
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert checkpoint.tensors["weight"].shape == (5 << 18, 1024)
    assert sniff(tmp_path / "model.pt") is Kind.STATE_DICT
    assert (tmp_path / "model.pt").stat().st_blocks * 512 < 1 << 20


def test_a_file_that_changes_while_open_is_an_error(save: Save, tmp_path: Path) -> None:
    save({"weight": torch.ones(3)}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        with (tmp_path / "model.pt").open("ab") as file:
            file.write(b"more")
        with pytest.raises(FileError, match="changed"):
            checkpoint.store.read("weight", 0, 3)


def test_reads_from_several_threads_agree(tmp_path: Path) -> None:
    tensor = torch.arange(64.0 * 1024).reshape(1024, 64)
    torch.save({"plain": tensor, "view": tensor.t()}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint, ThreadPoolExecutor(8) as pool:
        plain = list(pool.map(lambda row: checkpoint.store.read("plain", row, row + 1), range(256)))
        view = list(pool.map(lambda row: checkpoint.store.read("view", row % 64, row % 64 + 1), range(256)))
    for row in range(256):
        np.testing.assert_array_equal(plain[row][0], tensor[row].numpy())
        np.testing.assert_array_equal(view[row][0], tensor[:, row % 64].numpy())


def test_closing_forgets_a_scattered_tensor_that_was_read_in_part(tmp_path: Path) -> None:
    torch.save({"wide": torch.zeros(3000, 3000).t()}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        tracemalloc.start()
        checkpoint.store.read("wide", 0, 1000)
        held, _ = tracemalloc.get_traced_memory()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held > 3000 * 3000 * 4
    assert kept < 1 << 20

"""Model files that `cgptc new` writes: what torch reads back, the same bytes every time, whole or not at all."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from cgptc.frontend.atomic_file import replacing
from cgptc.frontend.gpt import Gpt
from cgptc.frontend.gpt_config import GptConfig
from cgptc.frontend.initialise import initial_blocks, initial_tensors
from cgptc.frontend.new_model import CONFIG_KEY, write_model
from cgptc.frontend.presets import Preset, preset
from cgptc.frontend.state_dict_writer import write_state_dict
from cgptc.frontend.tensor_source import TensorSource
from cgptc.ir.diagnostics import CompileError, FileError, UsageError
from cgptc.ir.dtypes import DTYPES, bf16
from cgptc.testing.tolerances import assert_t1

SMALL = Preset("small", GptConfig(23, 8, 2, 2, 8, 24), "for tests")


def test_torch_loads_the_pt_file_without_trusting_it(tmp_path: Path) -> None:
    write_model(SMALL, tmp_path / "model.pt", seed=3)
    file = torch.load(tmp_path / "model.pt", weights_only=True)
    assert GptConfig.from_mapping(file["config"]) == SMALL.config
    Gpt(SMALL.config).load_state_dict(file["model"])
    for name, array in initial_tensors(SMALL.config, 3):
        assert np.array_equal(file["model"][name].numpy(), array)


def test_torch_maps_the_pt_file_into_memory(tmp_path: Path) -> None:
    write_model(SMALL, tmp_path / "model.pt")
    mapped = torch.load(tmp_path / "model.pt", weights_only=True, mmap=True)["model"]
    assert all(tensor.data_ptr() % 64 == 0 for tensor in mapped.values())
    assert np.array_equal(mapped["transformer.wte.weight"].numpy(), dict(initial_tensors(SMALL.config, 0))["transformer.wte.weight"])


def test_members_beyond_32_bits_stay_aligned_and_readable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zipfile.ZIP64_LIMIT", 300)
    write_model(SMALL, tmp_path / "model.pt")
    mapped = torch.load(tmp_path / "model.pt", weights_only=True, mmap=True)["model"]
    assert all(tensor.data_ptr() % 64 == 0 for tensor in mapped.values())
    for name, array in initial_tensors(SMALL.config, 0):
        assert np.array_equal(mapped[name].numpy(), array)


def test_safetensors_holds_the_same_and_its_configuration(tmp_path: Path) -> None:
    write_model(SMALL, tmp_path / "model.pt")
    write_model(SMALL, tmp_path / "model.safetensors")
    content = load_file(tmp_path / "model.safetensors")
    expected = torch.load(tmp_path / "model.pt", weights_only=True)["model"]
    assert list(expected) == [name for name, _ in SMALL.config.parameters()]
    assert all(torch.equal(content[name], expected[name]) for name in expected)
    header_bytes = int.from_bytes((tmp_path / "model.safetensors").read_bytes()[:8], "little")
    header = json.loads((tmp_path / "model.safetensors").read_bytes()[8 : 8 + header_bytes])
    assert GptConfig.from_mapping(json.loads(header["__metadata__"][CONFIG_KEY])) == SMALL.config


def test_folder_opens_in_transformers(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    write_model(SMALL, tmp_path / "folder")
    theirs = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "folder").eval()
    ours = Gpt(SMALL.config)
    ours.load_state_dict(load_file(tmp_path / "folder" / "model.safetensors"))
    ids = torch.arange(7)[None]
    with torch.no_grad():
        assert_t1(theirs.double()(ids).logits.numpy(), ours.double()(ids).numpy(), depth=32 * SMALL.config.layers)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder"]


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors"])
def test_same_arguments_give_the_same_bytes_in_any_process(tmp_path: Path, name: str) -> None:
    write_model(SMALL, tmp_path / name, seed=1)
    other = tmp_path / "elsewhere"
    other.mkdir()
    code = (
        "from pathlib import Path; from cgptc.frontend.new_model import write_model; from cgptc.frontend.presets import Preset;"
        "from cgptc.frontend.gpt_config import GptConfig;"
        f"write_model(Preset('small', GptConfig(23, 8, 2, 2, 8, 24), ''), Path({str(other / name)!r}), seed=1)"
    )
    environment = os.environ | {"PYTHONHASHSEED": "7", "TZ": "Asia/Tokyo", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=other)
    assert (other / name).read_bytes() == (tmp_path / name).read_bytes()
    with pytest.raises(UsageError, match="of that name"):
        write_model(SMALL, tmp_path / name, seed=2)
    assert (other / name).read_bytes() == (tmp_path / name).read_bytes()
    write_model(SMALL, tmp_path / name, seed=2, force=True)
    assert (other / name).read_bytes() != (tmp_path / name).read_bytes()


def test_a_tensor_is_the_same_whatever_the_block_size(monkeypatch: pytest.MonkeyPatch) -> None:
    name, shape = "transformer.wte.weight", (23, 8)
    whole = np.concatenate(list(initial_blocks(SMALL.config, name, shape, 0)))
    monkeypatch.setattr("cgptc.frontend.initialise.BLOCK_ELEMENTS", 7)
    blocks = list(initial_blocks(SMALL.config, name, shape, 0))
    assert max(block.size for block in blocks) == 7
    assert np.array_equal(np.concatenate(blocks), whole)


def test_initial_weights_have_gpt2s_spread() -> None:
    tensors = dict(initial_tensors(preset("tiny").config, 0))
    assert abs(tensors["transformer.h.0.attn.c_attn.weight"].std() - 0.02) < 0.001
    assert abs(tensors["transformer.h.0.mlp.c_proj.weight"].std() - 0.01) < 0.0005  # over sqrt(2 * 2 layers)
    assert (tensors["transformer.ln_f.weight"] == 1).all()
    assert (tensors["transformer.h.1.mlp.c_fc.bias"] == 0).all()
    assert not np.array_equal(tensors["transformer.h.0.attn.c_attn.weight"], tensors["transformer.h.1.attn.c_attn.weight"])


@pytest.mark.parametrize("dtype", [dtype for dtype in DTYPES.values() if dtype.name != "i4"], ids=str)
def test_every_element_type_comes_back(tmp_path: Path, dtype: object) -> None:
    array = np.array([[0, 1, 1], [0, 0, 1]]).astype(dtype.numpy)  # type: ignore[attr-defined]
    source = TensorSource("x", dtype, (2, 3), lambda: iter([array.reshape(-1)]))  # type: ignore[arg-type]
    with replacing(tmp_path / "x.pt") as file:
        write_state_dict(file, [source], {"big": 1 << 40, "small": -2, "flag": True, "eps": 1e-5, "text": "é"})
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    assert content["config"] == {"big": 1 << 40, "small": -2, "flag": True, "eps": 1e-5, "text": "é"}
    loaded = content["model"]["x"]
    assert loaded.tolist() == array.tolist()
    assert str(loaded.dtype).removeprefix("torch.") == ("bfloat16" if dtype is bf16 else str(np.dtype(array.dtype)))


def test_a_failing_writer_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"old")

    def fail() -> None:
        with replacing(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["model.pt"]


def test_debris_of_a_killed_writer_is_cleared_and_a_live_ones_is_not(tmp_path: Path) -> None:
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True, check=True)
    (tmp_path / f".model.pt.{dead.stdout.strip()}.partial").touch()
    (tmp_path / f".model.pt.{os.getppid()}.partial").touch()
    with replacing(tmp_path / "model.pt") as file:
        file.write(b"new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == [f".model.pt.{os.getppid()}.partial", "model.pt"]


def test_what_cannot_be_written_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"\.onnx"):
        write_model(SMALL, tmp_path / "model.onnx")
    with pytest.raises(FileError) as caught:
        write_model(SMALL, tmp_path / "missing" / "model.pt")
    assert "missing" in caught.value.file
    with pytest.raises(CompileError, match="bias"):
        write_model(preset("tiny-nobias"), tmp_path / "folder")
    (tmp_path / "taken").mkdir()
    with pytest.raises(UsageError, match="exists"):
        write_model(SMALL, tmp_path / "taken")
    (tmp_path / "taken.pt").mkdir()
    with pytest.raises(UsageError, match="a folder of that name"):
        write_model(SMALL, tmp_path / "taken.pt", force=True)
    (tmp_path / "taken.pt").rmdir()
    assert [entry.name for entry in tmp_path.iterdir()] == ["taken"]

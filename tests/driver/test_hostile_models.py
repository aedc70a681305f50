"""Every hostile kind of model file, given to the command: its exit code, one line, nothing written, and no canary runs."""

from __future__ import annotations

import io
import json
import pickle
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tests.frontend.readers.model_files import Canary, export_linear, members_of, save_legacy, zip_of

from cgptc.cli.entry import run


def pickled(folder: Path, marker: Path) -> Path:
    torch.save(Canary(marker), folder / "model.pt")
    return folder / "model.pt"


def pickled_long_ago(folder: Path, marker: Path) -> Path:
    save_legacy({"model": {"w": Canary(marker)}}, folder / "model.pt")
    return folder / "model.pt"


def module(folder: Path, marker: Path) -> Path:
    torch.save(torch.nn.Sequential(torch.nn.Linear(1, 1)), folder / "model.pt")
    return folder / "model.pt"


def raw_pickle_as_safetensors(folder: Path, marker: Path) -> Path:
    (folder / "model.safetensors").write_bytes(pickle.dumps(Canary(marker)))
    return folder / "model.safetensors"


def pickled_weight_in_pt2(folder: Path, marker: Path) -> Path:
    export_linear(folder / "m.pt2")
    torch.save(Canary(marker), folder / "canary.pt")
    members = members_of(folder / "m.pt2")
    config = "m/data/weights/model_weights_config.json"
    members[config] = members[config].replace(b'"use_pickle": false', b'"use_pickle": true', 1)
    members["m/data/weights/weight_0"] = (folder / "canary.pt").read_bytes()
    (folder / "m.pt2").write_bytes(zip_of(members))
    return folder / "m.pt2"


def bin_in_a_folder(folder: Path, marker: Path) -> Path:
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2"}))
    torch.save({"wte.weight": Canary(marker)}, folder / "pytorch_model.bin")
    return folder


def remote_code(folder: Path, marker: Path) -> Path:
    (folder / "modeling_evil.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    config = {"model_type": "evil", "auto_map": {"AutoModelForCausalLM": "modeling_evil.Evil"}, "architectures": ["Evil"]}
    (folder / "config.json").write_text(json.dumps(config))
    save_file({"w": torch.ones(1)}, folder / "model.safetensors")
    return folder


def pickled_tokenizer(folder: Path, marker: Path) -> Path:
    (folder / "tokenizer.json").write_bytes(pickle.dumps(Canary(marker)))
    (folder / "config.json").write_text("{}")
    save_file({"w": torch.ones(1)}, folder / "model.safetensors")
    return folder


def tar(folder: Path, marker: Path) -> Path:
    with tarfile.open(folder / "model.pt", "w") as archive:
        entry = tarfile.TarInfo("../escaped")
        entry.size = 3
        archive.addfile(entry, io.BytesIO(b"abc"))
    return folder / "model.pt"


def gguf(folder: Path, marker: Path) -> Path:
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(64))
    return folder / "model.gguf"


def python_file(folder: Path, marker: Path) -> Path:
    (folder / "model.py").write_text(f"open({str(marker)!r}, 'w').close()\n")
    return folder / "model.py"


HOSTILE: list[tuple[Callable[[Path, Path], Path], int]] = [
    (pickled, 3),
    (pickled_long_ago, 3),
    (module, 3),
    (raw_pickle_as_safetensors, 3),
    (pickled_weight_in_pt2, 3),
    (bin_in_a_folder, 3),
    (remote_code, 5),
    (pickled_tokenizer, 5),
    (tar, 5),
    (gguf, 5),
    (python_file, 5),
]


@pytest.mark.parametrize(("make", "code"), HOSTILE, ids=[make.__name__ for make, _ in HOSTILE])
def test_a_hostile_model_is_refused_by_compile_and_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], make: Callable[[Path, Path], Path], code: int
) -> None:
    folder, marker = tmp_path / "model", tmp_path / "the canary ran"
    folder.mkdir()
    model = make(folder, marker)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(str(folder))
    for command in (
        ["compile", str(model), "-o", str(tmp_path / "out")],
        ["inspect", str(model)],
        ["check", str(model), "--target", "onnx"],
    ):
        found = run(command)
        printed = capsys.readouterr()
        assert found == code or (command[0] == "inspect" and found == 0), printed.err
        assert "Traceback" not in printed.err
        if found:
            assert [line for line in printed.err.splitlines() if line.startswith("error[")] == printed.err.splitlines()[:1]
    assert sorted(tmp_path.rglob("*")) == before

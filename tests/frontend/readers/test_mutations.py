"""Mutated model files: whatever the damage, a file opens or raises `CgptcError`, soon, and executes nothing.

Each seed below is mutated once per example of the Hypothesis profile: 50 in ``dev``, 200 in ``ci``, 5,000 in ``soak``.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from hypothesis import given
from safetensors.torch import save_file
from tests.file_mutations import EDITS, Edits, mutate
from tests.frontend.readers.model_files import Canary, export_linear, members_of, save_legacy, zip_of
from tests.json_mutations import FEW, JSON_EDITS, JsonEdits, mutate_json

from cgptc.frontend.readers import Kind, open_checkpoint, open_exported, sniff
from cgptc.ir.diagnostics import CgptcError

WATCHDOG_SECONDS = 30  # one file takes milliseconds


@dataclass(frozen=True)
class Seed:
    """A good file: its bytes, the part that is mutated, and how the whole is built from a mutated part."""

    part: bytes
    build: Callable[[bytes], bytes]


def tensors() -> dict[str, torch.Tensor]:
    table = torch.arange(12.0).reshape(3, 4)
    return {
        "wte": table,
        "head": table,
        "view": table.t(),
        "half": torch.ones(2).half(),
        "flag": torch.tensor([True]),
        "none": torch.ones(0, 2),
    }


def as_it_is(part: bytes) -> bytes:
    return part


def in_zip(members: dict[str, bytes], member: str) -> Seed:
    """A member that is mutated inside an archive whose checksums are right."""
    return Seed(members[member], lambda part: zip_of(members | {member: part}))


def with_header(file: bytes) -> Seed:
    """The header of a safetensors file, whose length is told rightly."""
    size = int.from_bytes(file[:8], "little")
    return Seed(file[8 : 8 + size], lambda part: len(part).to_bytes(8, "little") + part + file[8 + size :])


def make_seeds(folder: Path) -> dict[str, Seed]:
    marker = folder / "the canary ran"
    torch.save({"model": tensors(), "config": {"n_layer": 2, "name": "x", "sizes": (1, 2.5, None)}}, folder / "zip.pt")
    save_legacy({"model": tensors(), "config": {"n_layer": 2}}, folder / "legacy.pt")
    torch.save({"model": tensors(), "canary": Canary(marker)}, folder / "canary.pt")
    save_file({name: tensor.clone().contiguous() for name, tensor in tensors().items()}, folder / "m.safetensors", {"config": '{"n": 1}'})
    export_linear(folder / "m.pt2")
    state_dict, exported, canary = (members_of(folder / name) for name in ("zip.pt", "m.pt2", "canary.pt"))
    return {
        "zip": Seed((folder / "zip.pt").read_bytes(), as_it_is),
        "pickle": in_zip(state_dict, "zip/data.pkl"),
        "pickle with a canary": in_zip(canary, "canary/data.pkl"),
        "legacy": Seed((folder / "legacy.pt").read_bytes(), as_it_is),
        "safetensors": Seed((folder / "m.safetensors").read_bytes(), as_it_is),
        "pt2": Seed((folder / "m.pt2").read_bytes(), as_it_is),
        "pt2 weights": in_zip(exported, "m/data/weights/model_weights_config.json"),
        "pt2 program": in_zip(exported, "m/models/model.json"),
        "safetensors header": with_header((folder / "m.safetensors").read_bytes()),
    }


def read_all(path: Path) -> CgptcError | None:
    """Open a path either way and read every tensor; the error where it was refused."""
    try:
        if sniff(path) is Kind.EXPORTED:
            with open_exported(path) as archive:
                for stored in [*archive.weights.values(), *archive.constants.values()]:
                    assert stored.read(archive.store).shape == stored.shape
                archive.digest()
        else:
            with open_checkpoint(path) as checkpoint:
                for stored in checkpoint.tensors.values():
                    assert stored.read(checkpoint.store).shape == stored.shape
                json.dumps(checkpoint.config)
                checkpoint.digest()
    except CgptcError as error:
        return error
    return None


def assert_opens_or_is_refused(path: Path) -> None:
    began = time.monotonic()
    error = read_all(path)
    assert time.monotonic() - began < WATCHDOG_SECONDS
    assert error is None or error.line().isprintable()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("mutations")


@pytest.fixture(scope="module")
def seeds(folder: Path) -> dict[str, Seed]:
    return make_seeds(folder)


SEED_NAMES = ["zip", "pickle", "pickle with a canary", "legacy", "safetensors", "pt2", "pt2 weights", "pt2 program", "safetensors header"]


@pytest.mark.parametrize("name", SEED_NAMES)
def test_a_seed_opens_before_it_is_mutated(seeds: dict[str, Seed], folder: Path, name: str) -> None:
    assert list(seeds) == SEED_NAMES
    (folder / "seed").write_bytes(seeds[name].build(seeds[name].part))
    assert (read_all(folder / "seed") is None) is (name != "pickle with a canary")


@pytest.mark.parametrize("name", SEED_NAMES[:-1])
@given(edits=EDITS)
def test_a_mutated_file_opens_or_is_refused(seeds: dict[str, Seed], folder: Path, name: str, edits: Edits) -> None:
    path = folder / "mutated"
    path.write_bytes(seeds[name].build(mutate(seeds[name].part, edits)))
    assert_opens_or_is_refused(path)
    assert not (folder / "the canary ran").exists()


@pytest.mark.parametrize("name", ["pt2 weights", "pt2 program", "safetensors header"])
@FEW
@given(edits=JSON_EDITS)
def test_a_file_of_other_json_opens_or_is_refused(seeds: dict[str, Seed], folder: Path, name: str, edits: JsonEdits) -> None:
    path = folder / "mutated"
    path.write_bytes(seeds[name].build(mutate_json(seeds[name].part, edits)))
    assert_opens_or_is_refused(path)


@pytest.fixture(scope="module")
def sharded(folder: Path) -> Path:
    """A folder that opens, of two files of weights."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_bytes(b'{"model_type": "gpt2", "n_layer": 1}')
    (model / "model.safetensors.index.json").write_bytes(b'{"weight_map": {"wte": "a.safetensors", "view": "b.safetensors"}}')
    save_file({"wte": torch.ones(2, 3)}, model / "a.safetensors")
    save_file({"view": torch.ones(2)}, model / "b.safetensors")
    assert read_all(model) is None
    return model


@contextmanager
def replaced(path: Path, change: Callable[[bytes], bytes]) -> Iterator[None]:
    good = path.read_bytes()
    try:
        path.write_bytes(change(good))
        yield
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json", "a.safetensors"])
@given(edits=EDITS)
def test_a_mutated_folder_opens_or_is_refused(sharded: Path, name: str, edits: Edits) -> None:
    with replaced(sharded / name, lambda good: mutate(good, edits)):
        assert_opens_or_is_refused(sharded)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
@FEW
@given(edits=JSON_EDITS)
def test_a_folder_of_other_json_opens_or_is_refused(sharded: Path, name: str, edits: JsonEdits) -> None:
    with replaced(sharded / name, lambda good: mutate_json(good, edits)):
        assert_opens_or_is_refused(sharded)

"""A host description that does not fit its program, or a model's arrays, is refused before anything runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.driver.test_reproducibility import SMALL
from tests.hostile_artifacts import copied, with_right_digests

import cgptc
from cgptc.artifact.canonical import canonical_json
from cgptc.artifact.manifest import sealed
from cgptc.backends.wafer.faults import ProgramError
from cgptc.backends.wafer.host import Host, HostMark, HostPart, read_host
from cgptc.backends.wafer.host_check import check_given, check_host
from cgptc.backends.wafer.program import Affine, Program
from cgptc.backends.wafer.serial import read_program
from cgptc.backends.wafer.session import ENGINES
from cgptc.frontend.new_model import write_model
from cgptc.ir.diagnostics import MalformedError, UsageError

Change = Callable[[Host], Host]
MARK = HostMark("marks", "time", 8, "", inverted=False)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("host")
    write_model(SMALL, folder / "model.pt")
    return cgptc.compile(folder / "model.pt", target="wafer", output=folder / "out", grid="2x2").path


@pytest.fixture(scope="module")
def made(place: Path) -> tuple[Host, Program]:
    return read_host(place), read_program(place)


def of_input(**changes: Any) -> Change:
    return lambda host: replace(host, inputs=(replace(host.inputs[0], **changes),))


def of_output(**changes: Any) -> Change:
    return lambda host: replace(host, outputs=(replace(host.outputs[0], **changes),))


def of_cache(**changes: Any) -> Change:
    return lambda host: replace(host, caches=(replace(host.caches[0], **changes), host.caches[1]))


def of_host(**changes: Any) -> Change:
    return lambda host: replace(host, **changes)


CHANGES: dict[str, Change] = {
    "an input that the program lacks": of_input(tensor="inpu_ids"),
    "an input of numbers where the program takes ids": of_input(ids=False),
    "an input of no rows": of_input(rows=0),
    "an input from before the row's start": of_input(start=-1),
    "an input filled with what no integer holds": of_input(filler=1 << 40),
    "an input without rows of a batch": of_input(axes="time feature"),
    "an input with two axes in one": of_input(axes="batch*time"),
    "an input of vectors": of_input(axes="batch time feature"),
    "no input": of_host(inputs=()),
    "an input that stands twice": lambda host: replace(host, inputs=host.inputs * 2),
    "an output that the program lacks": of_output(tensor="linear.x"),
    "an output of another width": of_output(features=(18,)),
    "an output whose widths have no axes": of_output(features=(17, 1)),
    "an output of integers": of_output(dtype="i32"),
    "an output with two axes of tokens": of_output(axes="time time.1 feature"),
    "an output named like a cache": of_output(name="present.0.key"),
    "a cache that the program lacks": of_cache(tensor="transformer.h.0.attn.key"),
    "a cache with other heads": of_cache(heads=3),
    "a cache without heads": of_cache(heads=0),
    "an entry that the program lacks": of_host(entry="walk"),
    "chunks without an entry for them": of_host(prefill=""),
    "longer chunks": of_host(chunk=9),
    "a longer context": of_host(context=9),
    "rows at a time": of_host(whole=True),
    "marks of tokens that come one by one": of_host(marks=(MARK,)),
    "parts of rows whose tokens come one by one": of_host(parts=(HostPart("time.1", "time", -1),)),
    "marks of a sequence that no input has": of_host(whole=True, caches=(), prefill="", marks=(replace(MARK, sequence="time.7"),)),
}


def test_what_was_written_fits(made: tuple[Host, Program]) -> None:
    host, program = made
    assert check_host(host, program) is host
    check_given(host, given())


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_host_that_does_not_fit_its_program_is_refused(made: tuple[Host, Program], change: Change) -> None:
    host, program = made
    with pytest.raises(ProgramError, match=r"'host\.json' does not fit the program"):
        check_host(change(host), program)


def test_an_input_of_the_program_that_nobody_gives_is_refused(made: tuple[Host, Program]) -> None:
    host, program = made
    more = tuple(replace(one, tensor="others") for one in program.bindings if one.role == "input")
    with pytest.raises(ProgramError, match="'others'"):
        check_host(host, replace(program, bindings=(*program.bindings, *more)))


def given(batch: int = 2, time: int = 3, past: int = 1) -> dict[str, np.ndarray[Any, Any]]:
    caches = {f"past_key_values.0.{name}": np.zeros((batch, 2, past, 4), np.float32) for name in ("key", "value")}
    return {"input_ids": np.zeros((batch, time), np.int64), "attention_mask": np.ones((batch, past + time), np.int64), **caches}


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"input_ids": np.zeros((2, 3, 1), np.int64)}, "3 axes"),
        ({"input_ids": np.zeros((3, 2), np.int64)}, "shape"),
        ({"attention_mask": np.ones((2, 3), np.int64)}, "'attention_mask' has the shape [2, 3], not [2, 4]"),
        ({"past_key_values.0.key": np.zeros((2, 2, 1, 5), np.float32)}, "not [2, 2, 1, 4]"),
        ({"past_key_values.0.value": np.zeros((2, 2), np.float32)}, "'past_key_values.0.value' has the shape [2, 2]"),
    ],
)
def test_arrays_of_other_axes_than_the_hosts_are_refused(made: tuple[Host, Program], changed: dict[str, Any], said: str) -> None:
    with pytest.raises(ProgramError) as refused:
        check_given(made[0], given() | changed)
    assert said in refused.value.what


def test_marks_that_the_program_has_no_room_for_are_refused(made: tuple[Host, Program]) -> None:
    host = replace(made[0], caches=(), mask="", whole=True, inputs=(replace(made[0].inputs[0], rows=8),), prefill="")
    longer = replace(host, parts=(HostPart("time.1", "time", 6),), marks=(replace(MARK, sequence="time.1"),))
    check_given(host, {"input_ids": np.zeros((2, 3), np.int64)})
    with pytest.raises(ProgramError, match=r"9 tokens of 'time\.1' are marked in 8"):
        check_given(longer, {"input_ids": np.zeros((2, 3), np.int64)})


def test_an_engine_takes_as_many_items_as_it_is_given(made: tuple[Host, Program]) -> None:
    program = made[1]
    twice = tuple(replace(entry, items=Affine(0, (("length", 2),))) for entry in program.entries)
    for engine in ENGINES.values():
        with pytest.raises(ProgramError, match="needs 4 items of 'input_ids', got 2"):
            engine(replace(program, entries=twice)).run("run", {"input_ids": np.zeros((2, 1), np.int32)}, {"past": 0, "length": 2})


def test_a_manifest_that_names_other_outputs_is_refused(place: Path) -> None:
    copy = copied(place)
    text = (copy / "host.json").read_text()
    (copy / "host.json").write_text(text.replace('"logits"', '"words"'))
    with_right_digests(copy)
    with pytest.raises(MalformedError, match="do not agree on 'logits', 'words'"):
        cgptc.load(copy).run(input_ids=np.array([[1, 2]]))


@pytest.mark.parametrize("name", ["past", "length"])
def test_a_run_may_begin_with_nothing(made: tuple[Host, Program], name: str) -> None:
    host, program = made
    entries = tuple(
        replace(entry, scalars=tuple(replace(one, low=one.low + 1) if one.name == name else one for one in entry.scalars))
        for entry in program.entries
    )
    with pytest.raises(ProgramError, match=f"'{name}' of entry .* begins at"):
        check_host(host, replace(program, entries=entries))


@pytest.mark.parametrize("options", [{"dtype": []}, {"context": 0}, {"grid": "4by4"}])
def test_options_that_no_compile_took_are_malformed(place: Path, tmp_path: Path, options: dict[str, object]) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(place, copy)
    manifest = json.loads((copy / "manifest.json").read_text())
    manifest["options"]["wafer"] |= options
    (copy / "manifest.json").write_text(canonical_json(sealed(manifest)))
    with pytest.raises(MalformedError, match="options of 'wafer' are not its own"):
        cgptc.load(copy).run(input_ids=np.array([[1]]))


def test_generation_ends_where_the_program_does(place: Path, tmp_path: Path) -> None:
    write_model(SMALL, tmp_path / "model.pt")
    artifact = cgptc.compile(tmp_path / "model.pt", target="wafer", output=tmp_path / "out", grid="2x2", context=5)
    assert artifact.generate([1, 2, 3]).ids == cgptc.load(place).generate([1, 2, 3], max_new_tokens=3).ids
    with pytest.raises(UsageError, match="ask for at most 3"):
        artifact.generate([1, 2, 3], max_new_tokens=4)

"""Machine descriptions: presets, files, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cgptc.backends.wafer.faults import MachineError
from cgptc.backends.wafer.machine import PRESETS, WSE2, WSE3, find_machine, machine_fields, machine_from, read_machine, small_machine


def test_presets_are_the_published_rectangles() -> None:
    assert (WSE2.width, WSE2.height, WSE3.width, WSE3.height) == (750, 994, 755, 1170)
    assert WSE2.usable_bytes == 49_152 - 6_144


def test_a_machine_survives_a_json_file(tmp_path: Path) -> None:
    path = tmp_path / "machine"
    for machine in (*PRESETS.values(), small_machine(3, 5)):
        path.write_text(json.dumps(machine_fields(machine)))
        assert read_machine(path) == machine


def test_a_toml_file_changes_a_preset(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('base = "wse3"\nname = "mine"\nwidth = 8\nvector_lanes = {f16 = 2, f32 = 1}\ninput_queue_words = [3, 3, 4]\n')
    machine = find_machine(str(path))
    assert (machine.name, machine.width, machine.height) == ("mine", 8, WSE3.height)
    assert machine.lanes("f16") == 2.0
    assert machine.queue_words == 4


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"base": "wse9"}, "'base' must be one of"),
        ({"base": "wse2", "widht": 4}, "did you mean 'width'"),
        ({"base": "wse2", "width": "4"}, "'width' must be an integer"),
        ({"base": "wse2", "width": True}, "'width' must be an integer"),
        ({"base": "wse2", "input_queue_words": 4}, "'input_queue_words' must be a list of integers"),
        ({"base": "wse2", "mac_lanes": [4]}, "'mac_lanes' must be a table of numbers by format"),
        ({"base": "wse2", "width": 0}, "'width' must be at least 1"),
        ({"base": "wse2", "sram_bytes": 100}, "'sram_bytes' must be more than"),
        ({"base": "wse2", "colours": 25}, "at most 24"),
        ({"base": "wse2", "clock_hz": float("nan")}, "'clock_hz' must be a number"),
        ({"base": "wse2", "vector_lanes": {"f16": 0}}, "'vector_lanes' must be at least"),
        ({"base": "wse2", "mac_lanes": {"f16": 5e-324}}, "'mac_lanes' must be at least"),
        ({"base": "wse2", "host_bytes_per_second": 5e-324}, "'host_bytes_per_second' must be at least 1"),
        ({"base": "wse2", "sparse_entry_cycles": -5}, "'sparse_entry_cycles' must be not negative"),
        ({"base": "wse2", "dense_call_cycles": -0.5}, "'dense_call_cycles' must be not negative"),
        ({"base": "wse2", "output_queue_words": [2, -1]}, "'output_queue_words' must be at least 1 each"),
        ({"base": "wse2", "host_queues": [-1]}, "'host_queues' must be not negative"),
        ({"base": "wse2", "alignment_bytes": 12}, "'alignment_bytes' must be a power of two"),
        ({"base": "wse2", "sram_bytes": 1 << 40}, "'sram_bytes' must be at most"),
        ({"base": "wse2", "name": "a\nb"}, "'name' must be a name"),
        ({"base": "wse2", "input_queue_words": []}, "'input_queue_words'"),
        ({"name": "x"}, "missing 'width'"),
        ([1], "expected a table"),
    ],
)
def test_a_wrong_description_is_refused_by_field(content: object, message: str) -> None:
    with pytest.raises(MachineError, match=message):
        machine_from(content)


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "wse2"\nwidth = 0\n')
    with pytest.raises(MachineError, match=r"'mine\.toml': 'width' must be at least 1"):
        find_machine(str(tmp_path / "mine.toml"))


def test_an_unknown_name_lists_the_presets() -> None:
    with pytest.raises(MachineError, match="wse2, wse3, small-WxH"):
        find_machine("wse4")


def test_neither_toml_nor_json_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "machine"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(MachineError, match="neither TOML nor JSON"):
        read_machine(path)


def test_vector_operations_cost_their_published_cycles() -> None:
    """The published f32 multiply: 5,124 aligned elements in 2,597 cycles."""
    assert WSE2.vector_cycles("f32", 5124) == 2597
    assert WSE2.vector_cycles("f32", 0) == 0


@pytest.mark.parametrize(("m", "k", "n", "cycles"), [(64, 48, 64, 476_866), (128, 8, 64, 150_760)])
def test_dense_tiles_cost_their_published_cycles(m: int, k: int, n: int, cycles: int) -> None:
    """The two published f32 tile products, one call per column of the right side; they fixed the formula."""
    assert abs(WSE2.mac_cycles("f32", k * n, m, aligned=False) / cycles - 1) < 0.003


def test_a_queue_must_be_left_to_programs() -> None:
    with pytest.raises(MachineError, match=r"host_queues.*not all of the input queues"):
        replace(WSE2, host_queues=tuple(range(8)))


def test_a_small_rectangle_may_be_the_base(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text('base = "small-7x3"\nname = "mine"\ncolours = 9\n')
    assert find_machine(str(tmp_path / "mine.toml")) == replace(small_machine(7, 3), name="mine", colours=9)

"""Wafer artifacts that somebody made up: they load and run, or are refused with an error of ours. Digests are made right again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from tests.driver.test_reproducibility import SMALL
from tests.file_mutations import EDITS, Edits
from tests.hostile_artifacts import assert_said_in_one_line, copied, damage, damage_json, with_right_digests, without_each_file
from tests.json_mutations import JSON_EDITS, JsonEdits

import cgptc
from cgptc.frontend.new_model import write_model

FEW = max(1, settings.default.max_examples // 5)  # type: ignore[union-attr]
"""Runs take longer than reading: a fifth of the profile's examples."""
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)
"""An edit tells enough as it is drawn, and trying shorter ones takes minutes."""

FILES = ("program.json", "host.json", "weights.safetensors")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hostile")
    write_model(SMALL, folder / "model.pt")
    return cgptc.compile(folder / "model.pt", target="wafer", output=folder / "original", grid="2x2").path


@pytest.fixture(scope="module")
def copy(original: Path) -> Path:
    return copied(original)


def load_and_run(place: Path) -> None:
    found = cgptc.load(place).run(input_ids=np.array([[1, 2]]))
    assert found["logits"].ndim


def test_the_original_runs(original: Path) -> None:
    load_and_run(original)


def test_a_file_that_is_not_there_and_not_listed_is_missed_with_an_error_of_ours(original: Path, copy: Path) -> None:
    assert without_each_file(original, copy, load_and_run) > len(FILES)


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=FEW, phases=NO_SHRINKING)
@given(edits=EDITS)
def test_a_mutated_file_runs_or_is_refused(original: Path, copy: Path, name: str, edits: Edits) -> None:
    damage(original, copy, FILES, name, edits)
    with_right_digests(copy)
    assert_said_in_one_line(lambda: load_and_run(copy))


@pytest.mark.parametrize("name", ["program.json", "host.json"])
@settings(max_examples=FEW, phases=NO_SHRINKING)
@given(edits=JSON_EDITS)
def test_a_document_that_means_something_else_runs_or_is_refused(original: Path, copy: Path, name: str, edits: JsonEdits) -> None:
    damage_json(original, copy, FILES, name, edits)
    with_right_digests(copy)
    assert_said_in_one_line(lambda: load_and_run(copy))

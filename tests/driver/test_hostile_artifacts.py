"""Artifacts that somebody made up: whatever is in them, they open or are refused with an error of ours.

The digests of a mutated file are made right again, so that what lies behind the first check is tried. Examples per file are the Hypothesis
profile's: 50 in ``dev``, 5,000 in ``soak``. ``model.onnx`` has its turn in `test_hostile_inputs.py`.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from tests.driver.test_compilation import X, perceptron
from tests.driver.test_reproducibility import SMALL
from tests.file_mutations import EDITS, Edits, mutate
from tests.hostile_artifacts import assert_said_in_one_line, copied, damage, damage_json, with_right_digests, without_each_file
from tests.json_mutations import FEW, JSON_EDITS, JsonEdits, mutate_json

import cgptc
from cgptc.artifact.canonical import canonical_json, parse_json
from cgptc.artifact.manifest import sealed
from cgptc.cli.entry import run
from cgptc.driver.compilation import compile_model
from cgptc.driver.examination import explain_artifact_stages
from cgptc.driver.options import CompileOptions
from cgptc.driver.verification.verify import verify_against
from cgptc.frontend.new_model import write_model
from cgptc.ir.diagnostics import CgptcError, Exit, MalformedError
from cgptc.ir.parser import parse_graph
from cgptc.ir.stage_plan import PLAN_FILE
from cgptc.runtime.tokenizer import Tokenizer

DEMO = Path(__file__).parents[2] / "src" / "cgptc" / "models" / "demo"
DEEP = 20_000
FILES = ("manifest.json", "graph.cgir", "report.json")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("hostile") / "p.onnx.cgptc"
    compile_model(perceptron(), CompileOptions(), place)
    return place


@pytest.fixture(scope="module")
def copy(original: Path) -> Path:
    return copied(original)


def edited_manifest(artifact: Path) -> str | None:
    """The manifest sealed again; None where it is no longer JSON."""
    try:
        return canonical_json(sealed(parse_json((artifact / "manifest.json").read_bytes())))
    except (ValueError, TypeError, AttributeError, RecursionError):
        return None


def reseal(artifact: Path, edited: str) -> None:
    """Make the digests right again, and the seal where the manifest itself was edited."""
    if edited != "manifest.json":
        with_right_digests(artifact)
    elif (changed := edited_manifest(artifact)) is not None:
        (artifact / edited).write_text(changed)


def read_all(place: Path) -> None:
    """Everything that an artifact is asked for before the target's own loader sees it."""
    artifact = cgptc.load(place)
    assert artifact.report.to_json()
    assert artifact.graph.outputs is not None
    assert artifact.interface.to_json()
    assert artifact.load_target().backend.name


def test_the_original_is_read(original: Path) -> None:
    read_all(original)


@pytest.mark.parametrize("name", FILES)
@given(edits=EDITS)
def test_a_mutated_file_is_read_or_refused(original: Path, copy: Path, name: str, edits: Edits) -> None:
    damage(original, copy, FILES, name, edits)
    reseal(copy, name)
    assert_said_in_one_line(lambda: read_all(copy))


@pytest.mark.parametrize("name", ["manifest.json", "report.json"])
@FEW
@given(edits=JSON_EDITS)
def test_a_file_of_other_json_is_read_or_refused(original: Path, copy: Path, name: str, edits: JsonEdits) -> None:
    damage_json(original, copy, FILES, name, edits)
    reseal(copy, name)
    assert_said_in_one_line(lambda: read_all(copy))


@pytest.fixture(scope="module")
def in_stages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compile_model(perceptron(), CompileOptions(stages="2"), tmp_path_factory.mktemp("hostile") / "staged").path


def test_stages_that_give_other_outputs_than_the_manifest_says_are_refused(in_stages: Path, tmp_path: Path) -> None:
    shutil.copytree(in_stages, tmp_path / "copy")
    plan = json.loads((in_stages / PLAN_FILE).read_text())
    (tmp_path / "copy" / PLAN_FILE).write_text(canonical_json({**plan, "outputs": []}))
    with_right_digests(tmp_path / "copy")
    with pytest.raises(MalformedError, match="other inputs or outputs than the manifest"):
        cgptc.load(tmp_path / "copy").run(x=X)


def test_stages_that_no_pass_of_the_manifest_makes_are_not_explained(in_stages: Path, tmp_path: Path) -> None:
    shutil.copytree(in_stages, tmp_path / "copy")
    manifest = json.loads((in_stages / "manifest.json").read_text())
    (tmp_path / "copy" / "manifest.json").write_text(canonical_json(sealed({**manifest, "pipeline": "canonicalize"})))
    with pytest.raises(MalformedError, match="pipeline makes none"):
        explain_artifact_stages(cgptc.load(tmp_path / "copy"))


@pytest.mark.parametrize("context", [0, 1, "8"])
def test_a_report_has_no_say_in_what_is_verified(tmp_path: Path, context: object) -> None:
    write_model(SMALL, tmp_path / "model.pt")
    place = cgptc.compile(tmp_path / "model.pt", output=tmp_path / "out", target="wafer", machine="small-16x16").path
    report = json.loads((place / "report.json").read_text())
    report["backend"]["context"] = context
    (place / "report.json").write_text(canonical_json(report))
    with_right_digests(place)
    assert {check.length for check in verify_against(place, str(tmp_path / "model.pt"), lengths=[4]).checks} >= {4}


@pytest.mark.parametrize("fact", ["vocabulary", "context"])
def test_a_manifest_of_another_language_model_differs(tmp_path: Path, fact: str) -> None:
    write_model(SMALL, tmp_path / "model.pt")
    place = cgptc.compile(tmp_path / "model.pt", output=tmp_path / "out").path
    manifest = json.loads((place / "manifest.json").read_text())
    manifest["generation"][fact] = 1
    (place / "manifest.json").write_text(canonical_json(sealed(manifest)))
    own = {"vocabulary": SMALL.config.vocabulary, "context": SMALL.config.positions}[fact]
    with pytest.raises(CgptcError, match=f"the manifest says that its {fact} is 1, the model's is {own}") as found:
        verify_against(place, str(tmp_path / "model.pt"))
    assert found.value.exit is Exit.MISMATCH


def test_rows_that_could_not_be_compared_are_told(tmp_path: Path) -> None:
    write_model(SMALL, tmp_path / "model.pt")
    place = cgptc.compile(tmp_path / "model.pt", output=tmp_path / "out", target="wafer", machine="small-16x16", context=3).path
    found = verify_against(place, str(tmp_path / "model.pt"))
    assert max(check.length for check in found.checks) <= 4
    assert any("it takes rows of up to 3 tokens, the model" in note for note in found.notes)


def test_a_vocabulary_and_a_context_that_no_model_has_are_refused(tmp_path: Path) -> None:
    write_model(SMALL, tmp_path / "model.pt")
    place = cgptc.compile(tmp_path / "model.pt", output=tmp_path / "out").path
    manifest = json.loads((place / "manifest.json").read_text())
    for fact in ({"context": 0}, {"context": -1}, {"vocabulary": 0}, {"vocabulary": 1 << 40}, {"stop": None}):
        (place / "manifest.json").write_text(canonical_json(sealed({**manifest, "generation": {**manifest["generation"], **fact}})))
        with pytest.raises(MalformedError, match="not understood"):
            cgptc.load(place).text_model  # noqa: B018 — a property that checks what it gives


def test_a_flipped_byte_is_refused_wherever_it_is(original: Path, copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = sorted(file.name for file in original.iterdir())
    assert len(names) >= 4
    for name in names:
        shutil.copytree(original, copy, dirs_exist_ok=True)
        data = (copy / name).read_bytes()
        for place in {*range(0, len(data), -(-len(data) // 16)), len(data) - 2}:
            (copy / name).write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
            with pytest.raises(CgptcError, match=re.escape(name)):
                cgptc.load(copy)
        assert run(["verify", str(copy)]) == Exit.MALFORMED
        (line,) = capsys.readouterr().err.splitlines()
        assert name in line


def test_a_file_that_is_not_there_and_not_listed_is_missed_with_an_error_of_ours(original: Path, copy: Path) -> None:
    def read_and_run(place: Path) -> None:
        read_all(place)
        cgptc.load(place).run(x=X)

    assert without_each_file(original, copy, read_and_run) >= 3


def files_of_a_tokenizer(file: str) -> dict[str, bytes]:
    small = {"vocab.json": json.dumps({"a": 0, "b": 1, "ab": 2}).encode(), "merges.txt": b"#version: 0.2\na b\n"}
    return {file: (DEMO / file).read_bytes()} if file == "tokenizer.json" else small


def read_text(files: dict[str, bytes]) -> None:
    tokenizer = Tokenizer(files)
    tokenizer.decode(tokenizer.encode("ab a"))


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.json", "merges.txt"])
@given(edits=EDITS)
def test_a_mutated_tokenizer_is_read_or_refused(file: str, edits: Edits) -> None:
    files = files_of_a_tokenizer(file)
    assert_said_in_one_line(lambda: read_text(files | {file: mutate(files[file], edits)}))


@pytest.mark.parametrize("file", ["tokenizer.json", "vocab.json"])
@FEW
@given(edits=JSON_EDITS)
def test_a_tokenizer_of_other_json_is_read_or_refused(file: str, edits: JsonEdits) -> None:
    files = files_of_a_tokenizer(file)
    assert_said_in_one_line(lambda: read_text(files | {file: mutate_json(files[file], edits)}))


@pytest.mark.parametrize("name", ["manifest.json", "report.json"])
@pytest.mark.parametrize("bracket", ["[", '{"a":'])
def test_json_nested_deeply_is_refused(original: Path, tmp_path: Path, name: str, bracket: str) -> None:
    place = tmp_path / "deep"
    shutil.copytree(original, place)
    (place / name).write_text(bracket * DEEP)
    if name != "manifest.json":
        with_right_digests(place)
    with pytest.raises(MalformedError, match="nested too deeply"):
        read_all(place)


@pytest.mark.parametrize(
    "text",
    [
        "graph @main { input %x : f32[" + "max(" * DEEP + "1",
        "graph @main { %0 = constant {weight=" + "transposed(" * DEEP,
        "graph @main { %0 = constant() {weight=" + "[" * DEEP,
        "graph @main { %0 = reshape(%0) {shape=" + "[" * DEEP,
        "graph @main { input %x : f32[" + "(" * DEEP,
    ],
    ids=["dims", "weights", "lists of a weight", "lists", "parentheses"],
)
def test_text_nested_deeply_is_refused(text: str) -> None:
    with pytest.raises(MalformedError):
        parse_graph(text)

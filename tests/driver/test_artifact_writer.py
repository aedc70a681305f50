"""Writing an artifact: whole or not at all."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cgptc.artifact import ArtifactWriter, Manifest, check_files, open_folder, replacement
from cgptc.artifact.replacement import ASIDE, STAGING, recover
from cgptc.ir.diagnostics import FileError, UsageError

SOURCE = Path(__file__).parents[2] / "src"


def write(place: Path, content: bytes = b"one") -> None:
    with ArtifactWriter(place) as writer:
        (writer.folder / "graph.cgir").write_bytes(content)
        (writer.folder / "model.bin").write_bytes(content * 100)
        writer.commit(Manifest(target="onnx", files={}))


def content_of(place: Path) -> bytes:
    """The content of a whole artifact; fails where it is torn."""
    folder = open_folder(place)
    check_files(folder)
    content = (place / "graph.cgir").read_bytes()
    assert (place / "model.bin").read_bytes() == content * 100
    return content


def hidden(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir() if STAGING in entry.name or ASIDE in entry.name]


def test_a_new_artifact_is_whole_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    write(tmp_path / "out")
    assert content_of(tmp_path / "out") == b"one"
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"]


def test_an_old_artifact_is_replaced(tmp_path: Path) -> None:
    write(tmp_path / "out", b"one")
    write(tmp_path / "out", b"two")
    assert content_of(tmp_path / "out") == b"two"
    assert hidden(tmp_path) == []


def test_without_exchange_an_old_artifact_is_replaced_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replacement, "exchange", lambda left, right: False)
    write(tmp_path / "out", b"one")
    write(tmp_path / "out", b"two")
    assert content_of(tmp_path / "out") == b"two"
    assert hidden(tmp_path) == []


def test_an_abandoned_build_leaves_nothing(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "out") as writer:
        (writer.folder / "graph.cgir").write_bytes(b"half")
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_may_become_the_artifact(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out")
    assert content_of(tmp_path / "out") == b"one"


def test_a_link_to_an_artifact_stays_a_link(tmp_path: Path) -> None:
    write(tmp_path / "real", b"one")
    (tmp_path / "out").symlink_to("real")
    write(tmp_path / "out", b"two")
    assert (tmp_path / "out").is_symlink()
    assert content_of(tmp_path / "real") == b"two"


def _file(place: Path) -> None:
    place.write_text("mine")


def _foreign_folder(place: Path) -> None:
    place.mkdir()
    (place / "notes.txt").write_text("mine")


def _foreign_manifest(place: Path) -> None:
    place.mkdir()
    (place / "manifest.json").write_text('{"name": "a web app"}')


def _artifact_with_notes(place: Path) -> None:
    write(place)
    (place / "notes.txt").write_text("mine")


def _newer_version(place: Path) -> None:
    write(place)
    manifest = place / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format_version": "1.', '"format_version": "9.'))


def _dangling_link(place: Path) -> None:
    place.symlink_to("nowhere/at/all")


@pytest.mark.parametrize(
    "make", [_file, _foreign_folder, _foreign_manifest, _artifact_with_notes, _newer_version], ids=lambda make: make.__name__.strip("_")
)
def test_what_cgptc_did_not_write_is_never_replaced(tmp_path: Path, make: Callable[[Path], None]) -> None:
    place = tmp_path / "out"
    make(place)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(UsageError) as caught:
        write(place, b"two")
    assert str(place) in caught.value.line()
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_dangling_link_is_an_error(tmp_path: Path) -> None:
    _dangling_link(tmp_path / "out")
    with pytest.raises(FileError):
        write(tmp_path / "out")


def test_a_missing_parent_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="does not exist"):
        write(tmp_path / "no" / "out")


def write_unless_full(place: Path, content: bytes) -> bool:
    """Whether the write went through; a failure must say what to do."""
    try:
        write(place, content)
    except FileError as error:
        if "free some space" not in error.fix:
            raise
        return False
    return True


STEPS = ("mkdir", "open", "fsync", "rename", "read")


@pytest.mark.parametrize("exchange", [True, False], ids=["exchange", "aside"])
@pytest.mark.parametrize("old", [True, False], ids=["over-old", "fresh"])
@pytest.mark.parametrize("step", STEPS)
def test_a_full_disk_at_any_call_leaves_the_old_artifact_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, old: bool, exchange: bool
) -> None:
    """Every call of one kind fails in turn, until a run goes through without reaching the failing one."""
    if not exchange:
        monkeypatch.setattr(replacement, "exchange", lambda left, right: False)
    place = tmp_path / "out"
    for failing in range(200):
        if old and not place.exists():
            write(place, b"one")
        calls = 0
        real: Callable[..., Any] = getattr(os, step)

        def full(*args: Any, failing: int = failing, real: Callable[..., Any] = real, **kwargs: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == failing + 1:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return real(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(os, step, full)
            completed = write_unless_full(place, b"two")
        if place.exists():
            assert content_of(place) in ((b"one", b"two") if old else (b"two",))
        else:
            assert not old
        if completed and calls <= failing:
            break
    else:
        pytest.fail("the failing call was reached in every run")
    assert failing > 0
    write(place, b"three")
    assert content_of(place) == b"three"
    assert hidden(tmp_path) == []


def _killed_at(step: str, call: int, place: Path, exchange: bool) -> int:
    """Run a write in a process of its own that dies by SIGKILL right before the given call; its exit status."""
    program = textwrap.dedent(f"""
        import os, signal, sys
        from pathlib import Path
        from cgptc.artifact import replacement
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_artifact_writer as tests
        if not {exchange}:
            replacement.exchange = lambda left, right: False
        calls = 0
        def killing(real):
            def call(*args, **kwargs):
                global calls
                calls += 1
                if calls == {call}:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*args, **kwargs)
            return call
        for name in {step!r}.split(","):
            owner = replacement if name == "exchange" else os
            setattr(owner, name, killing(getattr(owner, name)))
        tests.write(Path({str(place)!r}), b"two")
    """)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    return subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False).returncode


@pytest.mark.parametrize(
    ("step", "call", "exchange"),
    [("rename,exchange", 1, True), ("rename,exchange", 2, True), ("fsync", 3, True), ("rename", 2, False), ("rename", 3, False)],
)
def test_a_kill_leaves_the_old_artifact_and_the_next_run_clears_debris(tmp_path: Path, step: str, call: int, exchange: bool) -> None:
    place = tmp_path / "out"
    write(place, b"one")
    assert _killed_at(step, call, place, exchange) == -signal.SIGKILL
    assert content_of(place) == b"one"  # opening puts an artifact back that stepped aside
    assert hidden(tmp_path)
    write(place, b"three")
    assert content_of(place) == b"three"
    assert hidden(tmp_path) == []


def test_the_staging_folder_of_a_living_writer_is_left_alone(tmp_path: Path) -> None:
    with ArtifactWriter(tmp_path / "out") as slow:
        (slow.folder / "graph.cgir").write_bytes(b"slow")
        (slow.folder / "model.bin").write_bytes(b"slow" * 100)
        write(tmp_path / "out", b"fast")
        assert content_of(tmp_path / "out") == b"fast"
        slow.commit(Manifest(target="onnx", files={}))
    assert content_of(tmp_path / "out") == b"slow"
    assert hidden(tmp_path) == []


def test_concurrent_writers_give_one_whole_winner(tmp_path: Path) -> None:
    program = textwrap.dedent(f"""
        import sys
        from pathlib import Path
        sys.path.insert(0, {str(Path(__file__).parent)!r})
        import test_artifact_writer as tests
        for _ in range(20):
            tests.write(Path(sys.argv[1]), sys.argv[2].encode())
    """)
    environment = {**os.environ, "PYTHONPATH": str(SOURCE)}
    words = ("one", "two", "three")
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "out"), word], env=environment) for word in words]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert content_of(tmp_path / "out").decode() in words
    assert hidden(tmp_path) == []


def test_recover_does_nothing_where_an_artifact_stands(tmp_path: Path) -> None:
    write(tmp_path / "out", b"one")
    write(tmp_path / f".out{ASIDE}x", b"old")
    recover(tmp_path / "out")
    assert content_of(tmp_path / "out") == b"one"


def test_the_same_content_gives_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name)
    assert (tmp_path / "a" / "manifest.json").read_bytes() == (tmp_path / "b" / "manifest.json").read_bytes()

"""The frame of the command line: exit codes, one line per failure, results apart from messages."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import cgptc
from cgptc.artifact import ArtifactWriter, Manifest
from cgptc.cli.entry import run
from cgptc.cli.screen import table, write_out
from cgptc.ir.diagnostics import Exit
from cgptc.ir.printable import printable

SOURCE = Path(__file__).parents[2] / "src"
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    with ArtifactWriter(tmp_path / "out") as writer:
        (writer.folder / "graph.cgir").write_text("graph")
        writer.commit(Manifest(target="onnx", files={}))
    return tmp_path / "out"


WRONG_USES = [
    ("", 2, "missing-command", "--help"),
    ("frobnicate", 2, "unknown-command", "--help"),
    ("dctor", 2, "unknown-command", "did you mean 'doctor'?"),
    ("doctor --jsn", 2, "unknown-option", "did you mean '--json'?"),
    ("doctor --jsn=1", 2, "unknown-option", "did you mean '--json'?"),
    ("doctor -z", 2, "unknown-option", "--help"),
    ("doctor extra", 2, "usage", "--help"),
    ("inspect", 2, "missing-argument", "--help"),
    ("inspect {tmp}/none", 7, "no-such-model", "cgptc list presets"),
    ("new --preset tiny", 2, "missing-argument", "--help"),
    ("new --preset tny -o {tmp}/m.pt", 2, "unknown-preset", "did you mean 'tiny'"),
    ("new --preset tiny -o {tmp}/m.onnx", 2, "unknown-suffix", ".safetensors"),
    ("new --preset tiny -o {tmp}/none/m.pt", 7, "cannot-write", "choose another"),
    ("new --preset tiny -o {tmp}/m.pt --seed -1", 2, "bad-value", "--help"),
    ("new --preset tiny -o {tmp}/m.pt --sede 1", 2, "unknown-option", "did you mean '--seed'?"),
    ("list", 2, "missing-argument", "--help"),
    ("list pressets", 2, "unknown-list", "did you mean 'presets'?"),
    ("inspect {tmp}", 5, "not-a-model", "config.json"),
    ("compile", 2, "missing-argument", "--help"),
    ("compile {tmp}/none.pt", 7, "no-such-model", "cgptc list presets"),
    ("compile {tmp}/junk", 5, "not-a-model", "give safetensors"),
    ("compile tiny -o {tmp}/x", 2, "shape-only", "cgptc new --preset tiny"),
    ("compile {tmp}/junk --target onx", 2, "unknown-target", "did you mean 'onnx'?"),
    ("compile {tmp}/junk --opset 7", 2, "bad-option", "choose 21 to"),
    ("compile {tmp}/junk --ops fast", 2, "bad-option", "choose one of ort, standard"),
    ("compile {tmp}/junk --dynamic batch", 2, "bad-value", "seq=1..2048"),
    ("compile {tmp}/junk --verify-each sometimes", 2, "bad-value", "ir, numeric, off"),
    ("compile {tmp}/junk --passes frobnicate", 2, "unknown-pass", "cgptc list passes"),
    ("compile {tmp}/junk --disable-pass canonicalise", 2, "unknown-pass", "did you mean 'canonicalize'?"),
    ("run {tmp}/none --prompt hi", 7, "not-found", "cgptc compile MODEL"),
    ("run {tmp} --prompt hi", 2, "not-an-artifact", "give the folder"),
    ("verify {tmp} --lengths a,b", 2, "bad-value", "1,7,257"),
    ("verify {tmp} --lengths 1", 2, "usage", "--against MODEL"),
    ("opt {tmp}/none.cgir --passes cse", 7, "read", "give a graph in text form"),
    ("opt {tmp}/junk --passes cse", 4, "ir-text", "expected"),
    ("check tiny --target wafr", 2, "unknown-target", "did you mean 'wafer'?"),
    ("bench {tmp}/none", 7, "not-found", "cgptc compile MODEL"),
]


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--version"]) == 0
    assert capsys.readouterr().out == f"cgptc {cgptc.__version__}\n"


@pytest.mark.parametrize(("arguments", "code", "name", "step"), WRONG_USES, ids=[use[0] for use in WRONG_USES])
def test_a_wrong_use_gives_its_exit_code_and_one_line_with_a_next_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: str, code: int, name: str, step: str
) -> None:
    if "/junk" in arguments:
        (tmp_path / "junk").write_text("hello")
    assert run(arguments.format(tmp=tmp_path).split()) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    (line,) = printed.err.splitlines()
    assert line.startswith(f"error[{name}]: ")
    assert step in line


def test_results_go_to_stdout_and_json_is_json(artifact: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(artifact), "--json"]) == Exit.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["target"] == "onnx"
    assert printed.err == ""


def test_new_writes_a_model_and_warns_that_its_text_is_noise(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new", "--preset", "tiny", "-o", str(tmp_path / "m.pt"), "--json"]) == Exit.OK
    printed = capsys.readouterr()
    assert json.loads(printed.out)["files"] == [str(tmp_path / "m.pt")]
    assert "random" in printed.err
    assert (tmp_path / "m.pt").stat().st_size > 100_000


def test_new_replaces_a_file_only_when_told_to(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trained = tmp_path / "m.safetensors"
    trained.write_bytes(b"weights that took a week")
    assert run(["new", "--preset", "tiny", "-o", str(trained)]) == Exit.USAGE
    assert "--force" in capsys.readouterr().err
    assert trained.read_bytes() == b"weights that took a week"
    assert run(["new", "--preset", "tiny", "-o", str(trained), "--force", "-q"]) == Exit.OK
    assert trained.stat().st_size > 100_000


def test_quiet_silences_notes_and_keeps_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["new", "--preset", "tiny", "-o", str(tmp_path / "m.pt"), "-q"]) == Exit.OK
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "m.pt" in printed.out


def test_presets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "presets", "--json"]) == Exit.OK
    assert "tiny" in [row["name"] for row in json.loads(capsys.readouterr().out)]


def test_kernels_of_both_targets_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["list", "kernels", "--json"]) == Exit.OK
    rows = {(row["target"], row["name"]): row["modes"] for row in json.loads(capsys.readouterr().out)}
    assert rows["onnx", "add"] == "standard"
    assert rows["onnx", "attention"] == "standard, ort"
    assert {name for target, name in rows if target == "wafer"} >= {"linear.Linear", "gemm.Summa", "attention.CachedAttention"}


def test_help_is_a_result(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == Exit.OK
    assert "doctor" in capsys.readouterr().out


def test_an_internal_error_is_exit_70_with_a_report_and_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Iterator[None]:
        raise ZeroDivisionError("a planted bug\nin two lines")

    monkeypatch.setattr("cgptc.cli.doctor.survey", broken)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert run(["doctor"]) == Exit.INTERNAL
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error[internal]: ")
    (report,) = tmp_path.glob("cgptc-crash-*.txt")
    assert str(report) in line
    assert "a planted bug" in report.read_text()
    assert str(SOURCE) not in report.read_text()


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(tmp_path / "none"), "--debug"]) == Exit.IO
    assert "Traceback" in capsys.readouterr().err


def test_control_characters_of_a_file_name_do_not_reach_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", "no\x1b[2Jsuch\nfile\udcff"]) == Exit.IO
    printed = capsys.readouterr().err
    assert len(printed.splitlines()) == 1
    assert "\x1b" not in printed


def test_printable_keeps_letters_of_every_script() -> None:
    assert printable("größe 模型 ✓") == "größe 模型 ✓"
    assert printable("a\u202eb") == "a\\u202eb"


@pytest.mark.parametrize(
    ("encoding", "shown"), [("ascii", b"1 \\xb7 \\u2026"), ("latin-1", b"1 \xb7 \\u2026"), ("utf-8", "1 · …".encode())]
)
def test_a_result_is_shown_in_any_encoding(encoding: str, shown: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    write_out("1 · …")
    assert stream.buffer.getvalue() == shown  # type: ignore[attr-defined]


def test_a_table_aligns_its_columns() -> None:
    assert table([["a", "b"], ["longer", "c"]]) == "  a        b\n  longer   c"
    assert table([["a", "a last cell"], ["b", "c", "d"]]) == "  a   a last cell\n  b   c   d"


def test_a_reader_that_leaves_is_not_an_error() -> None:
    process = subprocess.Popen([sys.executable, "-m", "cgptc", "doctor"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=ENVIRONMENT)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    message = process.stderr.read()
    process.stderr.close()
    assert process.wait() == 0
    assert message == b""


SLOW_WRITE = """
import os, sys, time, types
from pathlib import Path
import cgptc.cli.doctor as doctor
from cgptc.artifact import ArtifactWriter
from cgptc.__main__ import leave
from cgptc.cli.entry import main

place = Path(sys.argv.pop())

def slow():
    with ArtifactWriter(place) as writer:
        (writer.folder / "graph.cgir").write_text("half")
        print("ready", flush=True)
        {stuck}

doctor.survey = slow
leave(main())
"""


STUCK = {
    "between-bytecodes": "time.sleep(60)",
    # One call into a library that does not return to the interpreter, as the loading of a large session does.
    "inside-a-library": "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 200_000_000)",
    # A library that logs whatever it catches and makes an error of its own of it, as the tracing of a module does.
    "in-a-library-that-catches-all": "try: time.sleep(60)\n"
    "        except BaseException:\n            import logging; logging.exception('lost'); raise ValueError",
    "in-a-destructor": "type('Stuck', (), {'__del__': lambda self: time.sleep(60)})(); time.sleep(60)",
    # No exception may pass PyTorch's C++: the process would abort.
    "in-pytorch": "within = types.FunctionType((lambda: time.sleep(60)).__code__, {'__name__': 'torch.fx', 'time': time})\n"
    "        try: within()\n        except BaseException: os.abort()",
    # The main thread has told why it stops, and then takes long to leave.
    "on-the-way-out": "import atexit; atexit.register(time.sleep, 60); time.sleep(60)",
}


@pytest.mark.parametrize(
    ("number", "code", "stuck"),
    [*((signal.SIGINT, 130, name) for name in STUCK), (signal.SIGTERM, 143, "between-bytecodes"), (signal.SIGTERM, 143, "on-the-way-out")],
)
def test_a_signal_ends_the_run_soon_and_leaves_nothing(tmp_path: Path, number: signal.Signals, code: int, stuck: str) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW_WRITE.format(stuck=STUCK[stuck]), "doctor", str(tmp_path / "out")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    assert process.stdout.readline() == "ready\n"
    start = time.monotonic()
    process.send_signal(number)
    assert process.wait(timeout=30) == code
    assert time.monotonic() - start < 60  # a watchdog, wide for loaded machines; the promise is one second
    assert list(tmp_path.iterdir()) == []
    (line,) = process.stderr.read().splitlines()
    assert line.startswith("error[interrupted]: stopped by SIG")
    process.stdout.close()
    process.stderr.close()


LEAVING = """
import atexit, sys, threading, time
from cgptc.__main__ import leave

class Kept:
    def __del__(self):
        print("taken apart", flush=True)

sys.kept = Kept()
atexit.register(print, "last words")
{thread}
sys.stdout.write("buffered\\n")
leave(7)
"""


def test_a_process_leaves_with_its_code_its_output_and_its_last_words_and_takes_nothing_apart() -> None:
    found = subprocess.run([sys.executable, "-c", LEAVING.format(thread="")], env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout.splitlines()) == (7, ["buffered", "last words"])


def test_a_process_waits_for_its_threads() -> None:
    thread = "threading.Thread(target=lambda: (time.sleep(0.2), print('done'))).start()"
    found = subprocess.run(
        [sys.executable, "-c", LEAVING.format(thread=thread)], env=ENVIRONMENT, capture_output=True, text=True, check=False
    )
    assert (found.returncode, found.stdout.splitlines()[:3]) == (7, ["buffered", "done", "last words"])


def test_importing_cgptc_loads_no_heavy_library() -> None:
    heavy = "torch", "onnx", "onnxruntime", "typer", "rich", "transformers", "tokenizers", "safetensors"
    program = f"import sys, cgptc; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_the_command_line_starts_without_heavy_libraries() -> None:
    heavy = "torch", "onnx", "onnxruntime", "transformers", "tokenizers", "safetensors"
    program = f"import sys, cgptc.cli.entry; print([name for name in {heavy!r} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", program], env=ENVIRONMENT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"

"""What a compile, a run and a verification ask of the system: no connection is opened, nothing is written but the output, and nothing
is read but the model, the artifact, the libraries, and what libraries ask about the machine."""

from __future__ import annotations

import os
import re
import shutil
import site
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.driver.test_artifact_interruption import forbid_tracing

from cgptc.cli.entry import run

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src"
PACKAGES = ("src", "backends", "frontend", "ir", "passes", "testing")

PROGRAM = """
import sys
from cgptc.cli.entry import run
for command in sys.argv[1:]:
    if code := run([*command.split(), "-q"]):
        sys.exit(code)
"""

COMMANDS = ("compile model.pt -o out", "run out --prompt-ids 1,2 --max-new-tokens 2", "verify out")
WAFER = ("compile model.pt -o out --target wafer --grid 4x4", *COMMANDS[1:])
AGAINST = "verify out --against model.pt --lengths 3"
SAYS_THIS_IS_A_TEST = {"CI", "ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS"}
"""What makes libraries behave in other ways than at a user's."""

OPENING = (
    "connect,sendto,bind,open,openat,openat2,creat,execve,mkdir,mkdirat,rename,renameat,renameat2,link,linkat,symlink,symlinkat,"
    "unlink,unlinkat"
)

ABOUT_THE_MACHINE = re.compile(
    r"/etc/(ld\.so\.cache|localtime|locale\.alias|nsswitch\.conf|passwd|ssl/openssl\.cnf)"
    r"|/proc/(\d+|self)/(auxv|cgroup|cmdline|environ|maps|mountinfo|mounts|stat|statm|status|task/.*)"
    r"|/proc/(cpuinfo|filesystems|meminfo|stat|sys/(kernel|vm)/.*)"
    r"|/sys/(bus/pci/devices|devices/(pci[^/]*|system)/.*|devices/system|fs/cgroup/.*|kernel/mm/.*)"
    r"|/dev/(null|zero|urandom|random|shm/.*)"
)
"""What Python, the C library, PyTorch, onnxruntime and OpenMP read to learn about the machine: nothing of a user's."""


@dataclass(frozen=True)
class Trace:
    """One line for each call that a process and its children made."""

    lines: list[str]

    def connections(self) -> list[str]:
        return [line for line in self.lines if re.search(r" (connect|sendto|bind)\(", line) and "AF_INET" in line]

    def changed(self) -> set[str]:
        """What was written, made, moved or removed, as it was named."""
        done = [line for line in self.lines if " = -1 " not in line and not re.search(r" (connect|sendto|bind|execve)\(", line)]
        changing = [line for line in done if not re.search(r" open\w*\(", line) or re.search(r"O_(WRONLY|RDWR|CREAT|TRUNC)", line)]
        return {path for line in changing for path in re.findall(r'"([^"]*)"', line)}

    def opened(self) -> set[str]:
        """The real path of what was opened or run: strace names the file behind each descriptor that a call gives."""
        opened = {found[1] for line in self.lines if (found := re.search(r" open\w*\(.* = \d+<(/.*)>$", line))}
        ran = {found[1] for line in self.lines if " = -1 " not in line and (found := re.search(r' execve\("([^"]*)"', line))}
        return opened | ran

    def tried(self, folder: Path) -> list[str]:
        """The calls that named anything below a folder, also where it was not there."""
        return [line for line in self.lines if f'"{folder}/' in line]


def traced(tmp_path: Path, *commands: str) -> tuple[Trace, Path, Path]:
    """What the commands did; the folder that they ran in, and an empty one for what is temporary. The home folder is empty too."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    work, home, temporary = (tmp_path / name for name in ("work", "home", "temporary"))
    for folder in (work, home, temporary):
        folder.mkdir()
    assert run(["new", "--preset", "tiny", "-o", str(work / "model.pt"), "-q"]) == 0
    log = tmp_path / "log"
    environment = {
        **{name: value for name, value in os.environ.items() if name not in SAYS_THIS_IS_A_TEST},
        "PYTHONPATH": str(SOURCE),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": "1",
    }
    calls = ",".join("?" + name for name in OPENING.split(","))
    strace = ["strace", "-f", "-y", "--seccomp-bpf", "-qq", "-s", "4096", "-o", str(log), "-e", f"trace={calls}"]
    command = [*strace, sys.executable, "-c", PROGRAM, *commands]
    found = subprocess.run(command, env=environment, cwd=work, capture_output=True, text=True, check=False)
    if "strace: " in found.stderr:
        pytest.skip(f"this system forbids tracing: {found.stderr.splitlines()[0]}")
    assert found.returncode == 0, found.stderr
    trace = Trace(log.read_text(errors="replace").splitlines())
    assert trace.tried(home) == []
    assert list(home.iterdir()) == []
    return trace, work, temporary


def assert_kept_to_itself(trace: Trace, work: Path, temporary: Path) -> None:
    assert trace.connections() == []
    own = (f"{work.resolve()}/", f"{temporary.resolve()}/")
    foreign = [path for path in trace.changed() if path.startswith("/") and not path.startswith((*own, "/dev/", "/proc/self/"))]
    assert sorted(path for path in foreign if not (path.startswith(f"{SOURCE}/") and "/__pycache__" in path)) == []  # numba's, as Python's
    packages = [Path(path).resolve() for path in (sys.prefix, sys.base_prefix, *site.getsitepackages())]
    system = ("/usr/lib/", "/usr/lib64/", "/lib/", "/lib64/", "/usr/local/lib/", "/usr/share/zoneinfo/", "/usr/share/locale/")
    libraries = (*system, *(f"{path}/" for path in (*packages, *(ROOT / name for name in PACKAGES))))
    foreign = [path for path in trace.opened() if not f"{path}/".startswith((*own, *libraries))]
    assert sorted(path for path in foreign if not ABOUT_THE_MACHINE.fullmatch(path)) == []
    assert {f"{work.resolve()}/model.pt", f"{work.resolve()}/out/manifest.json"} <= trace.opened()


def test_commands_open_no_connection_and_no_file_but_inputs_outputs_and_libraries(tmp_path: Path) -> None:
    assert_kept_to_itself(*traced(tmp_path, *COMMANDS))


@pytest.mark.slow
@pytest.mark.parametrize("commands", [COMMANDS, WAFER], ids=["onnx", "wafer"])
def test_a_verification_against_the_model_keeps_to_itself_too(tmp_path: Path, commands: tuple[str, ...]) -> None:
    assert_kept_to_itself(*traced(tmp_path, *commands, AGAINST))


def test_where_tracing_is_forbidden_the_tests_are_skipped_with_the_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forbid_tracing(tmp_path, monkeypatch)
    with pytest.raises(pytest.skip.Exception, match=r"forbids tracing: strace: attach: .*Operation not permitted"):
        traced(tmp_path, *COMMANDS)


def test_a_trace_shows_what_is_foreign() -> None:
    trace = Trace(
        [
            '7 openat(AT_FDCWD</w>, "out/x", O_WRONLY|O_CREAT, 0666) = 3</w/out/x>',
            '7 openat(AT_FDCWD</w>, "link", O_RDONLY) = 4</home/somebody/secret>',
            '7 openat(AT_FDCWD</w>, "/home/me/none", O_RDONLY) = -1 ENOENT (No such file or directory)',
            '8 execve("/usr/bin/cc", ["cc"], 0x7ffd /* 9 vars */) = 0',
            "8 connect(3<socket:[1]>, {sa_family=AF_INET, sin_port=htons(443)}, 16) = 0",
            '8 unlink("/w/old") = 0',
        ]
    )
    assert trace.opened() == {"/w/out/x", "/home/somebody/secret", "/usr/bin/cc"}
    assert trace.changed() == {"out/x", "/w/old"}
    assert len(trace.connections()) == len(trace.tried(Path("/home/me"))) == 1

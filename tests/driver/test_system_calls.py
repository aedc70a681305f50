"""What a compile asks of the system: no connection is opened, and nothing is written but the output."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "src"

PROGRAM = """
import sys
from cgptc.cli.entry import run
sys.exit(run(["compile", "model.pt", "-o", "out", "-q"]) or run(["verify", "out", "-q"]))
"""

OPENING = "connect,sendto,bind,open,openat,creat,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat"


def test_a_compile_opens_no_connection_and_writes_nothing_but_its_output(tmp_path: Path) -> None:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    from cgptc.cli.entry import run

    work, home, temporary = (tmp_path / name for name in ("work", "home", "temporary"))
    for folder in (work, home, temporary):
        folder.mkdir()
    assert run(["new", "--preset", "tiny", "-o", str(work / "model.pt"), "-q"]) == 0
    log = tmp_path / "log"
    environment = {
        **os.environ,
        "PYTHONPATH": str(SOURCE),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": str(home),
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": "1",
    }
    traced = ["strace", "-f", "--seccomp-bpf", "-qq", "-o", str(log), "-e", f"trace={','.join('?' + name for name in OPENING.split(','))}"]
    found = subprocess.run([*traced, sys.executable, "-c", PROGRAM], env=environment, cwd=work, capture_output=True, text=True, check=False)
    if "strace: " in found.stderr:
        pytest.skip(f"this system forbids tracing: {found.stderr.splitlines()[0]}")
    assert found.returncode == 0, found.stderr
    lines = [line for line in log.read_text(errors="replace").splitlines() if " = -1 " not in line]
    assert [line for line in lines if re.search(r" (connect|sendto|bind)\(", line) and "AF_INET" in line] == []
    changing = [line for line in lines if not re.search(r" open\w*\(", line) or re.search(r"O_(WRONLY|RDWR|CREAT)", line)]
    touched = {path for line in changing for path in re.findall(r'"([^"]*)"', line)}
    allowed = (str(work), str(temporary), "/dev/", "/proc/self/")
    outside = sorted(path for path in touched if path.startswith("/") and not path.startswith(allowed))
    assert not outside, outside
    assert any("out" in path for path in touched)
    assert list(home.iterdir()) == []

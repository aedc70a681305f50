"""A process that has everything imported which a compile needs, and forks a copy of itself for every command line.

A command then starts in milliseconds, so that many can be interrupted. It reads JSON, one request a line:

* ``{"arguments": […], "folder": …, "messages": FILE, "mount": [FOLDER, OPTIONS]}`` forks, and prints the copy's process id. The copy
  runs the command line in the folder as ``cgptc`` would, what it prints goes to the file. With ``mount`` it first puts a file system in
  memory of its own on that folder (``size=16k``, ``ro``), which nobody else sees, and names what lies there on its last line.
* ``{"wait": PID}`` waits, and prints the exit status as `subprocess` does. 97: this system forbids the mount.
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
from pathlib import Path

NEW_MOUNTS, NEW_USERS = 0x00020000, 0x10000000
FORBIDDEN = 97


def mount_in_memory(folder: str, options: str) -> bool:
    """Put an empty file system on a folder, in this process only. False where the system forbids it."""
    library = ctypes.CDLL(None, use_errno=True)
    user, group = os.geteuid(), os.getegid()
    if library.unshare(NEW_USERS | NEW_MOUNTS):
        return False
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {user} 1")
        Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    except OSError:
        return False
    read_only = 1 if options == "ro" else 0
    data = b"" if read_only else options.encode()
    return library.mount(b"none", os.fsencode(folder), b"tmpfs", ctypes.c_ulong(read_only), data) == 0


def run_command(request: dict[str, object]) -> int:
    """Run one command line to its exit code, in this process."""
    from cgptc.cli.entry import main

    messages = os.open(str(request["messages"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(messages, 1)
    os.dup2(messages, 2)
    os.chdir(str(request["folder"]))
    mount = request.get("mount")
    if isinstance(mount, list) and not mount_in_memory(*mount):
        return FORBIDDEN
    arguments = request["arguments"]
    assert isinstance(arguments, list)
    sys.argv = ["cgptc", *arguments]
    code = main()
    sys.stdout.flush()
    if isinstance(mount, list):
        os.write(2, f"left: {sorted(os.listdir(mount[0]))}\n".encode())  # noqa: PTH208
    return code


def fork(request: dict[str, object]) -> int:
    """The process id of a copy that runs the command."""
    process = os.fork()
    if process == 0:
        code = 98
        try:
            code = run_command(request)
        finally:
            os._exit(code)
    return process


def import_everything(model: str, out: str) -> None:
    """By compiling once."""
    from cgptc.cli.entry import run

    if run(["compile", model, "-o", out, "-q"]) or run(["run", out, "--prompt-ids", "1", "--max-new-tokens", "1", "-q"]):
        sys.exit(1)


if __name__ == "__main__":
    answers = os.dup(1)  # what the commands print must not get between the answers
    os.dup2(2, 1)
    import_everything(*sys.argv[1:])
    os.write(answers, b"ready\n")
    while line := sys.stdin.readline():
        request = json.loads(line)
        answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1]) if "wait" in request else fork(request)
        os.write(answers, f"{answer}\n".encode())

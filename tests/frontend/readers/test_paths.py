"""What a path may be: regular files and links to them; nothing else is opened, and nothing blocks."""

from __future__ import annotations

import os
import socket
import tempfile
from pathlib import Path

import pytest
import torch

from cgptc.frontend.readers import Kind, open_checkpoint, open_exported, sniff
from cgptc.ir.diagnostics import CgptcError, Exit, FileError


def assert_refused(path: Path, words: str) -> None:
    for read in (sniff, open_checkpoint, open_exported):
        with pytest.raises(FileError, match=words) as failure:
            read(path)
        assert failure.value.exit == Exit.IO
        assert "\n" not in failure.value.line()


def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.pt")
    assert_refused(tmp_path / "model.pt", "a FIFO")
    (tmp_path / "link").symlink_to("model.pt")
    assert_refused(tmp_path / "link", "a FIFO")


def test_devices_are_refused() -> None:
    assert_refused(Path("/dev/zero"), "a character device")


def test_a_socket_is_refused() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/s")
        assert_refused(Path(folder) / "s", "a socket")


def test_a_path_that_is_not_there_is_an_io_error(tmp_path: Path) -> None:
    assert_refused(tmp_path / "nothing", "no such file")
    assert_refused(Path("a\0b"), "not a path")
    assert_refused(Path("a" * 5000), "too long")
    (tmp_path / "loop").symlink_to("loop")
    assert_refused(tmp_path / "loop", "symbolic links")


@pytest.mark.parametrize("name", ["a\nerror[x]: y", "\x1b[31mred", "\udcff"])
def test_a_name_that_does_not_print_is_escaped_in_messages(tmp_path: Path, name: str) -> None:
    for make in (lambda path: path.write_bytes(b"nothing"), lambda path: path.mkdir(), lambda path: None):
        path = tmp_path / name
        make(path)
        for read in (open_checkpoint, open_exported):
            with pytest.raises(CgptcError) as failure:
                read(path)
            assert failure.value.line().isprintable()
        if path.is_dir():
            path.rmdir()
        else:
            path.unlink(missing_ok=True)


def test_a_file_without_permission_is_an_io_error() -> None:
    """As nobody where this is root, who reads every file."""
    user = os.geteuid()
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        path = Path(folder) / "m"
        path.write_bytes(b"x")
        path.chmod(0)
        Path(folder).chmod(0o755)
        try:
            if user == 0:
                os.seteuid(65534)
            assert_refused(path, "permission denied")
        finally:
            os.seteuid(user)


def test_a_link_to_a_regular_file_is_followed(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pt")
    (tmp_path / "link").symlink_to("model.pt")
    assert sniff(tmp_path / "link") is Kind.STATE_DICT
    with open_checkpoint(tmp_path / "link") as checkpoint:
        assert checkpoint.tensors.keys() == {"w"}


def test_a_link_to_a_folder_without_a_model_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path, target_is_directory=True)
    assert sniff(tmp_path / "link") is Kind.FOLDER


def test_a_closed_checkpoint_closes_its_file_and_says_so(tmp_path: Path) -> None:
    torch.save({"w": torch.ones(2)}, tmp_path / "model.pt")
    with open_checkpoint(tmp_path / "model.pt") as checkpoint:
        assert all(file.is_open for file in checkpoint.files)
    assert not any(file.is_open for file in checkpoint.files)
    checkpoint.close()
    with pytest.raises(ValueError, match="closed"):
        checkpoint.store.read("w", 0, 2)

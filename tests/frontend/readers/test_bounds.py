"""Memory and time: lying headers cost nothing, large files are read in pieces."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.frontend.readers.model_files import (
    global_opcode,
    plain_pickle,
    safetensors_bytes,
    save_legacy,
    sparse_state_dict,
    state_dict_zip,
    tensor_pickle,
)

from cgptc.frontend.readers import open_checkpoint
from cgptc.frontend.readers.limits import TENSOR_COUNT
from cgptc.ir.diagnostics import MalformedError

MIB = 1 << 20
WATCHDOG_SECONDS = 60


def peak_mib(code: str, *arguments: str) -> tuple[int, str]:
    """MiB that ``code`` adds to the address space and peak resident memory of a fresh process, and what it prints.

    ``before()`` marks the point from which memory counts, after the imports.
    """
    script = """
        import resource, sys
        from pathlib import Path
        from cgptc.frontend.readers import open_checkpoint, sniff
        from cgptc.ir.diagnostics import CgptcError

        def status(name):
            for line in Path("/proc/self/status").read_text().splitlines():
                if line.startswith(name):
                    return int(line.split()[1]) * 1024
            raise AssertionError(name)

        def limit(allowed):
            used = status("VmSize:")
            resource.setrlimit(resource.RLIMIT_AS, (used + allowed, used + allowed))

        baseline = status("VmHWM:")
    """
    full = textwrap.dedent(script) + textwrap.dedent(code) + "\nprint(status('VmHWM:') - baseline)\n"
    done = subprocess.run(
        [sys.executable, "-c", full, *arguments],
        capture_output=True,
        text=True,
        timeout=WATCHDOG_SECONDS,
        check=False,
        env={"PYTHONPATH": "src", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    *printed, peak = done.stdout.splitlines()
    return int(peak) // MIB, "\n".join(printed)


linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="memory is read from /proc")


def lies() -> dict[str, bytes]:
    """Small files that claim to be large."""
    huge = {"dtype": "F32", "shape": [1 << 30, 1 << 30], "data_offsets": [0, 1 << 62]}
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 1 << 40, 1 << 40, 1 << 50, 0)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, 4, 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    doubling = b"]q\x000" + b"".join(b"](" + (b"h" + bytes([level])) * 2 + b"eq" + bytes([level + 1]) + b"0" for level in range(200))
    keys = b")q\x000" + b"".join((b"h" + bytes([level])) * 2 + b"\x86q" + bytes([level + 1]) + b"0" for level in range(200))
    return {
        "length": safetensors_bytes({}, length=1 << 62),
        "length within bounds": safetensors_bytes({}, length=99_000_000),
        "offsets": safetensors_bytes({"a": huge}),
        "shape": safetensors_bytes({"a": huge | {"data_offsets": [0, 4]}}, bytes(4)),
        "deep": safetensors_bytes(b"{" + b'"a":[' * 200_000),
        "many digits": safetensors_bytes(b'{"a":' + b"9" * 1_000_000 + b"}"),
        "directory": b"PK\3\4" + end64 + locator + end,
        "pickle string": state_dict_zip(b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b"x"),
        "pickle bytes": state_dict_zip(b"\x80\x02B\xff\xff\xff\xff"),
        "pickle number": state_dict_zip(b"\x80\x02\x8b\xff\xff\xff\x7f"),
        "pickle frame": state_dict_zip(b"\x80\x04\x95" + b"\xff" * 8),
        "pickle memo": state_dict_zip(b"\x80\x02Nr\xff\xff\xff\xff."),
        "pickle marks": state_dict_zip(b"\x80\x02" + b"(" * 2_000_000),
        "pickle nesting": state_dict_zip(b"\x80\x02" + b")" + b"\x85" * 500_000 + b"."),
        "storage": state_dict_zip(tensor_pickle(count=1 << 60, shape=(1 << 60,), strides=(1,)), {"0": b""}),
        "expanded": state_dict_zip(tensor_pickle(count=1, shape=(1 << 30, 1 << 30), strides=(0, 0)), {"0": bytes(4)}),
        "doubling": state_dict_zip(b"\x80\x02" + doubling + b"h\xc8."),
        "doubling config": state_dict_zip(
            b"\x80\x02" + doubling + b"}(" + plain_pickle("config") + b"}" + plain_pickle("x") + b"h\xc8s"
            + plain_pickle("model") + tensor_pickle()[2:-1] + b"u.",
            {"0": bytes(24)},
        ),
        "doubling key": state_dict_zip(b"\x80\x02" + keys + b"}h\xc8Ns."),
        "legacy": bytes.fromhex("80028a0a6cfc9c46f9206aa850192e80024de9032e") + b"\x80\x02B\xff\xff\xff\xff",
        "nested rebuild": state_dict_zip(
            b"\x80\x02" + (global_opcode("torch._tensor._rebuild_from_type_v2") + b"N") * 2 + b"\x86N\x87R."
        ),
    }  # fmt: skip


@linux
def test_lying_headers_are_refused_within_64_mib(tmp_path: Path) -> None:
    for name, data in lies().items():
        (tmp_path / f"{name}.bin").write_bytes(data)
    # The limit on the address space makes a larger allocation fail, whether or not its pages are touched.
    _, printed = peak_mib(
        """
        import json, time
        limit(64 << 20)
        results = {}
        for path in sorted(Path(sys.argv[1]).iterdir()):
            began = time.process_time()
            try:
                open_checkpoint(path).close()
                results[path.stem] = "opened"
            except CgptcError as error:
                results[path.stem] = int(error.exit)
            assert time.process_time() - began < 10, path  # a watchdog; about 0.3 s for the slowest
        print(json.dumps(results))
        """,
        str(tmp_path),
    )
    results = json.loads(printed)
    assert results.keys() == lies().keys()
    assert set(results.values()) <= {4, 5}


@linux
def test_a_sparse_safetensors_file_is_read_in_pieces(tmp_path: Path) -> None:
    rows, row_bytes = 5 << 10, 1 << 20
    size = rows * row_bytes
    header = json.dumps({"big": {"dtype": "F32", "shape": [rows, row_bytes // 4], "data_offsets": [0, size]}}).encode()
    with (tmp_path / "big").open("wb") as file:
        file.write(struct.pack("<Q", len(header)) + header)
        file.truncate(8 + len(header) + size)
    used, printed = peak_mib(
        """
        with open_checkpoint(Path(sys.argv[1])) as checkpoint:
            big = checkpoint.tensors["big"]
            for start in (0, 16, big.row_count // 2, big.row_count - 16):
                block = checkpoint.store.read("big", start, start + 16)
                assert block.shape == (16, 262144) and not block.any()
            print(big.row_count)
        """,
        str(tmp_path / "big"),
    )
    assert int(printed) == rows
    assert used < 48
    assert (tmp_path / "big").stat().st_blocks * 512 < MIB


@linux
def test_a_sparse_state_dict_is_verified_and_read_in_pieces(tmp_path: Path) -> None:
    sparse_state_dict(tmp_path / "big.pt", 256 * MIB)
    used, printed = peak_mib(
        """
        with open_checkpoint(Path(sys.argv[1])) as checkpoint:
            print(checkpoint.store.read("weight", 5, 6).sum(), checkpoint.tensors["weight"].shape)
            checkpoint.verify()
        """,
        str(tmp_path / "big.pt"),
    )
    assert printed == "0.0 (65536, 1024)"
    assert used < 32


@linux
def test_opening_takes_no_memory_for_weights(tmp_path: Path) -> None:
    sparse_state_dict(tmp_path / "big.pt", 8 << 30, crc=0)
    used, _ = peak_mib("open_checkpoint(Path(sys.argv[1])).close(); sniff(Path(sys.argv[1]))", str(tmp_path / "big.pt"))
    assert used < 16


def test_a_header_larger_than_100_megabytes_is_refused_though_the_file_has_it(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(safetensors_bytes({}, length=100_000_001))
    os.truncate(tmp_path / "big", 200_000_000)
    with pytest.raises(MalformedError, match="a header at most 100000000"):
        open_checkpoint(tmp_path / "big")


def write_safetensors(folder: Path) -> Path:
    empty = {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
    (folder / "m").write_bytes(safetensors_bytes(dict.fromkeys("abc", empty)))
    return folder / "m"


def write_index(folder: Path) -> Path:
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys("abc", "1.safetensors")}))
    return folder


def write_state_dict(folder: Path) -> Path:
    torch.save({name: torch.ones(1) for name in "abc"}, folder / "m.pt")
    return folder / "m.pt"


def write_long_ago(folder: Path) -> Path:
    save_legacy({name: torch.ones(1) for name in "abc"}, folder / "m.pt")
    return folder / "m.pt"


@pytest.mark.parametrize(
    ("write", "module"),
    [
        (write_safetensors, "safetensors_file"),
        (write_index, "folder"),
        (write_state_dict, "torch_objects"),
        (write_long_ago, "torch_objects"),
    ],
)
def test_too_many_tensors_are_refused(write: Callable[[Path], Path], module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bound is a million; here it is two, and the files have three."""
    assert TENSOR_COUNT == 1_000_000
    path = write(tmp_path)
    monkeypatch.setattr(f"cgptc.frontend.readers.{module}.TENSOR_COUNT", 2)
    with pytest.raises(MalformedError, match="more than 2"):
        open_checkpoint(path)


def test_the_readers_import_no_torch() -> None:
    code = "import sys, cgptc.frontend.readers; print(sorted({'torch', 'safetensors'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONPATH": "src"})
    assert done.stdout.strip() == "[]"

"""The positive control of the canary search: one leak planted in each kind of place is found by it, and nothing else."""

from __future__ import annotations

import base64
import gzip
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
import zstandard

from nebh.testing.canary import Canary, ProcessWatch, Search, core_dump_settings, descendants


def test_every_spelling_is_found_and_what_is_like_it_is_not() -> None:
    canary, other = Canary(), Canary()
    spellings = {
        "plain": b"x" + canary.value + b"y",
        "hex": canary.value.hex().encode(),
        "HEX": canary.value.hex().upper().encode(),
        "url": canary.value.replace(b"/", b"%2F"),
        "backwards": canary.value[::-1],
    }
    for shift in range(3):
        spellings[f"base64 after {shift}"] = base64.b64encode(b"abc"[:shift] + canary.value + b"tail")
        spellings[f"base64url after {shift}"] = base64.urlsafe_b64encode(b"abc"[:shift] + canary.value + b"tail")
    for name, data in spellings.items():
        search = Search(canary)
        search.text(name, data)
        assert search.leaks, name
        search = Search(other)
        search.text(name, data)
        assert not search.leaks, name


@pytest.mark.parametrize("how", ["plain", "zstd", "gzip", "link", "large", "edge", "name", "sqlite", "wal"])
def test_a_leak_in_a_folder_is_found(tmp_path: Path, how: str) -> None:
    canary = Canary()
    place = tmp_path / "deep" / "er"
    place.mkdir(parents=True)
    (place / "innocent").write_bytes(os.urandom(5000))
    search = Search(canary)
    search.tree("state", tmp_path)
    assert not search.leaks
    held = None
    if how == "plain":
        (place / "file").write_bytes(b"x" * 5000 + canary.value)
    elif how == "zstd":
        (place / "object").write_bytes(zstandard.ZstdCompressor().compress(b"y" * 100 + canary.value))
    elif how == "gzip":
        (place / "log.gz").write_bytes(gzip.compress(b"y" * 100 + canary.value))
    elif how == "link":
        (place / "link").symlink_to(f"to/{canary.value.hex()}")
    elif how in ("large", "edge"):
        with (place / "pool").open("wb") as file:  # as a pool of volumes: large, and mostly holes
            file.truncate(20 << 30)
            file.seek((9 << 30) if how == "large" else (32 << 20) - 7)
            file.write(b"data" * 2000 + canary.value if how == "large" else canary.value)
            if how == "edge":  # over the end of a piece
                file.seek(0)
                file.write(b"x" * ((32 << 20) - 7))
    elif how == "name":
        (place / canary.value.hex()).touch()
    else:
        held = sqlite3.connect(place / "journal.db")
        if how == "wal":
            held.execute("PRAGMA journal_mode=WAL")
        held.execute("CREATE TABLE meta (value BLOB)")
        held.execute("INSERT INTO meta VALUES (?)", (canary.value,))
        held.commit()
    search.tree("state", tmp_path)
    assert search.leaks, how
    assert all(str(tmp_path) in one.place for one in search.leaks)
    if held is not None:
        held.close()


@pytest.mark.parametrize("how", ["argv", "environ"])
def test_a_leak_in_the_process_list_is_found_though_it_is_short(how: str) -> None:
    canary = Canary()
    search = Search(canary)
    with ProcessWatch(search, every=0.01):
        assert not search.leaks
        argv = [
            sys.executable,
            "-c",
            "import time; time.sleep(0.4)",
            *([canary.value.decode()] if how == "argv" else []),
        ]
        env = {"PATH": "/usr/bin", **({"X": canary.value.decode()} if how == "environ" else {})}
        subprocess.run(argv, env=env, check=True)
    assert any(("cmdline" if how == "argv" else "environ") in one.place for one in search.leaks)


def test_core_dumps_of_a_process_that_forbids_them() -> None:
    code = "from nebh.host.core_dumps import forbid_core_dumps as f; f(); import time; print(1, flush=True); time.sleep(30)"
    env = {"PATH": "/usr/bin", "PYTHONPATH": os.pathsep.join(one for one in sys.path if one)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=env) as child:
        try:
            assert child.stdout is not None
            child.stdout.readline()
            assert core_dump_settings(child.pid) == ("0", "00000000")
            Path("/proc/self/coredump_filter").write_text("0x33")  # another test may have forbidden them here
            assert core_dump_settings(os.getpid())[1] == "00000033", "the control"
            assert next(iter(descendants(os.getpid()))) == os.getpid()
        finally:
            child.kill()

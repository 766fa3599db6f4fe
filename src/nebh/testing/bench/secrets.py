"""Opening 100 secrets, beside gpg, which opens as many messages to a key on the same curve."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from nebh.host.run import Command, run
from nebh.model.secret import SealedFor
from nebh.signing.seal import open_box, public_of, seal
from nebh.testing.bench import machine
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Rounds, Settings, in_turns

NAME = "secrets"
TITLE = "Opening 100 secrets"
COUNT, SIZE = 100, 64
_TABLE = "rounds"
_USER = "bench"
_PROGRAM = """
import sys
from pathlib import Path
from nebh.model.secret import SealedFor
from nebh.signing.seal import open_box
folder, private = Path(sys.argv[1]), bytes.fromhex(sys.stdin.read())
for number in range(int(sys.argv[2])):
    to = SealedFor(cluster_id="c" * 32, recipient="d" * 64, service="web", name=f"s{number}", version=1)
    value = open_box((folder / f"{number}.box").read_bytes(), private=private, to=to)
    (folder / f"{number}.value").write_bytes(value)
"""
"""What gpg does with its messages; its imports are what the executor has in memory already."""


def sealed_for(number: int) -> SealedFor:
    """Return what box `number` is bound to."""
    return SealedFor(cluster_id="c" * 32, recipient="d" * 64, service="web", name=f"s{number}", version=1)


def measure(settings: Settings, record: Record) -> None:
    """Fill the record."""
    private = secrets.token_bytes(32)
    values = [secrets.token_bytes(SIZE) for _ in range(COUNT)]
    boxes = [seal(value, public=public_of(private), to=sealed_for(n)) for n, value in enumerate(values)]
    folder = settings.folder / "boxes"
    folder.mkdir()
    for number, box in enumerate(boxes):
        (folder / f"{number}.box").write_bytes(box)
    with contextlib.ExitStack() as stack:
        gpg = None
        if shutil.which("gpg") is None:
            record.skipped["gpg"] = "it is not installed"
        else:
            gpg = stack.enter_context(a_keyring())
            messages = _encrypt(gpg, settings.folder / "messages", values)
            record.facts["gpg"] = _gpg(gpg, "--version").splitlines()[0]
            record.add("exact", message_bytes=sum(path.stat().st_size for path in messages))
        for number in Rounds(settings, usual=40, quick=2):
            took: dict[str, float] = {}
            in_turns(number, partial(_open, took, boxes, private, values), partial(_nothing, took))
            if gpg is not None:
                in_turns(number, partial(_program, took, folder, private), partial(_decrypt, took, gpg, messages))
            record.add(_TABLE, round=number, pressure=machine.pressure(), **took)
    record.add("exact", box_bytes=sum(map(len, boxes)))
    _figures(record)


def _figures(record: Record) -> None:
    for name, what in (
        ("open", "open 100 boxes, as the executor does"),
        ("nothing", "a Python that does nothing"),
        ("program", "a Python that opens 100 files into 100 files, start to end"),
        ("gpg", "one gpg that decrypts 100 files into 100 files, its agent running"),
    ):
        record.figure(name, what, table=_TABLE, columns=(name,))
    record.figure(
        "gpg_ratio", "our program / gpg", unit="x", table=_TABLE, columns=("program", "gpg"), statistic="ratio"
    )
    for name, what in (("box_bytes", "bytes of 100 boxes"), ("message_bytes", "bytes of gpg's 100 messages")):
        record.figure(name, f"{what} of {SIZE} bytes each", unit="", table="exact", columns=(name,))


def _open(took: dict[str, float], boxes: list[bytes], private: bytes, values: list[bytes]) -> None:
    begin = time.perf_counter()
    found = [open_box(box, private=private, to=sealed_for(number)) for number, box in enumerate(boxes)]
    took["open"] = (time.perf_counter() - begin) * 1000
    assert found == values


def _nothing(took: dict[str, float]) -> None:
    begin = time.perf_counter()
    run(Command(argv=(sys.executable, "-s", "-c", "pass")))
    took["nothing"] = (time.perf_counter() - begin) * 1000


def _program(took: dict[str, float], folder: Path, private: bytes) -> None:
    env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    begin = time.perf_counter()
    run(
        Command(
            argv=(sys.executable, "-s", "-c", _PROGRAM, str(folder), f"{COUNT}"), stdin=private.hex().encode(), env=env
        )
    )
    took["program"] = (time.perf_counter() - begin) * 1000
    assert len(list(folder.glob("*.value"))) == COUNT


def _decrypt(took: dict[str, float], home: Path, messages: list[Path]) -> None:
    begin = time.perf_counter()
    _gpg(home, "--yes", "--decrypt-files", *map(str, messages))
    took["gpg"] = (time.perf_counter() - begin) * 1000
    assert messages[-1].with_suffix("").stat().st_size == SIZE


@contextlib.contextmanager
def a_keyring() -> Iterator[Path]:
    """Give a keyring with one Curve25519 key and no passphrase, its agent running; nothing of it stays."""
    home = Path(tempfile.mkdtemp(prefix="nt-gpg-", dir="/tmp"))  # its sockets need a short name
    try:
        _gpg(home, "--passphrase", "", "--quick-generate-key", _USER, "future-default", "default", "never")
        yield home
    finally:
        run(Command(argv=("gpgconf", "--homedir", str(home), "--kill", "all"), accept=tuple(range(256))))
        shutil.rmtree(home, ignore_errors=True)


def _encrypt(home: Path, folder: Path, values: list[bytes]) -> list[Path]:
    folder.mkdir()
    plain = [folder / f"{number}.value" for number in range(COUNT)]
    for path, value in zip(plain, values, strict=True):
        path.write_bytes(value)
    _gpg(home, "--trust-model", "always", "--recipient", _USER, "--encrypt-files", *map(str, plain))
    return [path.with_name(f"{path.name}.gpg") for path in plain]


def _gpg(home: Path, *words: str) -> str:
    return run(Command(argv=("gpg", "--homedir", str(home), "--batch", "--quiet", *words), timeout=120.0)).text

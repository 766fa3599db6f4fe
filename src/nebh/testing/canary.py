"""A value that stands nowhere else, and a search for it in everything that Nebh writes, prints and runs.

A search is worth what it finds: each place is searched by the same function that a test has found a planted leak with.
"""

from __future__ import annotations

import base64
import contextlib
import os
import secrets
import threading
import urllib.parse
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import zstandard

_LARGEST = 256 << 20
_PIECE = 32 << 20
_ZSTD = b"\x28\xb5\x2f\xfd"
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Leak:
    """Where a canary was found, and as what (plain, hex, base64...)."""

    place: str
    form: str

    def __str__(self) -> str:
        return f"{self.place}: {self.form}"


def _random() -> bytes:
    return f"kAnaRy/{secrets.token_hex(12)}".encode()


@dataclass(frozen=True)
class Canary:
    """A random value. forms: by name every spelling that is searched for."""

    value: bytes = field(default_factory=_random)

    @property
    def forms(self) -> dict[str, bytes]:
        """Return the spellings: as it is, in hex, in base64 at each of its three alignments, quoted for URLs."""
        found = {
            "plain": self.value,
            "hex": self.value.hex().encode(),
            "HEX": self.value.hex().upper().encode(),
            "url": urllib.parse.quote(self.value, safe="").encode(),
            "backwards": self.value[::-1],
        }
        for shift in range(3):
            # the letters that its neighbours take part in are cut off
            coded = base64.b64encode(bytes(shift) + self.value)[4 if shift else 0 : -4]
            found[f"base64+{shift}"] = coded
            found[f"base64url+{shift}"] = coded.replace(b"+", b"-").replace(b"/", b"_")
        return found


class Search:
    """Looks for canaries; `leaks` grows."""

    def __init__(self, *canaries: Canary) -> None:
        self._needles = [(name, data) for one in canaries for name, data in one.forms.items()]
        self.leaks: list[Leak] = []
        self.places = 0
        self.bytes = 0

    def text(self, place: str, data: bytes | str) -> None:
        """Look into an output, an answer, an event."""
        data = data.encode() if isinstance(data, str) else data
        self.places += 1
        self.bytes += len(data)
        for form, needle in self._needles:
            if needle in data:
                self.leaks.append(Leak(place, form))

    def tree(self, name: str, root: Path) -> None:
        """Look into names and contents of all regular files below a folder, into
        what links lead to, and into what is compressed (zstd, gzip). What is encrypted shows nothing, and should not."""
        for folder, folders, files in os.walk(root):
            for one in (*folders, *files):
                self.text(f"{name}: a name in {folder}", one)
            for one in files:
                path = Path(folder, one)
                with contextlib.suppress(OSError):
                    if path.is_symlink():
                        self.text(f"{name}: the link {path}", os.fsencode(path.readlink()))
                    elif path.is_file() and path.stat().st_size <= _LARGEST:
                        self._file(f"{name}: {path}", path.read_bytes())
                    elif path.is_file():
                        self._large(f"{name}: {path}", path)

    def _file(self, place: str, data: bytes) -> None:
        self.text(place, data)
        if data.startswith(_ZSTD):
            with contextlib.suppress(zstandard.ZstdError):
                self.text(f"{place} (zstd)", zstandard.ZstdDecompressor().decompressobj().decompress(data))
        if data.startswith(_GZIP):
            with contextlib.suppress(zlib.error):
                self.text(f"{place} (gzip)", zlib.decompressobj(wbits=31).decompress(data))

    def _large(self, place: str, path: Path) -> None:
        """Look into a file that memory is too small for, such as a pool of volumes: piece by piece, over its holes."""
        longest = max(len(needle) for _, needle in self._needles)
        with path.open("rb") as file:
            end, start = os.fstat(file.fileno()).st_size, 0
            while start < end:
                try:
                    start = os.lseek(file.fileno(), start, os.SEEK_DATA)
                except OSError:  # nothing but a hole is left
                    return
                piece = os.pread(file.fileno(), _PIECE + longest, start)
                self.text(f"{place} from byte {start} on", piece)
                start += _PIECE

    def processes(self, *, leave_out: Iterable[int] = ()) -> None:
        """Look into command lines and environments of every process of this machine. leave_out: pids."""
        skipped = {str(pid) for pid in leave_out}
        for folder in Path("/proc").glob("[0-9]*"):
            if folder.name in skipped:
                continue
            for name in ("cmdline", "environ"):
                with contextlib.suppress(OSError):
                    self.text(f"process list: {folder.name} {name}", (folder / name).read_bytes())


class ProcessWatch:
    """Looks into the process list again and again while something goes on."""

    def __init__(self, search: Search, *, every: float = 0.05, leave_out: Iterable[int] = ()) -> None:
        self._search, self._every, self._leave_out = search, every, tuple(leave_out)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._ended.wait(self._every):
            self._search.processes(leave_out=self._leave_out)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join(30)


def core_dump_settings(pid: int) -> tuple[str, str]:
    """Return (soft limit of core files, filter of what a dump would hold) of a process."""
    lines = Path(f"/proc/{pid}/limits").read_text(encoding="ascii").splitlines()
    limit = next(line.split()[4] for line in lines if line.startswith("Max core file size"))
    return limit, Path(f"/proc/{pid}/coredump_filter").read_text(encoding="ascii").strip()


def descendants(pid: int) -> Iterator[int]:
    """Yield a process and all below it."""
    yield pid
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text(encoding="ascii").split():
                yield from descendants(int(child))

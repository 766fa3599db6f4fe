"""Debian packages without installing them: apt resolves and verifies, we only read the archives."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Iterator
from pathlib import Path

from nebh.host.run import Command, run

MERGED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")


def fetch_packages(packages: tuple[str, ...], *, cache: Path) -> tuple[Path, ...]:
    """Download `packages` and all they depend on; return the archives, sorted. apt's state lives in `cache` alone:
    nothing of this machine's package database is read or changed. Raises CommandFailed."""
    cache = cache.resolve()
    archives = cache / "archives"
    for folder in (cache / "lists" / "partial", archives / "partial", cache / "none" / "partial", cache / "state"):
        folder.mkdir(parents=True, exist_ok=True)
    (cache / "status").write_bytes(b"")
    options = (
        f"Dir::State={cache}/state",
        f"Dir::State::lists={cache}/lists",
        f"Dir::State::status={cache}/status",
        f"Dir::Cache={cache}",
        "Acquire::Languages=none",
        "APT::Sandbox::User=",
        "APT::Install-Recommends=false",
    )
    apt = ("apt-get", "-q", *(word for option in options for word in ("-o", option)))
    run(Command(argv=(*apt, "update"), timeout=300.0))
    # --print-uris leaves out what is downloaded already: it is asked with an empty folder in its place
    listing = (*apt, "-o", f"Dir::Cache::archives={cache}/none", "--print-uris", "-y", "install", *packages)
    wanted = run(Command(argv=listing, timeout=120.0)).text
    run(Command(argv=(*apt, "--download-only", "-y", "install", *packages), timeout=600.0))
    return tuple(archives / name for name in sorted(line.split()[1] for line in wanted.splitlines() if line[:1] == "'"))


def read_members(archive: Path) -> Iterator[tuple[str, tarfile.TarInfo, bytes]]:
    """Yield path (relative, with /bin, /lib and so on led into usr), header and content of a package's files."""
    data = run(Command(argv=("dpkg-deb", "--fsys-tarfile", str(archive)), timeout=120.0)).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            path = member.name.removeprefix("./").strip("/")
            top, slash, rest = path.partition("/")
            if slash and top in MERGED:
                path = f"usr/{top}/{rest}"
            if member.isfile():
                file = tar.extractfile(member)
                yield path, member, file.read() if file else b""
            elif member.issym() or member.islnk():
                yield path, member, b""

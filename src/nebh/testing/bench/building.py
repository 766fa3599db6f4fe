"""Building images and laying them out: how long, how large, and what ten releases take on a node's disk."""

from __future__ import annotations

import os
import shutil
import sys
import time
from pathlib import Path

from nebh.host.run import Command, CommandFailed, run
from nebh.images.cache import ImageCache
from nebh.images.declared.builder import Builder
from nebh.images.declared.lock import write_lock
from nebh.images.store import NodeStore
from nebh.model.errors import NotFound
from nebh.model.image import EntryType, TreeManifest
from nebh.spec.image import parse_image
from nebh.testing.bench import cold_build
from nebh.testing.bench.images import declare
from nebh.testing.bench.many_files import fill
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Rounds, Settings
from nebh.testing.bench.status import total_calls
from nebh.testing.built_images import build_file, builder_of, lock_of

NAME = "building"
TITLE = "Images: building and laying out"
EXAMPLES = Path("examples/images")


def measure(settings: Settings, record: Record) -> None:
    """Fill the record. Needs Debian's archive and the Python index."""
    _rebuild(settings, record)
    cold_build.measure(settings, record)
    _examples(settings, record)
    _lay_out(settings, record)
    _figures(record)


def _rebuild(settings: Settings, record: Record) -> None:
    """Edit one line and build again, by the command; and build with nothing unpacked yet."""
    project = settings.folder / "rebuild"
    text = declare(project, ("flask==3.0.3", "waitress==3.0.2")) + "reduce: closure\n"
    declared = parse_image(text, file="image.yaml", base=str(project))
    builder = builder_of(settings.folder / "cache")
    lock = lock_of(declared, builder)
    (project / "image.yaml").write_text(text)
    write_lock(project / "image.lock", lock)
    for number in range(settings.rounds(3, 1)):
        fresh = settings.folder / f"cold{number}"
        fresh.mkdir()
        begin = time.perf_counter()
        cold = Builder(
            ImageCache(fresh), progress=lambda _: None, unwanted=builder.unwanted, downloads=builder.downloads
        )
        cold.build(declared, lock)
        record.add("cold", round=number, ms=(time.perf_counter() - begin) * 1000)
        shutil.rmtree(fresh)
    words = (sys.executable, "-P", "-m", "nebh.programs.nebh", "image", "build", "--quiet", str(project / "image.yaml"))
    env = {**_python(), "HOME": str(settings.folder), "NEBH_CACHE": str(settings.folder / "cache")}
    run(Command(argv=words, env=env, timeout=300.0))
    for number in Rounds(settings, usual=20, quick=3):
        with (project / "app" / "main.py").open("a") as file:
            file.write(f"# {number}\n")
        begin = time.perf_counter()
        run(Command(argv=(*words, "--refresh"), env=env, timeout=300.0))
        record.add("rebuild", round=number, ms=(time.perf_counter() - begin) * 1000)


def _examples(settings: Settings, record: Record) -> None:
    """Build the declared images of examples/ and note their sizes."""
    for path in sorted(EXAMPLES.glob("*/image.yaml"))[: 2 if settings.quick else None]:
        built, _ = build_file(path, cache=settings.folder / "examples")
        files = sum(1 for one in built.report.manifest.entries if one.type is EntryType.FILE)
        sizes = {"size": built.report.ref.bytes / (1 << 20), "whole": built.whole[1] / (1 << 20)}
        record.add("examples", example=path.parent.name, files=files, **sizes)


def _lay_out(settings: Settings, record: Record) -> None:
    """Materialise 10,000 files whose contents are there, and count what ten releases that differ in one file take."""
    store, manifests = _fill_store(settings.folder / "store")
    for number in Rounds(settings, usual=15, quick=3):
        digest = manifests[0][0]
        begin = time.perf_counter()
        store.materialise(digest, manifests[0][1], durable=False)
        record.add("layout", round=number, ms=(time.perf_counter() - begin) * 1000)
        store.remove_tree(digest)
    try:
        record.add("exact", syscalls=_calls_of_layout(settings.folder, manifests[0][0]))
    except NotFound as error:
        record.skipped["system calls of laying out"] = str(error)
    for digest, manifest in manifests:
        store.materialise(digest, manifest, durable=False)
    one = sum(_blocks(entry.size) for entry in manifests[0][1].entries if entry.type is EntryType.FILE)
    overlay = one + sum(_blocks(manifest.entries[0].size) for _, manifest in manifests[1:])
    record.add(
        "releases",
        nebh=_taken(settings.folder / "store") / 1024,
        overlay=overlay / 1024,
        copies=one * len(manifests) / 1024,
    )


def _fill_store(root: Path) -> tuple[NodeStore, list[tuple[str, TreeManifest]]]:
    root.mkdir()
    store = NodeStore(root)
    return store, fill(store, releases=10)


def _calls_of_layout(folder: Path, digest: str) -> int:
    """Return how many system calls laying out takes: of a program that does it, less those of one that does not. Raises
    NotFound without strace."""
    counted = []
    for words in ((digest,), ()):
        out = folder / "strace"
        argv = ("strace", "-f", "-c", "-o", str(out), sys.executable, "-P", "-m", "nebh.testing.bench.many_files")
        try:
            run(Command(argv=(*argv, str(folder / "store"), *words), env=_python(), timeout=300.0))
        except CommandFailed as error:
            raise NotFound(f"strace cannot count here: {error.stderr.strip()[-200:]}") from error
        counted.append(total_calls(out))
    return counted[0] - counted[1]


def _python() -> dict[str, str]:
    return {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}


def _blocks(size: int) -> int:
    return -(-size // 4096) * 4096


def _taken(root: Path) -> int:
    seen: set[int] = set()
    total = 0
    for path in root.rglob("*"):
        state = path.lstat()
        if state.st_ino not in seen:
            seen.add(state.st_ino)
            total += state.st_blocks * 512
    return total


def _figures(record: Record) -> None:
    for name in sorted({str(row["example"]) for row in record.tables.get("examples", [])}):
        for column, text in (("size", "the image"), ("whole", "all sources of it, nothing left away")):
            where, what = {"example": name}, f"examples/images/{name}: {text}"
            record.figure(f"{name}_{column}", what, unit="MiB", table="examples", columns=(column,), where=where)
    record.figure("rebuild", "one line edited -> built again (the command)", table="rebuild", columns=("ms",), aim=1000)
    record.figure("cold", "built from fetched packages, nothing unpacked before", table="cold", columns=("ms",))
    record.figure("layout", "10,000 files there -> laid out as a root file system", table="layout", columns=("ms",))
    record.figure("syscalls", "system calls of that", unit="", table="exact", columns=("syscalls",))
    for way, text in (("nebh", "Nebh"), ("overlay", "overlay layers"), ("copies", "a copy each")):
        what = f"ten releases of 10,000 files that differ in one: {text}"
        record.figure(f"releases_{way}", what, unit="KiB", table="releases", columns=(way,))
    record.notes += [
        "Edited and built again: an image like examples/images/python-web, with 50 files of its own; packages are in the cache.",
        "The 10,000 files have 2,000 different contents of 10 KiB at most; a node keeps each once, layers each file.",
    ]
    cold_build.add_figures(record)

"""Bytes on their way to the controller: Docker's layers, whole files, ours; for changes that people make, and for what
two applications really published. Also how fast an image is built again and laid out, and what ten releases take."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from nebh.host.run import Command, run
from nebh.images.cache import ImageCache
from nebh.images.declared.builder import Builder, Built
from nebh.images.declared.commands import write_tree
from nebh.images.declared.lock import make_lock, write_lock
from nebh.images.store import NodeStore
from nebh.model.image import EntryType, TreeManifest
from nebh.spec.image import parse_image
from nebh.testing.bench.layers import folder_layer, tree_layer, whole_files
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Rounds, Settings, a_cloud
from nebh.testing.built_images import builder_of, lock_of
from nebh.testing.cloud import Cloud

NAME = "images"
TITLE = "Images: bytes that move"
SITE = "usr/local/lib/python3.11/dist-packages"
OLD = ("numpy==2.2.6", "pandas==2.2.2", "matplotlib==3.9.2", "scikit-learn==1.5.2", "flask==3.0.3")
NEW = ("numpy==2.2.6", "pandas==2.2.3", "matplotlib==3.9.2", "scikit-learn==1.5.2", "flask==3.0.3")
HISTORY = {
    "datasette": ("0.65", "0.65.1", "0.65.2", "0.65.3", "0.65.4", "0.65.5"),
    "locust": ("2.46.2", "2.46.3", "2.46.4", "2.46.5", "2.46.6", "2.46.7"),
}
WAYS = {"docker": "Docker's layers", "files": "whole files", "nebh": "Nebh"}
STEPS = {
    "first": "first push",
    "edit": "one file of the application edited",
    "bump": "one dependency bumped, its layer built anew",
    "again": "the same layer built anew: every .pyc has another time in it",
}
_DAY = 86_400
_TEXT = """packages: [python3]
python: {{requirements: [{requirements}]}}
files: [{{from: app, to: /app}}]
entrypoint: [/usr/bin/python3, /app/main.py]
"""


class Pushed:
    """Pushes to one controller and counts what the same would cost others."""

    def __init__(self, cloud: Cloud, record: Record, *, table: str) -> None:
        self.cloud, self.record, self.table = cloud, record, table
        self.cache = ImageCache(cloud.folder / "cache")
        self.known: set[str] = set()

    def push(self, step: str, source: str, *, docker: int, **more: str) -> TreeManifest:
        """Push an image and keep a row."""
        told = self.cloud.nebh_json("image", "push", source)
        data = self.cache.manifest_bytes(told["digest"])
        manifest = self.cache.manifest(told["digest"])
        sizes = {entry.sha256: entry.size for entry in manifest.entries}
        self.record.add(
            self.table,
            step=step,
            docker=docker / 1024,
            files=whole_files(manifest, data, self.cache.objects, known=self.known) / 1024,
            nebh=told["sent"] / 1024,
            objects=told["objects"],
            patched=told["patched"],
            image_mib=sum(sizes.values()) / (1 << 20),
            entries=len(manifest.entries),
            manifest=len(data) / 1024,
            **more,
        )
        return manifest


def measure(settings: Settings, record: Record) -> None:
    """Fill the record. Needs Debian's archive and the Python index."""
    with a_cloud() as cloud:
        _changes(settings, record, cloud)
        for name, versions in HISTORY.items():
            _history(settings, record, cloud, name, versions[:2] if settings.quick else versions)
        _rebuild(settings, record, cloud)
    _lay_out(settings, record)
    _figures(record)


def _declare(folder: Path, requirements: tuple[str, ...]) -> str:
    """Write an application of 50 files into `folder` where there is none; return its declaration."""
    app = folder / "app"
    if not app.exists():
        app.mkdir(parents=True)
        for number in range(49):
            (app / f"part{number:02}.py").write_text(f"def part():\n    return {number}\n" * 40)
        (app / "main.py").write_text("import part00\n\nprint(part00.part())\n")
    return _TEXT.format(requirements=", ".join(requirements))


def _build(folder: Path, builder: Builder, requirements: tuple[str, ...]) -> Built:
    declared = parse_image(_declare(folder, requirements), file="image.yaml", base=str(folder))
    lock = make_lock(declared, layers=builder.layers, downloads=builder.downloads, progress=lambda _: None)
    return builder.build(declared, lock)


def _lay_down(built: Built, cache: ImageCache, root: Path, *, day: int) -> None:
    """Write an image as `pip install` on a certain day would have left it: times of that day, everything compiled."""
    if root.exists():
        shutil.rmtree(root)
    root.mkdir(parents=True)
    write_tree(built.report.manifest, cache.objects, root)
    site = root / SITE
    for path in site.rglob("*.py"):
        os.utime(path, (1_700_000_000 + day * _DAY,) * 2)
    words = ("-m", "compileall", "-q", "-s", str(root), "-p", "/", str(site))
    run(Command(argv=("python3.11", *words), timeout=900.0, accept=(0, 1)))


def _changes(settings: Settings, record: Record, cloud: Cloud) -> None:
    pushed = Pushed(cloud, record, table="changes")
    builder = builder_of(cloud.folder / "cache")
    project, root = settings.folder / "project", settings.folder / "root"
    old, new = (OLD[-1:], ("flask==3.0.2",)) if settings.quick else (OLD, NEW)
    is_app: Callable[[str], bool] = lambda name: name.startswith("app")  # noqa: E731 - three layers, three lines
    is_site: Callable[[str], bool] = lambda name: name.startswith(SITE)  # noqa: E731
    _lay_down(_build(project, builder, old), pushed.cache, root, day=0)
    base = folder_layer(root, lambda name: not is_app(name) and not is_site(name))
    layers = {"site": folder_layer(root, is_site), "app": folder_layer(root, is_app)}
    pushed.push("first", f"dir:{root}", docker=base + layers["site"] + layers["app"])
    with (root / "app" / "part07.py").open("a") as file:
        file.write("\n\nEDITED = True\n")
    pushed.push("edit", f"dir:{root}", docker=folder_layer(root, is_app))
    for step, requirements, day in (("bump", new, 1), ("again", new, 2)):
        _lay_down(_build(project, builder, requirements), pushed.cache, root, day=day)
        shutil.copytree(project / "app", root / "app", dirs_exist_ok=True)
        pushed.push(step, f"dir:{root}", docker=folder_layer(root, is_site))
    shutil.rmtree(root)


def _history(settings: Settings, record: Record, cloud: Cloud, name: str, versions: tuple[str, ...]) -> None:
    """Push one image per version; a Docker image of it would have the application and what it needs in one layer."""
    pushed = Pushed(cloud, record, table="history")
    builder = builder_of(cloud.folder / "cache")
    project = settings.folder / name
    for number, version in enumerate(versions):
        built = _build(project, builder, (f"{name}=={version}",))
        entries = built.report.manifest.entries
        layer = tree_layer([one for one in entries if one.path.startswith(SITE)], pushed.cache.objects)
        if number == 0:
            layer += tree_layer([one for one in entries if not one.path.startswith(SITE)], pushed.cache.objects)
        step = "first" if number == 0 else "version"
        pushed.push(step, built.report.digest, docker=layer, application=name, version=version)


def _rebuild(settings: Settings, record: Record, cloud: Cloud) -> None:
    """Edit one line and build again, by the command; and build with nothing unpacked yet."""
    project = settings.folder / "rebuild"
    text = _declare(project, ("flask==3.0.3", "waitress==3.0.2")) + "reduce: closure\n"
    declared = parse_image(text, file="image.yaml", base=str(project))
    builder = builder_of(cloud.folder / "cache")
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
    cloud.nebh("image", "build", str(project / "image.yaml"))
    for number in Rounds(settings, usual=20, quick=3):
        with (project / "app" / "main.py").open("a") as file:
            file.write(f"# {number}\n")
        begin = time.perf_counter()
        cloud.nebh("image", "build", "--refresh", str(project / "image.yaml"))
        record.add("rebuild", round=number, ms=(time.perf_counter() - begin) * 1000)


def _lay_out(settings: Settings, record: Record) -> None:
    """Materialise 10,000 files whose contents are there, and count what ten releases that differ in one file take."""
    store, manifests = _fill_store(settings.folder / "store")
    for number in Rounds(settings, usual=15, quick=3):
        digest = manifests[0][0]
        begin = time.perf_counter()
        store.materialise(digest, manifests[0][1], durable=False)
        record.add("layout", round=number, ms=(time.perf_counter() - begin) * 1000)
        store.remove_tree(digest)
    calls = _calls_of_layout(settings.folder, manifests[0][0])
    if calls:
        record.add("exact", syscalls=calls)
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
    from nebh.testing.bench.many_files import fill

    root.mkdir()
    store = NodeStore(root)
    return store, fill(store, releases=10)


def _calls_of_layout(folder: Path, digest: str) -> int:
    """Return how many system calls laying out takes: of a program that does it, less those of one that does not."""
    from nebh.testing.bench.status import total_calls

    counted = []
    for words in ((digest,), ()):
        out = folder / "strace"
        argv = ("strace", "-f", "-c", "-o", str(out), sys.executable, "-P", "-m", "nebh.testing.bench.many_files")
        env = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONDONTWRITEBYTECODE": "1"}
        try:
            run(Command(argv=(*argv, str(folder / "store"), *words), env=env, timeout=300.0))
        except OSError:
            return 0
        counted.append(total_calls(out))
    return counted[0] - counted[1]


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
    for step, text in STEPS.items():
        for way, name in WAYS.items():
            aim = 64.0 if (step, way) == ("edit", "nebh") else None
            where = {"step": step}
            record.figure(
                f"{step}_{way}", f"{text}: {name}", unit="KiB", table="changes", columns=(way,), where=where, aim=aim
            )
        aim = 0.02 if step in ("bump", "again") else None
        columns = ("nebh", "docker")
        record.figure(
            f"{step}_ratio",
            f"{text}: Nebh / Docker",
            unit="x",
            table="changes",
            columns=columns,
            statistic="ratio",
            where={"step": step},
            aim=aim,
        )
    for name in HISTORY:
        for way, text in WAYS.items():
            record.figure(
                f"{name}_{way}",
                f"{name}, from one published version to the next: {text}",
                unit="KiB",
                table="history",
                columns=(way,),
                where={"application": name, "step": "version"},
            )
    record.figure("rebuild", "one line edited -> built again (the command)", table="rebuild", columns=("ms",), aim=1000)
    record.figure("cold", "built from fetched packages, nothing unpacked before", table="cold", columns=("ms",))
    record.figure("layout", "10,000 files there -> laid out as a root file system", table="layout", columns=("ms",))
    record.figure("syscalls", "system calls of that", unit="", table="exact", columns=("syscalls",))
    for way, text in (("nebh", "Nebh"), ("overlay", "overlay layers"), ("copies", "a copy each")):
        what = f"ten releases of 10,000 files that differ in one: {text}"
        record.figure(f"releases_{way}", what, unit="KiB", table="releases", columns=(way,))
    record.notes += [
        """Docker's layers: tar.gz at its level, one layer each for Debian's packages, Python's packages and the application.
Whole files: each new content by zstd, and the list of files by zstd. Nebh: bodies of all uploads.""",
        f"The image: python3 of Debian 12 with {', '.join(OLD)}, all compiled; bumped: {NEW[1]}.",
        """History: images as `nebh image build` makes them, without .pyc; what the applications need is as the index has it on
the day of measuring.""",
    ]
    record.skipped["`docker build` of the same packages"] = "no image of Debian is at hand for it to begin with"

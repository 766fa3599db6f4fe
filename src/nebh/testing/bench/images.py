"""Bytes on their way to the controller: Docker's layers, whole files, ours; for changes that people make, and for what
two applications really published. And the memory that large files take on their way."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from nebh.host.run import Command, run
from nebh.images.cache import ImageCache
from nebh.images.declared.builder import Builder, Built
from nebh.images.declared.commands import write_tree
from nebh.images.declared.lock import make_lock
from nebh.model.image import TreeManifest
from nebh.spec.image import parse_image
from nebh.testing.bench import large_files
from nebh.testing.bench.layers import folder_layer, tree_layer, whole_files
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Settings, a_cloud
from nebh.testing.bench.wire import Wire, packs_of, shares
from nebh.testing.built_images import builder_of
from nebh.testing.cloud import Cloud

NAME = "images"
TITLE = "Images: bytes that move, and memory"
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
PARTS = {
    "moved": "a first push, everything on its connection, both ways",
    "contents": "of that contents of files",
    "manifest": "of that the list of files",
    "heads": "of that what the packs say of each content",
    "requests": "of that heads of requests, and requests that ask",
    "answers": "of that the controller's answers",
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
        with Wire(self.cloud.layout.controller_socket) as wire:
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
            up=wire.up / 1024,
            down=wire.down / 1024,
            **more,
        )
        if (self.table, step) == ("changes", "first"):
            packs = packs_of(manifest, data, told["digest"], self.cache.objects)
            row = shares(sent=told["sent"], up=wire.up, down=wire.down, packs=packs)
            self.record.add("metadata", plain=sum(sizes.values()) / 1024, **row)
        return manifest


def measure(settings: Settings, record: Record) -> None:
    """Fill the record. Needs Debian's archive and the Python index."""
    with a_cloud() as cloud:
        _changes(settings, record, cloud)
        for name, versions in HISTORY.items():
            _history(settings, record, cloud, name, versions[:2] if settings.quick else versions)
    large_files.measure(settings, record)
    _figures(record)


def declare(folder: Path, requirements: tuple[str, ...]) -> str:
    """Write an application of 50 files into `folder` where there is none; return its declaration."""
    app = folder / "app"
    if not app.exists():
        app.mkdir(parents=True)
        for number in range(49):
            (app / f"part{number:02}.py").write_text(f"def part():\n    return {number}\n" * 40)
        (app / "main.py").write_text("import part00\n\nprint(part00.part())\n")
    return _TEXT.format(requirements=", ".join(requirements))


def _build(folder: Path, builder: Builder, requirements: tuple[str, ...]) -> Built:
    declared = parse_image(declare(folder, requirements), file="image.yaml", base=str(folder))
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


def _metadata_figures(record: Record) -> None:
    for name, text in PARTS.items():
        record.figure(f"first_{name}", text, unit="KiB", table="metadata", columns=(name,))
    shared = {"table": "metadata", "unit": "x", "statistic": "ratio"}
    what = "what is not contents / "
    record.figure("metadata", f"{what}all that a first push moves", columns=("metadata", "moved"), limit=0.02, **shared)
    record.figure("metadata_plain", f"{what}the image's contents, plain", columns=("metadata", "plain"), **shared)


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
    _metadata_figures(record)
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
    large_files.add_figures(record)
    record.notes += [
        """Docker's layers: tar.gz at its level, one layer each for Debian's packages, Python's packages and the application.
Whole files: each new content by zstd, and the list of files by zstd. Nebh: bodies of all uploads.""",
        """Contents: what the same upload streams would take if they held contents and nothing else. All the rest of what goes
over the connection, to the controller and back, is counted as metadata.""",
        f"The image: python3 of Debian 12 with {', '.join(OLD)}, all compiled; bumped: {NEW[1]}.",
        """History: images as `nebh image build` makes them, without .pyc; what the applications need is as the index has it on
the day of measuring.""",
    ]

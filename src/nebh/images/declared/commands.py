"""Build commands: the tree is written into a folder, the commands run there, only the declared outputs come back."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Final

from nebh.host.build_sandbox import Bounds, BuildSandbox, give_to_builder, sandbox_folder
from nebh.images.cache import ImageCache
from nebh.images.declared.assembly import Tree
from nebh.images.declared.globs import Globs
from nebh.images.declared.layer import Layer, LayerCache
from nebh.images.declared.readers import read_path
from nebh.images.declared.slices import load_slices
from nebh.images.manifest import digest_manifest, encode_manifest
from nebh.images.objects import ObjectFolder
from nebh.model.build import BuildStep
from nebh.model.errors import BadInput, Conflict, Failed
from nebh.model.image import EntryType, TreeEntry, TreeManifest
from nebh.wire import codec

# One time for every file that commands can see, and for what they ask the clock of: archives become the same bytes.
_EPOCH: Final = 1_000_000_000
_ENV: Final = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
    "HOME": "/tmp",
    "LANG": "C.UTF-8",
    "TZ": "UTC",
    "SOURCE_DATE_EPOCH": str(_EPOCH),
}
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE: Final = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


def run_commands(
    step: BuildStep,
    tree: Tree,
    *,
    cache: ImageCache,
    layers: LayerCache,
    progress: Callable[[str], None],
    may_run: bool = True,
) -> list[tuple[Layer, str]]:
    """Return the outputs, each with its place in the image. Commands that ran before on the same tree do not run again.
    Raises Failed for a command that fails or goes over its bounds, BadInput for an output that is not there,
    Conflict when commands would have to run and may not."""
    _add_links(tree)
    manifest = tree.manifest()
    key = _digest(step, manifest)
    known = [layers.known(f"built{index}", key) for index in range(len(step.outputs))]
    if all(known):
        return [(layer, one.to) for layer, one in zip(known, step.outputs, strict=True) if layer is not None]
    if not may_run:
        raise Conflict(
            "cannot run build commands here: this machine is a node that serves, a build would take its memory and CPU",
            hint="build on another computer, or tell it to: `nebh image build --on-node`",
        )
    with sandbox_folder() as folder:
        progress("preparing the sandbox")
        root = folder / "root"
        root.mkdir(mode=0o755)
        write_tree(manifest, cache.objects, root)
        give_to_builder(root)
        used = sum(entry.size + 4096 for entry in manifest.entries)
        deadline = time.monotonic() + step.timeout / 1000
        for line in step.run:
            progress(f"running {line}")
            bounds = Bounds(
                memory=step.memory, disk=step.disk + used, cpu=step.cpu, seconds=max(0.1, deadline - time.monotonic())
            )
            sandbox = BuildSandbox(root=root, bounds=bounds, env={**_ENV, **step.env})
            end = sandbox.run(("/bin/sh", "-e", "-u", "-c", line), heard=lambda text: progress(f"  {text[:200]}"))
            if end.status or end.reason:
                said = "\n".join(end.tail.strip().splitlines()[-15:])
                raise Failed(
                    f"cannot build: `{line}` {end.reason or f'ended with status {end.status}'}"
                    + (f"\n{said}" if said else ""),
                    hint="commands have no network and see nothing of this machine; `build` declares what they need",
                )
        return [
            (_read_output(root, one.source, layers, kind=f"built{index}", key=key), one.to)
            for index, one in enumerate(step.outputs)
        ]


def write_tree(manifest: TreeManifest, objects: ObjectFolder, root: Path) -> None:
    """Write a valid manifest's tree below the empty folder `root`, owned by the sandbox's user. A valid manifest has
    canonical paths, each below folders of its own."""
    folders = []
    for entry in manifest.entries:
        path = root / entry.path
        if entry.type is EntryType.DIRECTORY:
            path.mkdir(mode=0o755)
            folders.append(path)
        elif entry.type is EntryType.LINK:
            path.symlink_to(entry.target)
        else:
            _write_file(entry, objects, path)
        give_to_builder(path)
    for path in reversed(folders):
        os.utime(path, (_EPOCH, _EPOCH))


def _write_file(entry: TreeEntry, objects: ObjectFolder, path: Path) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        source = objects.open(entry.sha256) if entry.size else -1
        try:
            left = entry.size
            while left and (done := os.copy_file_range(source, descriptor, left)):
                left -= done
        finally:
            if source >= 0:
                os.close(source)
        os.fchmod(descriptor, entry.mode)
        os.utime(descriptor, (_EPOCH, _EPOCH))
    finally:
        os.close(descriptor)


def _read_output(root: Path, source: str, layers: LayerCache, *, kind: str, key: str) -> Layer:
    """Read an output by descriptors, link by link refused: the commands may have put anything there."""
    descriptor = os.open(root, _FOLDER)
    try:
        parts = [part for part in source.split("/") if part]
        for index, part in enumerate(parts):
            last = index == len(parts) - 1
            try:
                found = os.open(part, _FILE if last else _FOLDER, dir_fd=descriptor)
            except OSError as error:
                made = "/".join(parts[: index + 1])
                raise BadInput(
                    f"cannot take {source} out of the sandbox: /{made}: {error.strerror}",
                    hint="the commands must make it, as a file or folder; links are not followed",
                ) from error
            os.close(descriptor)
            descriptor = found
        return layers.read(
            partial(read_path, descriptor), what=f"build output {source}", kind=kind, digest=key, confined=False
        )
    finally:
        os.close(descriptor)


def _add_links(tree: Tree) -> None:
    """Make the links that maintainer scripts of build packages make: cc, awk and the like."""
    for one in load_slices():
        for rule in one.rules:
            when = Globs((rule.when,))
            if rule.links and any(when.match(path) for path in tree.entries):
                for path, target in rule.links.items():
                    if path.strip("/") not in tree.entries:
                        entry = TreeEntry(path=path.strip("/"), type=EntryType.LINK, mode=0o777, target=target)
                        tree.add([entry], origin="base")
    for path in ("tmp", "out"):
        tree.add([TreeEntry(path=path, type=EntryType.DIRECTORY, mode=0o755)], origin="base")


def _digest(step: BuildStep, manifest: TreeManifest) -> str:
    text = codec.encode([digest_manifest(encode_manifest(manifest)), step.run, step.env, step.outputs])
    return hashlib.sha256(text).hexdigest()

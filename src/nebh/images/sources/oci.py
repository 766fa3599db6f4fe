"""OCI image layouts and docker-archives: which blobs make the image, laid over each other, every digest checked."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import msgspec

from nebh.images.intake import Intake
from nebh.images.layers import ImageTree
from nebh.images.report import ImageDefaults
from nebh.images.sources.streams import Hashed, Window, plain
from nebh.images.sources.tar import Kind, TarReader, read_tar
from nebh.model.errors import BadInput
from nebh.wire import codec

JSON_LIMIT: Final = 8 << 20
_MOST_MEMBERS: Final = 20_000
_INDEXES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
_LAYERS: Final = tuple(
    f"{start}{end}"
    for start in ("application/vnd.oci.image.layer.v1.tar", "application/vnd.docker.image.rootfs.diff.tar")
    for end in ("", "+gzip", "+zstd", ".gzip", ".zstd")
)
T = TypeVar("T")


class Platform(msgspec.Struct, frozen=True):
    """Where an image runs."""

    architecture: str = ""
    os: str = ""


class Descriptor(msgspec.Struct, frozen=True, rename="camel"):
    """A blob that another names."""

    media_type: str = ""
    digest: str = ""
    size: int = 0
    platform: Platform | None = None
    annotations: dict[str, str] | None = None


class Index(msgspec.Struct, frozen=True):
    """Images of one layout, or of one name for several platforms."""

    manifests: list[Descriptor] = []


class Manifest(msgspec.Struct, frozen=True, rename="camel"):
    """One image: config and layers, lowest first."""

    config: Descriptor
    layers: list[Descriptor]
    media_type: str = ""


class RunConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """What the image proposes to run."""

    entrypoint: list[str] | None = None
    cmd: list[str] | None = None
    env: list[str] | None = None
    user: str | None = None
    working_dir: str | None = None


class RootFs(msgspec.Struct, frozen=True):
    """SHA-256 of the plain layers, lowest first."""

    diff_ids: list[str] = []


class Config(msgspec.Struct, frozen=True):
    """An image's config blob."""

    rootfs: RootFs
    architecture: str = ""
    os: str = ""
    config: RunConfig | None = None


class ArchiveImage(msgspec.Struct, frozen=True, rename="pascal"):
    """One image of a docker-archive's manifest.json."""

    config: str
    layers: list[str]
    repo_tags: list[str] | None = None


class Wanted(msgspec.Struct, frozen=True):
    """Which of several images: OCI's word for the processor, and the name in the layout or archive ("" = the only)."""

    architecture: str
    tag: str = ""


OpenBlob = Callable[[str], Window]


def read_layout(
    index: Window, blob: OpenBlob, tree: ImageTree, intake: Intake, *, wanted: Wanted
) -> tuple[str, ImageDefaults]:
    """Lay an OCI layout's image into `tree`; `blob` opens one by its `sha256:...`. Return the image manifest's digest
    and the config's proposals. Raises BadInput when the choice is not clear, or a blob is not what its name says."""
    chosen = _choose_name(_parse(_read_small(index, intake), Index, intake, "index.json"), intake, wanted)
    for _ in range(4):
        data = _read_blob(chosen, blob, intake)
        if chosen.media_type not in _INDEXES:
            break
        chosen = _choose_platform(_parse(data, Index, intake, "an image index"), intake, wanted)
    manifest = _parse(data, Manifest, intake, f"manifest {chosen.digest[:19]}")
    config = _parse(_read_blob(manifest.config, blob, intake), Config, intake, "the image's config")
    _check_layers(len(manifest.layers), config, intake, wanted)
    for layer, plain_digest in zip(manifest.layers, config.rootfs.diff_ids, strict=True):
        if layer.media_type not in _LAYERS:
            raise BadInput(f"cannot import {intake.what}: a layer of the type {layer.media_type[:100]!r} is not read")
        window = blob(layer.digest)
        if window.size != layer.size:
            raise BadInput(f"cannot import {intake.what}: {layer.digest} has {window.size} bytes, not {layer.size}")
        _add_layer(window, tree, intake, digest=layer.digest, plain_digest=plain_digest)
    return chosen.digest, _defaults(config)


def read_archive(descriptor: int, tree: ImageTree, intake: Intake, *, wanted: Wanted) -> tuple[str, ImageDefaults]:
    """Lay the image of a docker-archive (an open file, compressed or not) into `tree`. Return its config's digest and
    proposals. Raises BadInput as `read_layout`."""
    with contextlib.ExitStack() as stack:
        archive = _plain_archive(descriptor, intake, stack)
        members, links = _members(archive, intake)

        def window(name: str) -> Window:
            found = members.get(links.get(name, name))
            if found is None:
                raise BadInput(f"cannot import {intake.what}: the archive has no {name[:200]!r}")
            return Window(archive.descriptor, offset=archive.offset + found[0], size=found[1])

        if "manifest.json" not in members:
            raise BadInput(
                f"cannot import {intake.what}: it has no manifest.json, so it is no docker-archive",
                hint="a tar of a root file system is imported as `tar`",
            )
        images = _parse(_read_small(window("manifest.json"), intake), list[ArchiveImage], intake, "manifest.json")
        image = _choose_archive_image(images, intake, wanted)
        hashed = Hashed(window(image.config))
        config = _parse(_read_small(hashed, intake), Config, intake, "the image's config")
        name = image.config.rpartition("/")[2].removesuffix(".json")
        if len(name) == 64 and hashed.digest != f"sha256:{name}":
            raise BadInput(f"cannot import {intake.what}: {image.config!r} has the digest {hashed.digest}")
        _check_layers(len(image.layers), config, intake, wanted)
        for layer, plain_digest in zip(image.layers, config.rootfs.diff_ids, strict=True):
            _add_layer(window(layer), tree, intake, digest="", plain_digest=plain_digest)
    return hashed.digest, _defaults(config)


def _add_layer(window: Window, tree: ImageTree, intake: Intake, *, digest: str, plain_digest: str) -> None:
    source = Hashed(window)
    stream = Hashed(plain(source, what=intake.what, limits=intake.limits))
    tree.add_layer(read_tar(stream, intake), whiteouts=True)
    stream.drain()
    source.drain()
    if digest and source.digest != digest:
        raise BadInput(f"cannot import {intake.what}: the blob {digest} has the digest {source.digest}")
    if stream.digest != plain_digest:
        raise BadInput(f"cannot import {intake.what}: the layer {plain_digest} has, unpacked, {stream.digest}")


def _check_layers(count: int, config: Config, intake: Intake, wanted: Wanted) -> None:
    if count != len(config.rootfs.diff_ids):
        raise BadInput(
            f"cannot import {intake.what}: it has {count} layers, its config names {len(config.rootfs.diff_ids)}"
        )
    if count > intake.limits.layers:
        raise BadInput(f"cannot import {intake.what}: it has {count} layers, at most {intake.limits.layers}")
    if config.os not in ("", "linux"):
        raise BadInput(f"cannot import {intake.what}: it is an image for {config.os[:40]!r}, not for linux")
    if config.architecture not in ("", wanted.architecture):
        raise BadInput(
            f"cannot import {intake.what}: it is an image for {config.architecture[:40]!r}, not for "
            f"{wanted.architecture!r}",
            hint="fetch the image for the processor of the nodes",
        )


def _choose_name(index: Index, intake: Intake, wanted: Wanted) -> Descriptor:
    names = [(one.annotations or {}).get("org.opencontainers.image.ref.name", "") for one in index.manifests]
    if wanted.tag:
        found = [one for one, name in zip(index.manifests, names, strict=True) if name == wanted.tag]
    else:
        found = index.manifests
    if len(found) == 1:
        return found[0]
    if found and all(one.platform for one in found):
        return _choose_platform(Index(manifests=list(found)), intake, wanted)
    known = ", ".join(sorted(repr(name[:80]) for name in names)[:10]) or "none"
    raise BadInput(
        f"cannot import {intake.what}: {len(found)} images are meant, not one (names in the layout: {known})",
        hint="write LAYOUT:NAME",
    )


def _choose_platform(index: Index, intake: Intake, wanted: Wanted) -> Descriptor:
    for one in index.manifests:
        platform = one.platform
        if platform is not None and platform.architecture == wanted.architecture and platform.os in ("", "linux"):
            return one
    known = sorted({one.platform.architecture[:40] for one in index.manifests if one.platform})[:10]
    raise BadInput(
        f"cannot import {intake.what}: it has no image for linux/{wanted.architecture} (has: {', '.join(known) or 'none'})"
    )


def _choose_archive_image(images: list[ArchiveImage], intake: Intake, wanted: Wanted) -> ArchiveImage:
    found = [one for one in images if not wanted.tag or wanted.tag in (one.repo_tags or [])]
    if len(found) != 1:
        known = ", ".join(tag[:80] for one in images for tag in one.repo_tags or [])[:400]
        raise BadInput(
            f"cannot import {intake.what}: {len(found)} images are meant, not one (tags in the archive: {known})",
            hint="save one image alone: docker save NAME:TAG",
        )
    return found[0]


def _plain_archive(descriptor: int, intake: Intake, stack: contextlib.ExitStack) -> Window:
    """Return the archive as a file that can be read by position: itself, or unpacked into a file without a name."""
    window = Window(descriptor)
    start = Window(descriptor).read(6)
    if not start.startswith((b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ", b"BZh")):
        return window
    stream = plain(Hashed(window), what=intake.what, limits=intake.limits)
    spool = intake.sink.spool(iter(lambda: stream.read(1 << 20), b""))
    stack.callback(os.close, spool)
    return Window(spool)


def _members(archive: Window, intake: Intake) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Return name -> (offset, size) of the archive's files, and link -> name of those it stores once."""
    members: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    for count, member in enumerate(TarReader(archive, what=intake.what)):
        if count >= _MOST_MEMBERS:
            raise BadInput(f"cannot import {intake.what}: it has more than {_MOST_MEMBERS} members")
        name = intake.canonical(member.name)
        if member.kind is Kind.FILE:
            if name in members:
                raise intake.refuse(name, "it stands twice")
            members[name] = (member.offset, member.size)
        elif member.kind in (Kind.LINK, Kind.HARD_LINK):
            folder = name.rpartition("/")[0] if member.kind is Kind.LINK else ""
            links[name] = _join(folder, member.link.decode(errors="replace"))
    return members, links


def _join(folder: str, target: str) -> str:
    parts = folder.split("/") if folder else []
    for part in target.split("/"):
        if part == "..":
            parts = parts[:-1]
        elif part not in ("", "."):
            parts.append(part)
    return "/".join(parts)


def _read_blob(descriptor: Descriptor, blob: OpenBlob, intake: Intake) -> bytes:
    hashed = Hashed(blob(descriptor.digest))
    data = _read_small(hashed, intake)
    if hashed.digest != descriptor.digest or len(data) != descriptor.size:
        raise BadInput(
            f"cannot import {intake.what}: the blob {descriptor.digest[:80]} has {len(data)} bytes and the digest "
            f"{hashed.digest}"
        )
    return data


def _read_small(reader: Window | Hashed, intake: Intake) -> bytes:
    data = bytearray()
    while chunk := reader.read(1 << 16):
        data += chunk
        if len(data) > JSON_LIMIT:
            raise BadInput(f"cannot import {intake.what}: a JSON file of more than {JSON_LIMIT} bytes")
    return bytes(data)


def _parse(data: bytes, kind: type[T], intake: Intake, name: str) -> T:
    return codec.decode_loose(data, kind, what=f"{name} of {intake.what}", limit=JSON_LIMIT)


def _defaults(config: Config) -> ImageDefaults:
    run = config.config or RunConfig()

    def words(value: Iterable[str] | None) -> tuple[str, ...]:
        return tuple(value or ())

    return ImageDefaults(
        entrypoint=words(run.entrypoint),
        cmd=words(run.cmd),
        env=words(run.env),
        user=run.user or "",
        workdir=run.working_dir or "",
        architecture=config.architecture,
    )

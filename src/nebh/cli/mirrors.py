"""Mirrors: which ones the signed settings name, and filling one with an image's objects."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from nebh.cli.output import Output
from nebh.cli.session import Session
from nebh.client.http import HttpConnection
from nebh.client.s3 import Store, parse_store
from nebh.client.transport import PublicTlsTransport, TcpTransport, Transport, split_address
from nebh.images.cache import ImageCache
from nebh.images.manifest import encode_manifest
from nebh.images.objects import ObjectFolder
from nebh.model.errors import BadInput, Failed
from nebh.model.image import EntryType, TreeManifest

if TYPE_CHECKING:
    from nebh.signing.repository import State
    from nebh.signing.wish import Wish

JOBS: Final = 4
MOST: Final = 16
TIMEOUT: Final = 60.0


def mirrors(options: argparse.Namespace, out: Output) -> int:
    """Show the mirrors that the settings name, or sign others."""
    from nebh.signing.wish import Wish

    session = Session(options, out)
    if options.none or options.urls:
        wanted = () if options.none else tuple(options.urls)
        for url in wanted:
            check_url(url)
        if len(wanted) > MOST:
            raise BadInput(f"cannot name {len(wanted)} mirrors: at most {MOST}")

        def make(state: State) -> Wish | None:
            settings = state.trusted.settings
            return None if settings.mirrors == wanted else Wish(settings=replace(settings, mirrors=wanted))

        session.publish(make)
    else:
        wanted = session.state().trusted.settings.mirrors
    if out.json_wanted:
        out.document({"mirrors": list(wanted)})
        return 0
    for url in wanted:
        out.say(url)
    if not wanted:
        out.say("no mirrors: nodes fetch from the controller")
    return 0


def check_url(url: str) -> None:
    """Raise BadInput for what no node could use as a mirror."""
    parts = urlsplit(url)
    if parts.scheme in ("s3", "s3+http"):
        parse_store(url)
    elif parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
        raise BadInput(f"cannot use the mirror {url!r}", hint="write http://HOST/PATH, https://… or s3://HOST/BUCKET")


def fill(target: str, manifest: TreeManifest, cache: ImageCache) -> tuple[int, int]:
    """Have a mirror hold an image's manifest and objects: a folder, or a store by its s3:// address. Returns how many
    were written, and their bytes. Raises BadInput, Failed, Unreachable."""
    data = encode_manifest(manifest)
    sizes = {one.sha256: one.size for one in manifest.entries if one.type is EntryType.FILE and one.size}
    digest = cache.add_manifest(data)
    items = [*sizes.items(), (digest, len(data))]  # the manifest last: who sees it finds the rest

    def read(one: str) -> Iterable[bytes]:
        return (data,) if one == digest else cache.objects.read(one)

    return fill_with(target, items, read)


def fill_with(target: str, items: Sequence[tuple[str, int]], read: Callable[[str], Iterable[bytes]]) -> tuple[int, int]:
    """As `fill`, with any objects: (SHA-256, bytes) and what reads each."""
    if target.startswith(("s3:", "s3+http:")):
        store = parse_store(target, find=lambda name: os.environ.get(name, ""))
        with ThreadPoolExecutor(max_workers=JOBS) as pool:
            new = list(pool.map(lambda item: _put(store, item[0], item[1], read), items))
        return sum(new), sum(size for (_, size), done in zip(items, new, strict=True) if done)
    folder = ObjectFolder(Path(target) / "objects")
    lacking = [(one, size) for one, size in items if not folder.has(one)]
    for one, size in lacking:
        folder.put(one, size, read(one))
    folder.sync()
    return len(lacking), sum(size for _, size in lacking)


def _put(store: Store, digest: str, size: int, read: Callable[[str], Iterable[bytes]]) -> bool:
    """Write one object unless it is there."""
    parts = urlsplit(store.url)
    target = f"{parts.path}/objects/{digest[:2]}/{digest}"
    with contextlib.closing(HttpConnection(_transport(store.url).connect(), host=parts.netloc)) as connection:
        headers = store.sign("HEAD", parts.netloc, target) if store.key else {}
        answer = connection.request("HEAD", target, headers=headers, timeout=TIMEOUT)
        answer.read(limit=1 << 16)
        if answer.status == 200:
            return False
    with contextlib.closing(HttpConnection(_transport(store.url).connect(), host=parts.netloc)) as connection:
        headers = store.sign_body("PUT", parts.netloc, target, digest=digest) if store.key else {}
        sized = {**headers, "Content-Length": str(size)}
        answer = connection.request("PUT", target, headers=sized, body=read(digest), timeout=TIMEOUT)
        said = answer.read(limit=1 << 16)
        if answer.status not in (200, 201, 204):
            raise Failed(
                f"cannot store object {digest[:12]} in {store.url}: status {answer.status} {said[:200].decode(errors='replace')}",
                hint="is the key set (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY), and may it write there?",
            )
    return True


def _transport(url: str) -> Transport:
    parts = urlsplit(url)
    if parts.scheme == "http":
        host, port = split_address(parts.netloc, default=80)
        return TcpTransport(host=host, port=port)
    host, port = split_address(parts.netloc, default=443)
    return PublicTlsTransport(host=host, port=port)

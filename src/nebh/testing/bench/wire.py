"""What a push really says on its connection to the controller, and what of it is the files' contents."""

from __future__ import annotations

import contextlib
import threading
from pathlib import Path
from typing import Self

import zstandard

from nebh.cli.moving import batches
from nebh.controller.storing import AT_MOST
from nebh.host.channels import Channel, Closed, Listener, connect_unix
from nebh.images.delta_pack import Outgoing, encode_delta_pack
from nebh.images.objects import ObjectFolder
from nebh.model.errors import NebhError
from nebh.model.image import EntryType, TreeManifest
from nebh.testing.middlemen import in_place_of

_PIECE = 1 << 18
_LEVEL = 3


class Wire:
    """Stands in the place of the controller's socket and hands everything on. A context manager. up, down: bytes that
    programs of `uid` have sent and received; the node's agent is another user."""

    def __init__(self, path: Path, *, uid: int = 0) -> None:
        self._path, self._uid = path, uid
        self._stack = contextlib.ExitStack()
        self._lock = threading.Lock()
        self.up = self.down = 0

    def __enter__(self) -> Self:
        owner = self._path.stat()
        self._real = self._stack.enter_context(in_place_of(self._path))
        self._listener = Listener(self._path, mode=0o666, uid=owner.st_uid, gid=owner.st_gid)
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()
        self._stack.close()

    def _accept(self) -> None:
        with contextlib.suppress(Closed, OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept(),), daemon=True).start()

    def _serve(self, channel: Channel) -> None:
        with channel, contextlib.suppress(NebhError, OSError), connect_unix(self._real) as real:
            counts = channel.peer().uid == self._uid
            other = threading.Thread(target=self._relay, args=(channel, real), kwargs={"up": counts}, daemon=True)
            other.start()
            self._relay(real, channel, down=counts)
            other.join()

    def _relay(self, source: Channel, to: Channel, *, up: bool = False, down: bool = False) -> None:
        with contextlib.suppress(NebhError, OSError):
            while data := source.receive_some(_PIECE):
                with self._lock:
                    self.up += len(data) * up
                    self.down += len(data) * down
                to.send(data)
        to.finish()


def packs_of(manifest: TreeManifest, data: bytes, digest: str, objects: ObjectFolder) -> tuple[int, int, int]:
    """Return the bytes of (all bodies of a first push of an image to a controller that holds nothing of it, of that the
    manifest's, what the same streams would take if they held contents and nothing else)."""
    sizes = {one.sha256: one.size for one in manifest.entries if one.type is EntryType.FILE and one.size}
    named = sum(map(len, encode_delta_pack([Outgoing(digest, len(data))], lambda _: (data,))))
    total, contents, wanted = named, 0, sorted(sizes)
    for begin in range(0, len(wanted), AT_MOST):
        for batch in batches(sizes, wanted[begin : begin + AT_MOST]):
            total += sum(map(len, encode_delta_pack((Outgoing(one, sizes[one]) for one in batch), objects.read)))
            codec = zstandard.ZstdCompressor(level=_LEVEL).compressobj()
            contents += sum(len(codec.compress(chunk)) for one in batch for chunk in objects.read(one))
            contents += len(codec.flush())
    return total, named, contents


def shares(*, sent: int, up: int, down: int, packs: tuple[int, int, int]) -> dict[str, float]:
    """Return a row in KiB: what moved on the connection both ways, and where it went. Raises AssertionError when the
    push sent other bodies than its packs."""
    total, named, contents = packs
    if total != sent:
        raise AssertionError(f"a first push sent {sent} bytes of bodies, its packs have {total}")
    parts = {
        "contents": contents,
        "manifest": named,
        "heads": total - named - contents,
        "requests": up - sent,
        "answers": down,
    }
    row = {"moved": up + down, **parts, "metadata": sum(parts.values()) - contents}
    return {name: value / 1024 for name, value in row.items()}

"""One file, `disk`, that records each write and flush that reaches it, and fails them when told.

`python -m nebh.testing.disks.fuse_disk FOLDER IMAGE LOG` shows `FOLDER/disk` over IMAGE by the kernel's FUSE protocol
until it is unmounted. A loop device on that file turns what a file system sends to its disk into lines of the log.
Nothing is cached: the kernel hands over each write at once, and a write is in the log before it is answered.

Standard input takes lines: `fail AFTER COUNT` (after AFTER more writes, the next COUNT writes and all flushes meanwhile
end with EIO), `heal`, `count`. Each is answered by {"writes": n, "flushes": n, "failed": n}.
"""

from __future__ import annotations

import errno
import json
import os
import select
import stat
import struct
import sys
from collections.abc import Callable
from pathlib import Path

from nebh.host.namespaces import MS_NODEV, MS_NOSUID, mount

RECORD = struct.Struct("<BQI")
"""kind, offset, length; the data of a write follows."""
WRITE, FLUSH = 1, 2

_IN, _OUT = struct.Struct("<IIQQIIII"), struct.Struct("<IiQ")
_ATTR = struct.Struct("<QQQQQQIIIIIIIIII")
_ROOT, _FILE = 1, 2
_MAX_WRITE = 1 << 20
_MAX_PAGES = 256
_BIG_WRITES, _HAS_MAX_PAGES = 1 << 5, 1 << 22
_SILENT = (2, 36, 42)  # forget, interrupt, batch_forget: nobody waits for an answer


class Device:
    """The file's contents, the log, and how many writes are still to fail."""

    def __init__(self, image: Path, log: Path) -> None:
        self.size = image.stat().st_size
        self._image = os.open(image, os.O_RDWR)
        self._log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.writes = self.flushes = self.failed = 0
        self._until = -1
        self._failing = 0

    def read(self, offset: int, size: int) -> bytes:
        return os.pread(self._image, size, offset)

    def write(self, offset: int, data: bytes) -> None:
        """Raises OSError when told."""
        self.writes += 1
        if self._until >= 0:
            if self._until == 0 and self._failing:
                self._failing -= 1
                self.failed += 1
                raise OSError(errno.EIO, "told to fail")
            self._until = max(0, self._until - 1)
        os.write(self._log, RECORD.pack(WRITE, offset, len(data)) + data)
        os.pwrite(self._image, data, offset)

    def flush(self) -> None:
        """Raises OSError when told."""
        self.flushes += 1
        if self._until == 0 and self._failing:
            self.failed += 1
            raise OSError(errno.EIO, "told to fail")
        os.write(self._log, RECORD.pack(FLUSH, 0, 0))

    def command(self, line: str) -> str:
        words = line.split()
        if words[0] == "fail":
            self._until, self._failing = int(words[1]), int(words[2])
        elif words[0] == "heal":
            self._until = -1
        return json.dumps({"writes": self.writes, "flushes": self.flushes, "failed": self.failed})


class Server:
    """Answers the kernel."""

    def __init__(self, descriptor: int, device: Device) -> None:
        self._descriptor = descriptor
        self._device = device
        self._calls: dict[int, Callable[[int, bytes], bytes]] = {
            1: self._lookup,
            3: lambda node, _: struct.pack("<QII", 1, 0, 0) + self._attr(node),
            4: lambda node, _: struct.pack("<QII", 1, 0, 0) + self._attr(node),
            14: lambda _node, _body: struct.pack("<QII", 1, 0, 0),
            15: self._read,
            16: self._write,
            17: lambda _node, _body: struct.pack("<QQQQQIIII24x", 1, 0, 0, 1, 0, 4096, 255, 4096, 0),
            18: lambda _node, _body: b"",
            20: self._fsync,
            25: lambda _node, _body: b"",
            26: self._init,
            27: lambda _node, _body: struct.pack("<QII", 1, 0, 0),
            28: lambda _node, _body: b"",
            29: lambda _node, _body: b"",
        }

    def answer(self) -> bool:
        """Answer one request; False when the mount is gone."""
        try:
            data = os.read(self._descriptor, _MAX_WRITE + 4096)
        except OSError as error:
            if error.errno in (errno.ENODEV, errno.EBADF):
                return False
            if error.errno in (errno.ENOENT, errno.EINTR, errno.EAGAIN):
                return True
            raise
        _, code, unique, node, *_ = _IN.unpack_from(data)
        if code in _SILENT:
            return True
        status, body = 0, b""
        try:
            call = self._calls.get(code)
            if call is None:
                status = -errno.ENOSYS
            else:
                body = call(node, data[_IN.size :])
        except OSError as error:
            status = -(error.errno or errno.EIO)
        os.write(self._descriptor, _OUT.pack(_OUT.size + len(body), status, unique) + body)
        return True

    def _init(self, _node: int, body: bytes) -> bytes:
        _, minor, readahead, offered = struct.unpack_from("<IIII", body)
        flags = offered & (_BIG_WRITES | _HAS_MAX_PAGES)
        return struct.pack(
            "<IIIIHHIIHHI28x", 7, min(minor, 31), readahead, flags, 16, 12, _MAX_WRITE, 1, _MAX_PAGES, 0, 0
        )

    def _attr(self, node: int) -> bytes:
        size = self._device.size if node == _FILE else 0
        mode = stat.S_IFREG | 0o600 if node == _FILE else stat.S_IFDIR | 0o700
        return _ATTR.pack(node, size, size // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)

    def _lookup(self, _node: int, body: bytes) -> bytes:
        if body.rstrip(b"\0") != b"disk":
            raise OSError(errno.ENOENT, "there is one file")
        return struct.pack("<QQQQII", _FILE, 0, 3600, 3600, 0, 0) + self._attr(_FILE)

    def _read(self, _node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        return self._device.read(offset, size)

    def _write(self, _node: int, body: bytes) -> bytes:
        _, offset, size = struct.unpack_from("<QQI", body)
        self._device.write(offset, body[40 : 40 + size])
        return struct.pack("<II", size, 0)

    def _fsync(self, _node: int, _body: bytes) -> bytes:
        self._device.flush()
        return b""


def main() -> None:
    """Serve until unmounted; a closed standard input changes nothing."""
    folder, image, log = (Path(word) for word in sys.argv[1:4])
    device = Device(image, log)
    descriptor = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={descriptor},rootmode=40000,user_id=0,group_id=0"
    mount("nebh-disk", folder, kind="fuse", flags=MS_NOSUID | MS_NODEV, data=options)
    server, poll = Server(descriptor, device), select.poll()
    poll.register(descriptor, select.POLLIN)
    poll.register(0, select.POLLIN)
    print("ready", flush=True)
    while True:
        for number, _ in poll.poll():
            if number == descriptor:
                if not server.answer():
                    return
            elif line := sys.stdin.readline():
                print(device.command(line), flush=True)
            else:
                poll.unregister(0)


if __name__ == "__main__":
    main()

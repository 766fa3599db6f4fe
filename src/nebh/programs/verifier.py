"""`python -m nebh.programs.verifier`: verify one source's signed metadata and exit.

A short-lived child: everything goes over file descriptor 0, a unix socket (protocol: `signing/verify_child.py`). It
opens no connection; it reads the pinned root and reads and writes the trust folder it is told. Exit status 0 when its
last word was sent, whatever that was.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path
from typing import Any

from nebh.host import files
from nebh.host.channels import Closed
from nebh.host.inherited import inherited_channel
from nebh.model.errors import Broken, NebhError, Unreachable
from nebh.signing.verify_child import Pipe
from nebh.wire import codec, failures

SECONDS = 60
MEMORY = 512 << 20
FILE_SIZE = 16 << 20


def main() -> int:
    """Serve one verification on file descriptor 0."""
    _confine()
    # before there is a request: whoever starts us ahead has its answer sooner
    from nebh.signing import trusted_set  # noqa: F401

    channel = inherited_channel(0, name="the parent of the verifier")
    pipe = Pipe(channel, end=time.monotonic() + SECONDS)
    try:
        head, _ = pipe.receive()
    except Closed:
        return 0
    try:
        data = _verify(pipe, head)
    except NebhError as error:
        pipe.send({"op": "refused", **failures.to_plain(error)})
    except Exception as error:
        # Hostile bytes may reach a corner of a library that raises something else: that is a refusal too.
        broken = Broken(f"cannot verify: {type(error).__name__}: {error}"[:500])
        pipe.send({"op": "refused", **failures.to_plain(broken)})
    else:
        pipe.send({"op": "verified"})
        pipe.send_blob(data)
    return 0


def _confine() -> None:
    """A hostile file may cost this much and no more."""
    resource.setrlimit(resource.RLIMIT_CPU, (30, 30))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
    resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_SIZE, FILE_SIZE))
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _verify(pipe: Pipe, request: dict[str, Any]) -> bytes:
    from nebh.signing.trust_store import TrustStore
    from nebh.signing.trusted_set import read_trusted_set

    def fetch(name: str, limit: int) -> bytes | None:
        pipe.send({"op": "need", "name": name, "max": limit})
        head, _ = pipe.receive()
        match head.get("op"):
            case "found":
                return pipe.receive_blob(limit=limit + 1)
            case "absent":
                return None
            case "failed":
                raise failures.from_plain(head)
        raise Unreachable("cannot fetch: the parent of the verifier breaks the protocol")

    store = TrustStore(
        Path(request["directory"]),
        fetch,
        files.read_bounded(Path(request["root"]), limit=1 << 20),
        request["cluster_id"],
    )
    wanted = request["wanted"]
    store.refresh()
    found = read_trusted_set(store, source=request["source"], wanted=None if wanted is None else tuple(wanted))
    return codec.encode(found)


if __name__ == "__main__":
    raise SystemExit(main())

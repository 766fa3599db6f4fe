"""Chains and keys that HAProxy has in its memory alone, put there through its runtime API without a reload.

They are files only while a worker starts that must read them; RUN lies in memory too, where systemd made it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from nebh.drivers.ingress.config import Places, key_place, managed_hosts, secure_hosts
from nebh.host.files import write_atomic
from nebh.host.unix import ask_once
from nebh.model.errors import Failed, Unreachable
from nebh.model.network import IngressPlan

_DONE = "Success!"


class ProxyKeys:
    """Not thread-safe. What the proxy was given is known by what this process gave it; all is given again otherwise."""

    def __init__(self, admin: Path, places: Places, *, uid: int, gid: int) -> None:
        self._admin, self._places, self._uid, self._gid = admin, places, uid, gid
        self._given: dict[str, bytes] = {}

    @contextlib.contextmanager
    def as_files(self, plan: IngressPlan) -> Iterator[None]:
        """Have them as files of the proxy's user, 0600, for a worker that starts now. An error: it has none of them."""
        folder = Path(self._places.keys)
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed here
        folder.mkdir(mode=0o700)
        pems = managed_hosts(plan)
        try:
            self._own(folder)
            for host, pem in pems.items():
                path = Path(key_place(host, self._places))
                write_atomic(path, pem, mode=0o600, durable=False)
                self._own(path)
            yield
            self._given = pems
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _own(self, path: Path) -> None:
        if os.geteuid() == 0:
            os.chown(path, self._uid, self._gid)

    def settle(self, plan: IngressPlan) -> None:
        """Bring the running proxy to the plan: old connections keep their certificate, new ones get the new. Raises
        Failed with the proxy's own words; what it had goes on."""
        wanted = managed_hosts(plan)
        changed = {host: pem for host, pem in wanted.items() if self._given.get(host) != pem}
        gone = self._given.keys() - wanted.keys()
        if not changed and not gone:
            return
        stores, entries = self._stores(), self._entries()
        for host, pem in changed.items():
            self._given.pop(host, None)
            self._give(host, pem, known=key_place(host, self._places) in stores)
            name = key_place(host, self._places)
            if name not in entries:
                line = f"{name} {host}"
                self._do(f"add ssl crt-list {self._places.certificates} <<\n{line}\n\n", expect=_DONE)
            self._given[host] = pem
        for host in gone:
            self._take_away(host, listed=bool(secure_hosts(plan)))
            self._given.pop(host)

    def _give(self, host: str, pem: bytes, *, known: bool) -> None:
        name = key_place(host, self._places)
        ask_once(self._admin, f"abort ssl cert {name}\n")  # of a process that was killed between set and commit
        if not known:
            self._do(f"new ssl cert {name}\n", expect="New empty certificate")
        try:
            self._do(f"set ssl cert {name} <<\n{pem.decode()}\n", expect="Transaction")
            self._do(f"commit ssl cert {name}\n", expect=_DONE)
        except Failed:
            ask_once(self._admin, f"abort ssl cert {name}\n")
            raise

    def _take_away(self, host: str, *, listed: bool) -> None:
        """Nothing leads to it any more: what cannot be taken away now is gone at the next start."""
        name = key_place(host, self._places)
        with contextlib.suppress(Unreachable):
            if listed:
                ask_once(self._admin, f"del ssl crt-list {self._places.certificates} {name}\n")
            ask_once(self._admin, f"del ssl cert {name}\n")

    def _stores(self) -> set[str]:
        return set(ask_once(self._admin, "show ssl cert\n").split())

    def _entries(self) -> set[str]:
        answer = ask_once(self._admin, f"show ssl crt-list {self._places.certificates}\n")
        return {line.split()[0] for line in answer.splitlines() if line.strip() and not line.startswith("#")}

    def _do(self, text: str, *, expect: str) -> None:
        answer = ask_once(self._admin, text)
        if expect not in answer:
            words = " ".join(answer.split())[:300]
            raise Failed(
                f"cannot give the proxy a certificate: it answers {words!r} to {text.partition('<<')[0].strip()!r}"
            )

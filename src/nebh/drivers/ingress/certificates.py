"""PEM bundles for HAProxy, made from the certificate and key files that routes name on the node."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from nebh.drivers.ingress.config import secure_hosts
from nebh.host.files import read_bounded, write_atomic
from nebh.model.errors import BadInput
from nebh.model.network import IngressPlan
from nebh.model.service import RouteTls

_LIMIT = 1 << 20


class Certificates:
    """Writes `<digest>.pem` files (0600, the proxy's user) into a folder. A changed file gets a new name.
    known: the last good bundle by host; the driver keeps it over a restart."""

    def __init__(self, folder: Path, *, uid: int, gid: int) -> None:
        self._folder, self._uid, self._gid = folder, uid, gid
        self.known: dict[str, str] = {}

    def write(self, plan: IngressPlan, *, strict: bool) -> dict[str, str]:
        """Return the bundle's file name by host. A file that cannot be read: BadInput if strict, else the bundle
        written before is used, or the host goes without HTTPS, so that one bad file does not keep all others down."""
        found: dict[str, str] = {}
        for host, route in secure_hosts(plan).items():
            if route.tls is None or not route.tls.is_file:
                continue
            try:
                found[host] = self._bundle(route.tls)
            except OSError as error:
                if strict:
                    what = f"certificate of {host or 'any host'}"
                    raise BadInput(f"cannot read the {what}: {error.filename}: {error.strerror}") from error
                if (self._folder / self.known.get(host, "none.pem")).exists():
                    found[host] = self.known[host]
        self.known |= found
        return found

    def prune(self, used: set[str]) -> None:
        """Remove bundles that nobody names any more."""
        for path in self._folder.glob("*.pem"):
            if path.name not in used:
                path.unlink(missing_ok=True)

    def _bundle(self, files: RouteTls) -> str:
        chain = read_bounded(Path(files.cert).resolve(), limit=_LIMIT)
        key = read_bounded(Path(files.key).resolve(), limit=_LIMIT)
        data = chain.rstrip() + b"\n" + key.rstrip() + b"\n"
        name = f"{hashlib.sha256(data).hexdigest()[:32]}.pem"
        path = self._folder / name
        if not path.exists():
            write_atomic(path, data, mode=0o600)
        if os.geteuid() == 0:
            os.chown(path, self._uid, self._gid)
        return name

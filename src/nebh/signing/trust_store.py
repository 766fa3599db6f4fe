"""TrustStore: TUF exactly, on python-tuf's Updater. What it returns is verified from the pinned root (N1, N0).

It fetches through a function that is handed in, so it works over a socket to the agent, over HTTP, and on files.
Nothing here decides whether a node accepts what was verified: that is `planning/accept`.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib import parse

from nebh.host import files
from nebh.model.errors import BadInput, NotFound, Refused, Unreachable


def _spare_urllib3() -> None:
    """Put an empty module in the place of python-tuf's own HTTP fetcher: it is never used here, and with urllib3 it
    costs 4.5 MB and a third of the start-up time of each verifier."""
    name = "tuf.ngclient.urllib3_fetcher"
    if name not in sys.modules and "tuf.ngclient" not in sys.modules:
        stub = types.ModuleType(name)
        stub.Urllib3Fetcher = type("Urllib3Fetcher", (), {})  # type: ignore[attr-defined]
        sys.modules[name] = stub


_spare_urllib3()

from tuf.api import exceptions  # noqa: E402 - the stub must stand before
from tuf.api._payload import Root, TargetFile  # noqa: E402
from tuf.api.metadata import Metadata  # noqa: E402
from tuf.ngclient.config import UpdaterConfig  # noqa: E402
from tuf.ngclient.fetcher import FetcherInterface  # noqa: E402
from tuf.ngclient.updater import Updater  # noqa: E402

Fetch = Callable[[str, int], bytes | None]
"""(name, max) -> bytes, None when the source has no such file. Names are `metadata/<file>` and `targets/<path>`.
Returns at most max + 1 bytes: one more than `max` says that the file is too long. Raises Unreachable."""

METADATA, TARGETS = "metadata/", "targets/"
TARGET_LIMIT = 1 << 20
_ORDER = ("root", "timestamp", "snapshot", "targets")
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_TUF_ERRORS = (exceptions.RepositoryError, exceptions.DownloadError, OSError, ValueError)


class Expired(Refused):
    """Signed metadata is over its date (N1). role: which one, "" = unknown; expired_at: Unix seconds."""

    def __init__(self, verb: str, *, role: str, expired_at: int) -> None:
        when = f" at {datetime.fromtimestamp(expired_at, tz=UTC):%Y-%m-%d %H:%M} UTC" if expired_at else ""
        hint = "run `nebh trust renew` with an operator key; what runs now runs on"
        if role == "timestamp":
            hint = "the controller renews it by itself: is it up, and are the clocks right? else `nebh trust renew`"
        super().__init__(f"cannot {verb}: the role {role or '(unknown)'} expired{when}", rule="N1", hint=hint)
        self.role = role
        self.expired_at = expired_at


class _Fetcher(FetcherInterface):
    """python-tuf's view of a Fetch. Role files of another cluster are refused before they can be stored (N0)."""

    def __init__(self, fetch: Fetch, cluster_id: str | None) -> None:
        self._source = fetch
        self._cluster_id = cluster_id
        self.fetched: dict[str, bytes] = {}

    def _fetch(self, url: str) -> Iterator[bytes]:
        return iter((self.download_bytes(url, TARGET_LIMIT),))

    def download_bytes(self, url: str, max_length: int) -> bytes:
        data = self._source(url, max_length)
        if data is None:
            raise exceptions.DownloadHTTPError(f"{url} does not exist", 404)
        if len(data) > max_length:
            raise exceptions.DownloadLengthMismatchError(f"{url} is longer than {max_length} bytes")
        if self._cluster_id is not None and url.startswith(METADATA):
            check_cluster(data, self._cluster_id, what=url.removeprefix(METADATA))
        if url.startswith(METADATA):
            self.fetched[role_of(url.removeprefix(METADATA))] = data
        return data


def role_of(file_name: str) -> str:
    """Return the role of a metadata file: `7.rel-web.json` and `rel-web.json` are both rel-web."""
    stem = parse.unquote(file_name.removesuffix(".json"))
    number, dot, rest = stem.partition(".")
    return rest if dot and number.isdigit() else stem


def check_cluster(data: bytes, cluster_id: str, *, what: str) -> None:
    """Raise Refused (N0) unless the role file `data` carries `cluster_id`."""
    try:
        found = json.loads(data)["signed"]["cluster_id"]
    except (ValueError, KeyError, TypeError, RecursionError):
        found = None
    if found != cluster_id:
        raise Refused(
            f"cannot accept {what}: it is of cluster {str(found)[:64]!r}, not {cluster_id!r}",
            rule="N0",
            hint="this source serves another cluster; check its address",
        )


class TrustStore:
    """One source's metadata and target files, verified. `directory` belongs to this source alone (N2).

    bootstrap_root: the pinned root file; cluster_id: what every role file must carry, None = not checked.
    accept_expired: for those who renew; everything but expiry is verified. metadata_dir and targets_dir: elsewhere
    than in `directory`. max_root_rotations: newer roots taken in one refresh.
    """

    def __init__(
        self,
        directory: Path,
        fetch: Fetch,
        bootstrap_root: bytes,
        cluster_id: str | None,
        *,
        accept_expired: bool = False,
        targets_dir: Path | None = None,
        config: UpdaterConfig | None = None,
    ) -> None:
        self.directory = directory
        self.cluster_id = cluster_id
        self._targets_dir = targets_dir or directory / "targets"
        self._fetcher = _Fetcher(fetch, cluster_id)
        self._bootstrap = bootstrap_root
        self._accept_expired = accept_expired
        self._config = config or UpdaterConfig()
        self._updater: Updater | None = None

    def refresh(self) -> None:
        """Fetch and verify root, timestamp, snapshot and targets.

        Raises Refused (N0, N1, N2), Unreachable. What was stored before stays when it raises.
        """
        if self.cluster_id is not None:
            check_cluster(self._bootstrap, self.cluster_id, what="the pinned root")
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._updater = None
        self._fetcher.fetched.clear()
        try:
            updater = Updater(
                str(self.directory),
                METADATA,
                fetcher=self._fetcher,
                config=self._config,
                bootstrap=self._bootstrap,
            )
            if self._accept_expired:
                # Expiry is the one check left out; python-tuf has no public switch for it (7.0.1).
                updater._trusted_set.reference_time = _LONG_AGO  # noqa: SLF001
            updater.refresh()
        except _TUF_ERRORS as error:
            raise self._explain(error, "refresh the signed metadata") from error
        self._updater = updater

    def info(self, path: str) -> TargetFile | None:
        """Return what signed metadata says of a target, None when it is not listed; loads the roles on the way.

        Raises Refused, Unreachable; refreshes first when `refresh` was not called.
        """
        if self._updater is None:
            self.refresh()
        assert self._updater is not None
        try:
            return self._updater.get_targetinfo(path)
        except _TUF_ERRORS as error:
            raise self._explain(error, f"look {path} up") from error

    def read(self, path: str, *, limit: int = TARGET_LIMIT) -> bytes:
        """Return the verified bytes of a target. Raises NotFound when it is not listed, Refused, Unreachable."""
        info = self.info(path)
        if info is None:
            raise NotFound(f"cannot read {path}: signed metadata does not list it")
        if info.length > limit:
            raise Refused(f"cannot read {path}: {info.length} bytes, at most {limit} are allowed", rule="N1")
        stored = self._targets_dir / parse.quote(path, "")
        try:
            data = files.read_bounded(stored, limit=info.length)
            info.verify_length_and_hashes(data)
            return data
        except (OSError, exceptions.LengthOrHashMismatchError):
            pass  # not fetched yet, or an older one
        try:
            data = self._fetcher.download_bytes(TARGETS + self._served_path(info), info.length)
            info.verify_length_and_hashes(data)
        except _TUF_ERRORS as error:
            raise self._explain(error, f"read {path}") from error
        self._targets_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        files.write_atomic(stored, data, mode=0o600, durable=False)
        return data

    def stored(self, role: str) -> bytes:
        """Return the verified bytes of a role that was loaded. Raises OSError when it was not."""
        return (self.directory / f"{parse.quote(role, '')}.json").read_bytes()

    def _served_path(self, info: TargetFile) -> str:
        root = Metadata[Root].from_bytes(self.stored("root")).signed
        if root.consistent_snapshot and self._config.prefix_targets_with_hash:
            return info.get_prefixed_paths()[0]
        return info.path

    def _explain(self, error: Exception, verb: str) -> Exception:
        """Return python-tuf's error in our tree, decided by its class."""
        if isinstance(error, exceptions.DownloadHTTPError):
            return Unreachable(f"cannot {verb}: {error}", hint="is this the right controller, and is it complete?")
        if isinstance(error, exceptions.DownloadLengthMismatchError):
            return Refused(f"cannot {verb}: {error}", rule="N1")
        if isinstance(error, exceptions.DownloadError):
            return Unreachable(f"cannot {verb}: {error}")
        if isinstance(error, exceptions.ExpiredMetadataError):
            return self._expired(verb)
        if isinstance(error, exceptions.BadVersionNumberError):
            return Refused(
                f"cannot {verb}: {error}",
                rule="N2",
                hint="the source serves older metadata than it did before; do not trust it until you know why",
            )
        if isinstance(error, exceptions.RepositoryError):
            return Refused(f"cannot {verb}: {error}", rule="N1", hint="the source serves metadata that was not signed")
        return BadInput(f"cannot {verb}: {error}")

    def _expired(self, verb: str) -> Expired:
        """Name the role that expired: the first one in python-tuf's order of checking."""
        for role in (*_ORDER, *self._fetcher.fetched):
            expires = self._expiry_of(role)
            if expires and expires <= datetime.now(tz=UTC):
                return Expired(verb, role=role, expired_at=int(expires.timestamp()))
        return Expired(verb, role="", expired_at=0)

    def _expiry_of(self, role: str) -> datetime | None:
        try:
            data = self._fetcher.fetched.get(role) or self.stored(role)
            return Metadata[Root].from_bytes(data).signed.expires
        except (OSError, exceptions.RepositoryError):
            return None

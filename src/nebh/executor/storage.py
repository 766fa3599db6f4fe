"""Where this node keeps volumes: made when the first volume is, found again after every start and every failure."""

from __future__ import annotations

import threading
from pathlib import Path

from nebh.drivers.volumes.base import OutOfSpace, StorageGone, VolumeDriver
from nebh.drivers.volumes.choose import Chosen, StorageKind, StorageWish, choose_storage
from nebh.drivers.volumes.command import commands_of
from nebh.executor.context import Context
from nebh.host.layout import Layout
from nebh.model.errors import BadInput, NebhError
from nebh.model.event import Severity
from nebh.model.local import StorageConfig

_MORE = "`nebh volume usage` shows what there is and what snapshots hold; make room, or mend the disk"


def wish_of(config: StorageConfig) -> StorageWish:
    """Return what node.json asks for. Raises BadInput."""
    try:
        kind = StorageKind(config.driver)
    except ValueError:
        raise BadInput(
            f"cannot keep volumes by {config.driver!r}",
            hint=f"`storage.driver` in node.json is one of: {', '.join(StorageKind)}",
        ) from None
    return StorageWish(
        kind=kind,
        device=Path(config.device) if config.device else None,
        size=config.size,
        most=config.most,
        commands=commands_of(dict(config.commands)) if config.commands else None,
    )


class Storage:
    """Brings the storage up before it is used, and again after it was gone."""

    def __init__(self, config: StorageConfig, layout: Layout) -> None:
        """Choose; nothing is made before `ensure`. Raises BadInput."""
        self._chosen: Chosen = choose_storage(layout.volumes, wish_of(config))
        self._folder = layout.volumes
        self._warning = ("", "")
        self._lock = threading.Lock()
        self._up = False

    @property
    def driver(self) -> VolumeDriver:
        """What keeps the volumes; `ensure` comes first."""
        return self._chosen.driver

    def ensure(self) -> None:
        """Have it ready. Raises what the driver says."""
        with self._lock:
            if not self._up:
                self.driver.open()
                self._up = True

    def look(self) -> str:
        """Do what is due every few seconds; return why the storage cannot be used, "" = it can, or nobody has yet. One
        that is full, or could not be kept in order, can be used: to end its services would mend nothing."""
        if not self._up:
            return ""
        said: NebhError | None = None
        try:
            self.driver.check()
        except OutOfSpace as error:
            said = error
        except NebhError as error:
            return self._gone(error)
        try:
            self.driver.upkeep()
        except StorageGone as error:
            return self._gone(error)
        except NebhError as error:
            said = said or error
        self._warning = (said.message, said.hint or _MORE) if said is not None else ("", "")
        return ""

    def _gone(self, error: NebhError) -> str:
        if isinstance(error, StorageGone):
            self._up = False
        return error.message

    def warning(self) -> tuple[str, str]:
        """Return what the last look found that should not stay so, and what helps; ("", "") = nothing."""
        return self._warning


def open_storage(context: Context) -> None:
    """At the start: where there are volumes, have them ready. What fails is said, and does not hold other services."""
    if not context.volumes.volumes():
        return
    try:
        context.storage()
    except (NebhError, OSError) as error:
        context.tell(
            "storage.gone",
            f"the storage of volumes cannot be used: {error}",
            severity=Severity.ALARM,
            hint="services with data wait for it; it is tried again",
        )

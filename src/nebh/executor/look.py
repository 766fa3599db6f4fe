"""What this node tells about itself: news for the agent, status and details for root."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from nebh import __version__
from nebh.executor.checkup import checkup
from nebh.executor.context import Context
from nebh.executor.trust import Trust
from nebh.model.errors import NotFound
from nebh.model.instance import Status
from nebh.model.network import addresses
from nebh.model.work import InstanceRow
from nebh.wire import codec

Plain = dict[str, Any]
NEWS_BYTES = 700_000
Preflight = Callable[[], list[tuple[bool, str, str]]]


class Look:
    """Reads only."""

    def __init__(self, context: Context, *, trust: Trust, preflight: Preflight) -> None:
        self._context = context
        self._trust = trust
        self._preflight = preflight

    def news(self, *, receipt: int, event: int) -> Plain:
        """Return receipts and events newer than these numbers (as many as fit a frame) and the status."""
        receipts: list[list[Any]] = []
        size = 0
        for number, body in self._context.outbox.receipts_after(receipt):
            size += 2 * len(body)
            if size > NEWS_BYTES // 2:
                break
            receipts.append([number, base64.b64encode(body).decode()])
        events: list[Any] = []
        for one in self._context.outbox.events_after(event):
            size += 300 + len(one.message) + len(one.hint)
            if size > NEWS_BYTES:
                break
            events.append(codec.to_plain(one))
        return {"receipts": receipts, "events": events, "status": self.brief()}

    def brief(self) -> Plain:
        """Return the status that the controller shows: what runs, and how it is."""
        state = self._context.accepted.state()
        return {
            "node_id": state.node_id,
            "version": __version__,
            "seq": state.seq,
            "snapshot": state.sources.get("controller", (0, 0))[0],
            "running": [codec.to_plain(one) for one in self._context.running()],
            "instances": [self._instance(one) for one in self._context.work.instances()],
            "volumes": [codec.to_plain(one) for one in self._context.volumes.volumes()],
            "backups": [codec.to_plain(one) for one in self._context.backups.rows()],
            "snapshots": [codec.to_plain(one) for one in self._context.volumes.snapshots()],
            "certificates": [codec.to_plain(one) for one in self._context.certificates()],
        }

    def _instance(self, row: InstanceRow) -> Plain:
        plain: Plain = codec.to_plain(row)
        return plain

    def status(self) -> Plain:
        """Return everything for `nebh-executor status`: the brief, with what the runtime says, and open transactions."""
        containers = self._context.drivers.containers
        found = self.brief()
        for plain in found["instances"]:
            observed = containers.observe(plain["id"])
            plain["status"] = observed.status.value
            plain["pid"] = observed.pid
            plain["started"] = observed.started
        found["cluster_id"] = self._context.accepted.meta("cluster_id")
        found["transactions"] = [codec.to_plain(row) for row in self._context.work.open_transactions()]
        found["history"] = [codec.to_plain(row) for row in self._context.work.history(limit=10)]
        found["disk_free"] = self._free()
        return found

    def _free(self) -> int:
        from nebh.host.disk import free_bytes

        return free_bytes(self._context.layout.state)

    def inspect(self, service: str) -> Plain:
        """Return all that the journal knows of a service. Raises NotFound."""
        row = self._context.work.service(service)
        if row is None:
            raise NotFound(f"no service {service!r} is known here", hint="`nebh-executor status` lists those that are")
        subnets = self._context.subnets()
        policy = self._context.accepted.policy(service)
        releases = self._context.accepted.release_rows(service)
        history = self._context.work.history(service, limit=20)
        return {
            "service": codec.to_plain(row),
            "policy": codec.to_plain(policy) if policy else None,
            "releases": [
                {key: value for key, value in codec.to_plain(one).items() if key != "body"} for one in releases
            ],
            "instances": [
                {**self._instance(one), "addresses": codec.to_plain(addresses(subnets, one.address))}
                for one in self._context.work.instances(service)
            ],
            "history": [codec.to_plain(one) for one in history],
            "effects": [list(one) for one in self._context.work.effects(history[0].id)] if history else [],
            "former": list(self._context.work.former(service)),
        }

    def logs(self, *, service: str, instance: str, cursors: dict[str, str], limit: int, tail: int) -> Plain:
        """Return log lines after `cursors`, of one instance or of all of a service, those that are gone included when
        the instance is named. tail > 0: begin that many lines before the end."""
        names = [one.id for one in self._context.work.instances(service)]
        former = self._context.work.former(service)
        if instance:
            if instance not in names and instance not in former:
                raise NotFound(f"no instance {instance!r} of {service!r} is or was here")
            names = [instance]
        elif not names:
            if not former:
                raise NotFound(f"no instance of {service!r} is or was here")
            names = [former[0]]
        containers = self._context.drivers.containers
        lines: list[list[str]] = []
        ahead: dict[str, str] = {}
        lost = False
        for name in names:
            cursor = cursors.get(name, "")
            if not cursor and tail:
                cursor = containers.tail_cursor(name, tail)
            page = containers.read_logs(name, cursor, max(1, limit // len(names)))
            ahead[name], lost = page.cursor, lost or page.lost
            lines += [[name, one.time, one.stream, one.text[:4096]] for one in page.lines]
        lines.sort(key=lambda line: line[1])
        return {"lines": lines, "cursors": ahead, "lost": lost}

    def doctor(self) -> Plain:
        """Return every check of this node: [ok | warn | fail, sentence, what gets it]."""
        looks = [["fail" if not ok else "warn" if what else "ok", said, what] for ok, said, what in self._preflight()]
        return {"checks": [*looks, *(list(one) for one in checkup(self._context))]}

    def debug(self, instance: str) -> Plain:
        """Return what is needed to join an instance's namespaces; recorded."""
        row = self._context.work.instance(instance)
        observed = self._context.drivers.containers.observe(instance)
        if row is None or observed.status is not Status.RUNNING:
            raise NotFound(f"no instance {instance!r} runs here", hint="`nebh-executor status` lists those that do")
        self._context.event("debug.entered", f"root on this node joins {instance} with tools", service=row.service)
        return {"pid": observed.pid, "uid_base": self._context.uid_base(row.service), "service": row.service}

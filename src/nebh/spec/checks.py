"""Checks of a spec: `{http: {...}}`, `{tcp: {...}}` or `{exec: [...]}` with interval, timeout and failures."""

from __future__ import annotations

from typing import Any

from nebh.model.service import Check, CheckKind
from nebh.spec.network import resolve_port
from nebh.spec.read import Reader, Value


def parse_check(reader: Reader, value: Value, *, name: str, ports: dict[str, int]) -> Check:
    """Return the check under `value`; its port is a number of `ports`."""
    times = {key: one.data for key in ("interval", "timeout", "failures") if (one := value.get(key)) is not None}
    words = value.get("exec")
    if words is not None:
        argv = tuple(str(one.data) for one in words.data)
        if argv and not argv[0].startswith("/"):
            place = words.data[0]
            hint = "write where the program is inside the image, such as /usr/bin/app"
            reader.complain(place, place.path, f"`{argv[0]}` is not an absolute path", hint)
        return Check(name=name, kind=CheckKind.EXEC, argv=argv, **times)
    http = value.get("http")
    if http is None:
        tcp = value.get("tcp")
        port = resolve_port(reader, tcp, ports) if tcp is not None else 0
        return Check(name=name, kind=CheckKind.TCP, port=port, **times)
    texts: dict[str, Any] = {
        key: one.data for key in ("path", "host", "contains") if (one := http.get(key)) is not None
    }
    statuses = http.get("statuses")
    wanted = tuple(int(one.data) for one in statuses.data) if statuses is not None else Check.statuses
    port = resolve_port(reader, http, ports)
    return Check(name=name, kind=CheckKind.HTTP, port=port, statuses=wanted, **texts, **times)

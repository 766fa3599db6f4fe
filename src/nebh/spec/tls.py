"""Where a route's certificate comes from."""

from __future__ import annotations

from nebh.model.service import Acme, RouteTls
from nebh.spec.read import Reader, Value

_WAYS = "write `tls: acme`, `tls: {secret: NAME}` or `tls: {cert: PATH, key: PATH}`"


def parse_tls(reader: Reader, value: Value) -> RouteTls:
    """Return what `tls` says; one way is needed."""
    if not isinstance(value.data, dict):
        return RouteTls(acme=Acme())
    given = {key: value.get(key) for key in ("cert", "key", "secret", "acme")}
    there = [key for key, one in given.items() if one is not None]
    problems = any(one.path.startswith(value.path) for one in reader.problems)
    if there not in (["cert", "key"], ["secret"], ["acme"]) and not problems:
        said = " and ".join(f"`{key}`" for key in there)
        lacking = {"cert": "`key` is missing", "key": "`cert` is missing"}
        what = (
            lacking.get(there[0], "") if len(there) == 1 else f"{said} do not go together" if there else "it is empty"
        )
        reader.complain(value, value.path, what, _WAYS)
    texts = {key: str(one.data) for key, one in given.items() if one is not None and key != "acme"}
    acme = given["acme"]
    return RouteTls(**texts, acme=_acme(acme) if acme is not None else None)


def _acme(value: Value) -> Acme:
    return Acme(**{key: str(one.data) for key in ("directory", "email", "ca") if (one := value.get(key)) is not None})

"""What the OpenAPI document says beyond the shapes: who must show a token, how each operation may fail, and which texts
a field takes. The checks themselves stand where the values are used; a test holds both against each other."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from litestar import Litestar, Request
from litestar.handlers import HTTPRouteHandler
from litestar.openapi.plugins import JsonRenderPlugin

from nebh.api.access import allowed, failures_of
from nebh.model.api import Who

Plain = dict[str, Any]

PACK = "application/vnd.nebh.pack+zstd"
DELTA = "application/vnd.nebh.delta+zstd"
ZSTD = "application/zstd"
_ERROR: Plain = {
    "title": "Error",
    "description": "Every answer that is not 2xx.",
    "type": "object",
    "required": ["error", "hint", "kind", "rule"],
    "additionalProperties": False,
    "properties": {name: {"type": "string"} for name in ("error", "hint", "kind", "rule")},
}
_HEX = {size: f"^[0-9a-f]{{{size}}}$" for size in (64, 128)}
_COUNT: Plain = {"minimum": 0, "maximum": 2**53 - 1}
_ENVELOPE: Plain = {"contentEncoding": "base64", "format": "nebh-statement"}
_FIELDS: dict[tuple[str, str], Plain] = {
    ("Digests", "digests"): {"maxItems": 10_000, "items": {"type": "string", "pattern": _HEX[64]}},
    ("DeploymentRequest", "nonce"): {"pattern": "^[0-9a-f]{16,64}$"},
    ("DoorTokenRequest", "repository"): {"pattern": "^[a-z0-9]{1,40}(/[a-z0-9]{1,40}){0,3}$"},
    ("DoorTokenRequest", "days"): {"minimum": 1, "maximum": 366},
    **{("DeploymentRequest", field): _COUNT for field in ("counter", "epoch", "replicas")},
    **{("PollRequest", field): _COUNT for field in ("seq", "order")},
    **{("Event", field): _COUNT for field in ("number", "at")},
    ("PollRequest", "wait"): {"minimum": 0, "maximum": 60_000},
    ("TokenRequest", "kind"): {"enum": [Who.NODE, Who.OPERATOR, Who.CI]},
    ("TokenRequest", "key"): {"pattern": _HEX[64]},
    ("TokenRequest", "signature"): {"pattern": _HEX[128]},
    ("TokenRequest", "envelope"): _ENVELOPE,
    ("Signed", "envelope"): _ENVELOPE,
}
_PARAMETERS: dict[tuple[str, str], Plain] = {
    ("/v1/services/{service}/logs", "cursor"): {"format": "nebh-cursor"},
    ("/v1/objects/{digest}", "digest"): {"pattern": _HEX[64]},
    ("/v1/images/{digest}/missing", "digest"): {"pattern": _HEX[64]},
}
_FILE: Plain = {
    "type": "object",
    "required": ["signed", "signatures"],
    "properties": {"signed": {"type": "object"}, "signatures": {"type": "array"}},
}
_ANSWERS: dict[str, Plain] = {"/v1/metadata/{name}": _FILE, "/v1/targets/{path}": {"type": "object"}}
_BINARY: Plain = {"schema": {"type": "string", "format": "binary"}}
_BODIES: dict[str, Plain] = {"/v1/objects": {PACK: _BINARY}, "/v1/objects/deltas": {DELTA: _BINARY}}


def path_of(path: str) -> str:
    """Return a route's path as OpenAPI writes it: `/v1/services/{service}`."""
    return path.replace(":str}", "}").replace(":path}", "}")


class Document(JsonRenderPlugin):
    """Serves the completed document."""

    def __init__(self, handlers: tuple[HTTPRouteHandler, ...]) -> None:
        super().__init__()
        self._handlers = handlers

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        """Return the document as JSON."""
        return super().render(request, complete(openapi_schema, self._handlers))


def describe(app: Litestar, handlers: tuple[HTTPRouteHandler, ...]) -> Plain:
    """Return the document as it is served."""
    return complete(app.openapi_schema.to_schema(), handlers)


def complete(document: Plain, handlers: tuple[HTTPRouteHandler, ...]) -> Plain:
    """Return the document with tokens, errors and constraints of fields."""
    paths = {path: dict(operations) for path, operations in document["paths"].items()}
    for handler in handlers:
        for path in sorted(handler.paths):
            for method in sorted(handler.http_methods):
                place = paths[path_of(path)]
                place[method.lower()] = _operation(place[method.lower()], path_of(path), handler)
    shapes = document["components"]["schemas"]
    components = {
        **document["components"],
        "schemas": {**{name: _shape(name, shape) for name, shape in shapes.items()}, "Error": _ERROR},
    }
    return {**document, "paths": paths, "components": components}


def _operation(found: Plain, path: str, handler: HTTPRouteHandler) -> Plain:
    who = allowed(handler)
    made = {**found, "responses": dict(found["responses"])}
    for parameter in made.get("parameters", ()):
        parameter["schema"] = {**parameter["schema"], **_PARAMETERS.get((path, parameter["name"]), {})}
    if path in _BODIES:
        made["requestBody"] = {"required": True, "content": _BODIES[path]}
    # A bad Authorization header is told of wherever it stands; guarded operations turn away whom they are not for.
    statuses = {400, 401, *failures_of(handler)}
    statuses |= {413} if "requestBody" in made else set()
    if Who.NOBODY not in who:
        made["security"] = [{"token": []}]
        statuses.add(403)
    for status in sorted(statuses):
        content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
        made["responses"][str(status)] = {"description": HTTPStatus(status).phrase, "content": content}
    if path in _ANSWERS:
        good = made["responses"]["200"]
        made["responses"]["200"] = {**good, "content": {"application/json": {"schema": _ANSWERS[path]}}}
    return made


def _shape(name: str, shape: Plain) -> Plain:
    fields = shape.get("properties", {})
    changed = {field: {**kind, **_FIELDS[(name, field)]} for field, kind in fields.items() if (name, field) in _FIELDS}
    return {**shape, "properties": {**fields, **changed}} if changed else shape

"""docs/api.md, written from the OpenAPI document and the operations themselves."""

from __future__ import annotations

from typing import Any

from litestar import Litestar

from nebh.api.app import HANDLERS, access_table
from nebh.api.document import describe, path_of
from nebh.api.door import ROUTES
from nebh.model.api import Who

Plain = dict[str, Any]


def render_reference(app: Litestar) -> str:
    """Return the page: who may call what, then every operation with its parameters and shapes, then the shapes."""
    schema = describe(app, HANDLERS)
    lines = [
        "# The controller's API",
        "",
        "Generated from the code by `make docs`; a test fails when it is out of date.",
        "",
        "The API is spoken over HTTP/1.1 on `RUN/controller.sock`, through SSH (`nebh-controller stdio`), or over TLS 1.3 with",
        "`--listen`. The OpenAPI document is at `/schema/openapi.json`. No call is authority for a node: nodes obey signatures.",
        "",
        "**Tokens.** `POST /v1/nonces` gives a nonce; sign `nebh/v1/token\\n<kind>\\n<nonce>\\n` with an operator's key (kind",
        "`operator`), with a key that signs a service's releases (kind `ci`: it reaches that service only), or with a node's transport key (kind `node`, with the node-signed `transport` statement in `envelope`);",
        "`POST /v1/tokens` then gives a token for 15 minutes, sent as `Authorization: Bearer ...`.",
        "",
        "**Errors** are `{error, hint, kind, rule}`: 400 BadInput, 401 and 403 Refused, 404 NotFound, 409 Conflict, 422 Failed,",
        "500 Broken, 503 Unreachable.",
        "",
        "| operation | nobody | node | operator | CI key |",
        "|---|---|---|---|---|",
    ]
    for method, path, who in access_table():
        marks = " | ".join("yes" if one in who else "" for one in (Who.NOBODY, Who.NODE, Who.OPERATOR, Who.CI))
        lines.append(f"| `{method} {path_of(path)}` | {marks} |")
    for method, path, _ in access_table():
        lines += _operation(schema, method, path_of(path))
    lines += [
        "",
        "## The registry door",
        "",
        "Everything below `/v2` is the OCI distribution API 1.1, for `docker push`, `podman push` and `skopeo copy` over the TLS",
        "door (`docs/images-moving.md`). It takes tokens of its own: log in with any user name and the token as the password. An",
        "operator's bearer token does too. Errors have the fields above and, for these clients, `errors`.",
        "",
        "| operation | token for push | |",
        "|---|---|---|",
        *(
            f"| `{method} {path}` | {'yes' if push else ''} | {(act.__doc__ or '').strip()} |"
            for method, path, _, push, act in ROUTES
        ),
    ]
    lines += ["", "## Shapes", ""]
    for name, shape in sorted(schema["components"]["schemas"].items()):
        lines += _shape(name, shape)
    return "\n".join(lines) + "\n"


def _operation(schema: Plain, method: str, path: str) -> list[str]:
    found = schema["paths"][path][method.lower()]
    lines = ["", f"## {method} {path}", "", str(found.get("description", ""))]
    for parameter in found.get("parameters", ()):
        about = parameter.get("description", "")
        lines.append(
            f"- `{parameter['name']}` ({parameter['in']}): {_type(parameter['schema'])}{'; ' + about if about else ''}"
        )
    body = found.get("requestBody", {}).get("content", {})
    lines += [f"- body: {_type(one.get('schema', {}))}" for one in body.values()]
    for status, answer in sorted(found["responses"].items()):
        if status.startswith("2"):
            shapes = [_type(one.get("schema", {})) for one in answer.get("content", {}).values()]
            lines.append(f"- answers {status}{': ' + ', '.join(shapes) if shapes else ''}")
    return lines


def _shape(name: str, shape: Plain) -> list[str]:
    if "enum" in shape:
        return [f"**{name}**: {', '.join(f'`{value}`' for value in shape['enum'])}", ""]
    rows = [f"`{field}`: {_type(kind)}" for field, kind in shape.get("properties", {}).items()]
    about = " ".join(str(shape.get("description", "")).split())
    return [f"**{name}**{': ' + about if about else ''}", "", *(f"- {row}" for row in rows), ""]


def _type(shape: Plain) -> str:
    if "$ref" in shape:
        return str(shape["$ref"]).rpartition("/")[2]
    if "oneOf" in shape:
        return " or ".join(_type(one) for one in shape["oneOf"])
    if shape.get("type") == "array":
        return f"list of {_type(shape.get('items', {}))}"
    if isinstance(shape.get("additionalProperties"), dict):
        return f"object of {_type(shape['additionalProperties'])}"
    return str(shape.get("format") or shape.get("type") or "anything")

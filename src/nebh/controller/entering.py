"""Nobody becomes operator or node by signing a nonce."""

from __future__ import annotations

import base64
import binascii
import json

from nebh.controller.core import Core
from nebh.controller.identity import Caller, Unidentified, check_hex
from nebh.model.api import Nonce, Token, TokenRequest, Who
from nebh.model.errors import BadInput, Refused
from nebh.model.statement import TransportKey
from nebh.signing.statements import keyid_of, peek_statement, verify_raw, verify_statement
from nebh.wire.challenge import challenge


def give_nonce(core: Core) -> Nonce:
    """Return a nonce to sign."""
    return Nonce(nonce=core.identity.nonce())


def give_token(core: Core, request: TokenRequest) -> Token:
    """Return a token for whoever holds the key. Raises BadInput, Unidentified, Refused."""
    check_hex(request.key, size=32, what="the key")
    signature = check_hex(request.signature, size=64, what="the signature")
    caller = _known(core, request)
    message = challenge(kind=request.kind, nonce=request.nonce)
    if not verify_raw(public=request.key, signature=signature, data=message):
        raise Unidentified("cannot give a token: the signature over the nonce is wrong", again=False)
    core.identity.use_nonce(request.nonce)
    return core.identity.token(caller)


def still_known(core: Core, caller: Caller) -> bool:
    """Tell whether the published set still names the caller's key or node: a token does not outlive what it was given
    for."""
    match caller.kind:
        case Who.OPERATOR:
            return _is_operator(core, caller.key)
        case Who.NODE:
            return core.active_node(caller.node_id) is not None
        case Who.CI:
            return bool(ci_services(core, caller.key))
        case Who.NOBODY:
            return True


def ci_services(core: Core, key: str) -> frozenset[str]:
    """Return the services whose releases a hex key may sign."""
    if core.trusted is None:
        return frozenset()
    keyid = keyid_of(key)
    found = (one.paths[0].split("/") for one in core.trusted.delegations if keyid in one.keyids and one.paths)
    return frozenset(parts[1] for parts in found if len(parts) == 3)


def check_service(core: Core, caller: Caller, service: str) -> None:
    """Raise Refused when a CI key asks for another service than its own."""
    if caller.kind is Who.CI and service not in ci_services(core, caller.key):
        raise Refused(f"cannot do this for {service}: the CI key is not of that service", rule="identity", alarm=False)


def _is_operator(core: Core, key: str) -> bool:
    return core.trusted is not None and (key in core.trusted.operator_keys or key in _recovery_keys(core))


def _known(core: Core, request: TokenRequest) -> Caller:
    match request.kind:
        case Who.OPERATOR:
            if not _is_operator(core, request.key):
                raise Unidentified(
                    "cannot give a token: the key is no operator's in the published metadata",
                    again=False,
                    hint="was the key replaced? `nebh trust show` lists the keys",
                )
            return Caller(kind=Who.OPERATOR, name=request.key[:16], key=request.key)
        case Who.NODE:
            return _known_node(core, request)
        case Who.CI:
            if not ci_services(core, request.key):
                raise Unidentified(
                    "cannot give a token: the key signs no service's releases",
                    again=False,
                    hint="was it revoked? an operator lets it in: `nebh key add`",
                )
            return Caller(kind=Who.CI, name=f"ci:{request.key[:16]}", key=request.key)
        case Who.NOBODY:
            raise BadInput("cannot give a token to nobody", hint="kind is node, operator or ci")


def _recovery_keys(core: Core) -> frozenset[str]:
    """Return the keys of role root in the published set: whoever holds the recovery words may publish a root that
    names a new operator key, also when every operator key is lost."""
    data = core.repository.trusted_root(version=core.trusted.versions["root"]) if core.trusted else None
    if data is None:
        return frozenset()
    root = json.loads(data)["signed"]  # verified when it was published
    return frozenset(str(root["keys"][keyid]["keyval"]["public"]) for keyid in root["roles"]["root"]["keyids"])


def _known_node(core: Core, request: TokenRequest) -> Caller:
    try:
        data = decode_envelope(request.envelope)
        named = peek_statement(data, "transport", TransportKey).node_id
    except BadInput as error:
        raise Unidentified(
            f"cannot give a token: the envelope is no transport statement: {error.message}", again=False
        ) from error
    node = core.active_node(named)
    if node is None:
        raise Unidentified(
            "cannot give a token: the published list has no such active node",
            again=False,
            hint="was the node enrolled, and not revoked? `nebh status` shows it",
        )
    statement = verify_statement(
        data, "transport", TransportKey, keys=(node.sign_pk,), cluster_id=core.standing().nodes.cluster_id
    )
    if statement.transport_pk != request.key or statement.not_after * 1000 <= core.now():
        raise Unidentified("cannot give a token: the node's statement names another key, or is too old", again=False)
    return Caller(kind=Who.NODE, name=node.name, key=request.key, node_id=node.node_id)


def decode_envelope(text: str) -> bytes:
    """Return the bytes of an `envelope` field. Raises BadInput."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise BadInput("cannot read a signed statement: it is not base64") from error

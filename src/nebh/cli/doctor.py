"""`nebh doctor`: one line per look, with what gets it; exit status 1 when something fails."""

from __future__ import annotations

import argparse
import secrets
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

from nebh.cli.machine import layout_of, read_local
from nebh.cli.output import Output, harmless
from nebh.cli.session import Session, new_nonce
from nebh.client.frame_channel import connect_frames
from nebh.host.daemons import user_id
from nebh.host.layout import Layout
from nebh.host.listeners import ports_of_user
from nebh.host.program_tree import check_tree, own_tree
from nebh.host.run import is_root
from nebh.model import api
from nebh.model.errors import BadInput, NebhError, NotFound, Refused
from nebh.model.local import LocalConfig
from nebh.model.policy import NetPolicy
from nebh.model.statement import Assignment, Outcome, Phase
from nebh.wire import codec

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "red"}
SKEW = 5_000
SOON = 30 * 86_400
ROUND_TRIP = 30.0


@dataclass(frozen=True, kw_only=True)
class Look:
    """level: ok, warn or fail; remedy: what gets it, "" when fine."""

    area: str
    level: str
    sentence: str
    remedy: str = ""


def doctor(options: argparse.Namespace, out: Output) -> int:
    """Look at everything that can be seen from here; 1 when something fails."""
    looks: list[Look] = []
    for look in all_looks(options, out):
        looks.append(look)
        if not out.json_wanted:
            show(look, out)
    failed = sum(look.level == "fail" for look in looks)
    if out.json_wanted:
        out.document({"ok": not failed, "checks": [asdict(look) for look in looks]})
    else:
        warned = sum(look.level == "warn" for look in looks)
        out.say(f"{len(looks)} looks, {failed} failed, {warned} to watch")
    return 1 if failed else 0


def show(look: Look, out: Output) -> None:
    """Write one look."""
    out.say(f"{out.paint(f'{look.level:<4}', _COLOURS[look.level])}  {look.area}: {harmless(look.sentence)}")
    if look.remedy:
        out.say(f"      -> {harmless(look.remedy)}")


def all_looks(options: argparse.Namespace, out: Output) -> Iterator[Look]:
    """Yield every look, the quick ones first."""
    layout = layout_of(options)
    config = read_local(layout) if is_root() else None
    if config is not None:
        yield from node_looks(layout, config)
    else:
        here = "no node is here" if is_root() else "run it as root on a node to look at the node itself"
        yield Look(area="node", level="warn", sentence=f"the machine was not looked at: {here}")
    session = Session(options, out)
    try:
        yield from controller_looks(session)
    except NebhError as error:
        yield Look(area="controller", level="fail", sentence=error.message, remedy=error.hint)
    finally:
        session.close()


def node_looks(layout: Layout, config: LocalConfig) -> Iterator[Look]:
    """Yield what is to be seen on the node as root."""
    try:
        check_tree(own_tree())
        yield Look(area="programs", level="ok", sentence="only root can change them")
    except BadInput as error:
        yield Look(area="programs", level="fail", sentence=error.message, remedy=error.hint)
    try:
        connect_frames(layout.agent_socket).close()
        yield Look(area="agent", level="ok", sentence="it answers")
    except NebhError as error:
        yield Look(area="agent", level="fail", sentence=error.message, remedy="start nebh-agent (`nebh up`)")
    try:
        with connect_frames(layout.executor_socket) as channel:
            answer, _ = channel.request({"op": "doctor"}, timeout=60.0)
            for level, sentence, remedy in answer["checks"]:
                yield Look(area="node", level=level, sentence=sentence, remedy=remedy)
            status, _ = channel.request({"op": "status"})
            if status["cluster_id"]:
                yield forged_look(layout, status)
                yield exposure_look(layout, config, status)
    except NebhError as error:
        yield Look(area="executor", level="fail", sentence=error.message, remedy="start nebh-executor (`nebh up`)")


def forged_look(layout: Layout, status: dict[str, Any]) -> Look:
    """Hand the executor an assignment that is right in everything but its signature: it must refuse it."""
    from nebh.signing.keys import generate_key
    from nebh.signing.statements import sign_statement

    forged = Assignment(
        cluster_id=status["cluster_id"],
        node_id=status["node_id"],
        seq=int(status["seq"]) + 1,
        assignment_id=secrets.token_hex(16),
        nonce=new_nonce(),
        service="doctor-probe",
        epoch=0,
        counter=1,
        replicas=1,
        phase=Phase.PREPARE,
    )
    try:
        with connect_frames(layout.executor_socket) as channel:
            envelope = sign_statement("assignment", forged, generate_key())
            channel.request({"op": "submit", "kind": "assignment", "source": "doctor"}, envelope, timeout=60.0)
    except Refused as error:
        return Look(area="signatures", level="ok", sentence=f"a forged assignment was refused ({error.rule})")
    except NebhError as error:
        return Look(area="signatures", level="fail", sentence=f"a forged assignment met an error: {error.message}")
    return Look(
        area="signatures",
        level="fail",
        sentence="an assignment that nobody authorised signed was TAKEN",
        remedy="stop nebh-executor, install it afresh, and report this",
    )


def exposure_look(layout: Layout, config: LocalConfig, status: dict[str, Any]) -> Look:
    """Compare the ports that our proxy really listens on with those that signed policies declare."""
    declared: set[int] = set()
    with connect_frames(layout.executor_socket) as channel:
        for service in {one["service"] for one in status["running"]}:
            try:
                found, _ = channel.request({"op": "inspect", "service": service})
            except NotFound:
                continue
            if found["policy"]:
                net = codec.decode_loose(codec.encode(found["policy"]["net"]), NetPolicy, what="the policy")
                declared |= declared_ports(net, config)
    listening = ports_of_user(user_id(config.ingress_user, "nobody")[0])
    extra = sorted(listening - declared - {config.http_port, config.https_port})
    missing = sorted(declared - listening)
    if extra:
        text = f"port {', '.join(map(str, extra))} is open although no signed policy declares it"
        return Look(area="exposure", level="fail", sentence=text, remedy="restart nebh-executor")
    if missing:
        text = f"port {', '.join(map(str, missing))} is declared, and nobody listens"
        return Look(area="exposure", level="fail", sentence=text, remedy="`nebh events` says why; who has the port?")
    text = f"published are {', '.join(map(str, sorted(listening))) or 'no ports'}, and nothing that is not declared"
    return Look(area="exposure", level="ok", sentence=text)


def declared_ports(net: NetPolicy, config: LocalConfig) -> set[int]:
    """Return the TCP ports that a policy publishes."""
    ports: set[int] = set()
    for route in net.routes:
        if route.tcp_port:
            ports.add(route.tcp_port)
        else:
            ports.add(config.https_port if route.tls else config.http_port)
    return ports


def controller_looks(session: Session) -> Iterator[Look]:
    """Yield what the controller shows, and a well-signed request that must be carried out."""
    health = session.client.health()
    yield Look(area="controller", level="ok", sentence=f"it answers; snapshot {health.snapshot} is published")
    skew = health.now - int(time.time() * 1000)
    if abs(skew) > SKEW:
        text = f"its clock and this computer's differ by {abs(skew) / 1000:.0f} s"
        yield Look(area="clock", level="warn", sentence=text, remedy="set both by NTP")
    state = session.state()
    yield from expiry_looks(state.trusted.expires)
    status = session.client.status()
    for node in status.nodes:
        ago = max(0, health.now - node.last_seen) // 1000
        if node.connected:
            yield Look(area="nodes", level="ok", sentence=f"{node.name} is connected")
        else:
            since = f"not for {ago} s" if node.last_seen else "never was"
            remedy = "is nebh-agent running there, and can it reach the controller?"
            yield Look(area="nodes", level="fail", sentence=f"{node.name} is not connected, {since}", remedy=remedy)
    yield round_trip_look(session, status)


def expiry_looks(expires: dict[str, int]) -> Iterator[Look]:
    """Yield one look at what expires first, the timestamp apart: it is renewed by itself."""
    now = int(time.time())
    lasting = {role: at for role, at in expires.items() if role != "timestamp"}
    role = min(lasting, key=lambda name: lasting[name])
    days = (lasting[role] - now) // 86_400
    level = "ok" if lasting[role] - now > SOON else "warn" if lasting[role] > now else "fail"
    remedy = "" if level == "ok" else "`nebh trust renew`"
    yield Look(area="metadata", level=level, sentence=f"{role} expires first, in {days} days", remedy=remedy)
    if expires.get("timestamp", now + 1) <= now:
        remedy = "`nebh trust renew`, or restart nebh-controller"
        yield Look(area="metadata", level="fail", sentence="the timestamp has expired", remedy=remedy)


def round_trip_look(session: Session, status: api.Status) -> Look:
    """Ask for what is so already: controller, agent and executor must take it and the node must sign that it did."""
    from nebh.cli.watch import follow

    calm = [one for one in status.services if one.state == "running" and _is_calm(one.deployment)]
    if not calm or calm[0].deployment is None:
        text = "no service runs, so no request was tried; the forged one and the next deploy show the rest"
        return Look(area="signatures", level="ok", sentence=text)
    service, last, nonce = calm[0], calm[0].deployment, new_nonce()
    request = api.DeploymentRequest(
        counter=last.counter, epoch=last.epoch, replicas=last.replicas, phase=Phase.RUN, nonce=nonce
    )
    deployment = session.client.deploy(service.service, request)
    names = set(deployment.nodes)
    nodes = tuple(one for one in session.state().trusted.nodes.nodes if one.name in names or one.node_id in names)
    followed = follow(session, nonce=nonce, service=service.service, nodes=nodes, timeout=ROUND_TRIP)
    bad = {name: one for name, one in followed.receipts.items() if one.outcome is not Outcome.COMMITTED}
    if bad:
        name, receipt = next(iter(bad.items()))
        text = f"{name} did not take a well-signed request: {receipt.detail or receipt.outcome.value}"
        return Look(
            area="signatures", level="fail", sentence=text, remedy=receipt.hint or f"`nebh why {service.service}`"
        )
    who = ", ".join(followed.receipts)
    return Look(area="signatures", level="ok", sentence=f"a well-signed request was carried out and receipted by {who}")


def _is_calm(last: api.Deployment | None) -> bool:
    return last is not None and last.state is api.DeploymentState.DONE and last.phase is Phase.RUN

"""Looking: the cloud at a glance, a service's releases, versions. Fast to start: nothing but the controller's answers."""

from __future__ import annotations

import argparse
import time

from nebh import __version__
from nebh.cli.output import Output, harmless
from nebh.cli.session import Session
from nebh.client.api_client import Client
from nebh.model import api
from nebh.model.errors import NebhError
from nebh.model.event import Event, Severity
from nebh.model.quantities import render_duration, render_size
from nebh.wire import codec

WARN_DAYS = 30
_DAY = 86_400
_ALARM_MS = _DAY * 1000


def status(options: argparse.Namespace, out: Output) -> int:
    """Show nodes and services, what is under way, and what to look at soon."""
    client = Session(options, out).client
    if options.service:
        return _one_service(client.service(options.service), client.events(service=options.service).events, out)
    found = client.status()
    warnings = [*expiry_warnings(found.expires, now=found.now // 1000), *_silent(found), *_alarms(client, found.now)]
    if out.json_wanted:
        out.document({**codec.to_plain(found), "warnings": warnings})
        return 0
    out.say(f"{out.paint(harmless(found.name), 'bold')}: snapshot {found.snapshot}, controller {found.version}")
    out.say()
    out.table(("NODE", "STATUS", "HEARD", "SNAPSHOT"), [_node_row(one, found.now) for one in found.nodes])
    out.say()
    if found.services:
        heads = ("SERVICE", "STATE", "RELEASE", "READY", "NODES", "UNDER WAY")
        out.table(heads, [_service_row(one) for one in found.services])
    else:
        out.say("no service yet: `nebh deploy SPEC.yaml`")
    for line in warnings:
        out.say(out.paint(f"! {harmless(line)}", "yellow"))
    return 0


def _node_row(node: api.NodeView, now: int) -> tuple[object, ...]:
    heard = "never" if not node.last_seen else "now" if node.connected else f"{ago(now - node.last_seen)} ago"
    return node.name, node.status, heard, node.report.snapshot if node.report else "-"


def _service_row(view: api.ServiceView) -> tuple[object, ...]:
    running = [one.running for one in view.allocations]
    counters = sorted({one.counter for one in running if one.counter})
    ready, wanted = sum(one.ready for one in running), sum(one.replicas for one in running)
    nodes = ", ".join(one.node for one in view.allocations) or "-"
    release = ", ".join(map(str, counters)) or "-"
    return view.service, view.state, release, f"{ready}/{wanted}", nodes, under_way(view) or "-"


def under_way(view: api.ServiceView) -> str:
    """Return what is open for a service, in words; "" when nothing is."""
    opened = {
        f"{one.running.transaction.lower().replace('_', ' ')} release {one.running.target}"
        for one in view.allocations
        if one.running.transaction
    }
    last = view.deployment
    if not opened and last is not None and last.state is api.DeploymentState.OPEN:
        opened = {f"{last.phase.value} release {last.counter}, asked by {last.by}"}
    return "; ".join(sorted(opened))


def _one_service(view: api.ServiceView, events: tuple[Event, ...], out: Output) -> int:
    bad = [one for one in events if one.severity is not Severity.INFO][-3:]
    if out.json_wanted:
        out.document({**codec.to_plain(view), "warnings": [one.message for one in bad]})
        return 0
    out.say(f"{out.paint(view.service, 'bold')}: {view.state}, policy version {view.policy_version}")
    rows = [
        (one.node, one.running.counter or "-", f"{one.running.ready}/{one.running.replicas}", one.running.transaction)
        for one in view.allocations
    ]
    out.table(("NODE", "RELEASE", "READY", "UNDER WAY"), rows)
    if view.deployment is not None:
        last = view.deployment
        when = clock(last.at)
        text = f"last asked for: {last.phase.value} release {last.counter} by {harmless(last.by)} at {when}"
        out.say(f"{text}: {last.state.value}")
    for event in bad:
        out.say(out.paint(f"! {clock(event.at)} {harmless(event.message)}", "yellow"))
    if bad:
        out.say(f"more with: nebh why {view.service}")
    return 0


def expiry_warnings(expires: dict[str, int], *, now: int) -> list[str]:
    """Return a line for each role that expired or will within 30 days (the timestamp, renewed by itself: one day)."""
    lines = []
    for role, end in sorted(expires.items()):
        ahead = _DAY if role == "timestamp" else WARN_DAYS * _DAY
        if end <= now:
            when = f" on {time.strftime('%Y-%m-%d', time.gmtime(end))}" if end else ""
            lines.append(f"signed role {role} expired{when}: `nebh trust renew`; what runs runs on")
        elif end - now < ahead:
            left = render_duration((end - now) * 1000)
            lines.append(f"signed role {role} expires in {left}: `nebh trust renew`")
    return lines


def _silent(found: api.Status) -> list[str]:
    return [
        f"node {one.name} was not heard of for {ago(found.now - one.last_seen)}; what runs there runs on"
        if one.last_seen
        else f"node {one.name} was never heard of: is its agent running?"
        for one in found.nodes
        if not one.connected and one.status == "active"
    ]


def _alarms(client: Client, now: int) -> list[str]:
    try:
        events = client.events().events
    except NebhError:
        return []
    found = [one for one in events if one.severity is Severity.ALARM and now - one.at < _ALARM_MS]
    return [f"{clock(one.at)} {one.source}: {one.message}" for one in found[-3:]]


def ago(milliseconds: int) -> str:
    """Return how long ago something was."""
    return render_duration(max(milliseconds, 0))


def clock(milliseconds: int) -> str:
    """Return a local time: with the date when it is not today's."""
    when = time.localtime(milliseconds / 1000)
    today = time.localtime()[:3] == when[:3]
    return time.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M", when)


def releases(options: argparse.Namespace, out: Output) -> int:
    """Show a service's listed releases, newest first."""
    session = Session(options, out)
    found = session.client.releases(options.service)
    view = session.client.service(options.service)
    policy = session.state().trusted.policies.get(options.service)
    pins = set(policy.pins) if policy else set()
    running = {one.running.counter for one in view.allocations}
    if out.json_wanted:
        rows = [
            {**codec.to_plain(one), "running": one.counter in running, "pinned": one.counter in pins} for one in found
        ]
        out.document({"service": options.service, "releases": rows})
        return 0
    heads = ("RELEASE", "SIGNED", "BY", "IMAGE", "SIZE", "STATE")
    out.table(heads, [_release_row(one, running=one.counter in running, pinned=one.counter in pins) for one in found])
    return 0


def _release_row(one: api.ReleaseView, *, running: bool, pinned: bool) -> tuple[object, ...]:
    image = next(iter(one.images.values()), None)
    states = ["running"] if running else []
    if one.committed_at and not running:
        states.append(f"committed {clock(one.committed_at)}")
    if one.outcome and one.outcome != "done":
        states.append(one.outcome)
    if pinned:
        states.append("pinned")
    author = one.built_from.get("author", "-")
    where = f"{author}@{one.built_from['host']}" if one.built_from.get("host") else author
    return (
        f"{'*' if running else ' '} {one.counter}",
        clock(one.signed_at * 1000),
        where,
        image.manifest[:12] if image else "-",
        render_size(image.bytes) if image else "-",
        ", ".join(states) or "never deployed",
    )


def version(options: argparse.Namespace, out: Output) -> int:
    """Show the version of this program, of the controller and of the nodes."""
    found: dict[str, object] = {"nebh": __version__, "controller": "", "nodes": {}}
    problem = ""
    try:
        client = Session(options, out).client
        found["controller"] = client.health().version
        found["nodes"] = {one.name: one.report.version if one.report else "" for one in client.nodes()}
    except NebhError as error:
        problem = error.message
    if out.json_wanted:
        out.document({**found, "error": problem})
        return 0
    out.say(f"nebh {__version__}")
    if found["controller"]:
        out.say(f"controller {harmless(str(found['controller']))}")
    nodes = found["nodes"]
    for name, text in nodes.items() if isinstance(nodes, dict) else ():
        out.say(f"node {harmless(name)} {harmless(text) or 'unknown'}")
    if problem:
        out.note(f"{harmless(problem)}")
    return 0

"""What the executor alone can look at for `nebh doctor`: real packets, its floors, its disk."""

from __future__ import annotations

from nebh.drivers.networks.foreign import ForeignDrops
from nebh.executor.context import Context
from nebh.host.disk import free_bytes
from nebh.model.errors import NebhError
from nebh.model.quantities import render_size

Check = tuple[str, str, str]
"""(ok | warn | fail, sentence, what gets it)."""


def checkup(context: Context) -> tuple[Check, ...]:
    """Look at network, clock, disk and open work; some ms, at most 4 s when a firewall swallows our packets."""
    return (_enrolled(context), _clock(context), _disk(context), *_network(context), *_work(context))


def _enrolled(context: Context) -> Check:
    meta = context.accepted.meta
    if not meta("cluster_id"):
        return ("fail", "this node belongs to no cloud", "`nebh up` founds one")
    if context.accepted.nodes() is None:
        return ("fail", "this node has not accepted any signed metadata yet", "is the controller reachable from here?")
    return ("ok", f"node {meta('node_name')} of cluster {meta('cluster_id')[:12]} has accepted its signed record", "")


def _clock(context: Context) -> Check:
    newest = context.accepted.state().newest_signed_at
    now = context.clock.now_ms() // 1000
    if now < newest:
        behind = newest - now
        return (
            "fail",
            f"the clock is {behind} s behind what operators signed: nothing new is accepted",
            "set the clock",
        )
    return ("ok", "the clock is not behind what operators signed", "")


def _disk(context: Context) -> Check:
    free, reserve = free_bytes(context.layout.state), context.config.reserve
    sentence = f"{render_size(free)} of disk are free; {render_size(reserve)} are kept back"
    if free < reserve:
        return ("fail", f"{sentence}: nothing can be deployed", "free some, or lower `retention` of large services")
    level = "warn" if free < 2 * reserve else "ok"
    return (level, sentence, "free some before the next deploy" if level == "warn" else "")


def _network(context: Context) -> tuple[Check, ...]:
    probe = getattr(context.drivers.networks, "probe_foreign_drop", None)
    if probe is None or context.accepted.nodes() is None:
        return ()
    try:
        found: ForeignDrops = probe()
    except (NebhError, OSError) as error:
        return (("fail", f"packets between instances could not be tried: {error}", "restart nebh-executor"),)
    if found.is_fine:
        return (("ok", "packets between instances and to the resolver come through", ""),)
    broken = [f"between instances ({version})" for version, word in found.between.items() if word != "ok"]
    broken += [f"to the resolver ({version})" for version, word in found.names.items() if word != "ok"]
    what = "packets " + ", ".join(broken) + " do not come through"
    if not found.chains:
        return (("fail", f"{what}, and no other table explains it", "restart nebh-executor; does the kernel forward?"),)
    return tuple(
        (
            "fail",
            f"{what}: the chain {one.chain} of table {one.family} {one.table} may drop them",
            "; ".join(one.advice),
        )
        for one in found.chains
    )


def _work(context: Context) -> tuple[Check, ...]:
    now = context.clock.now_ms()
    return tuple(
        (
            "warn",
            f"a transaction of {row.service} is {row.state.value} for {(now - row.changed_at) // 1000} s",
            "`nebh why`",
        )
        for row in context.work.open_transactions()
        if now - row.changed_at > 600_000
    )

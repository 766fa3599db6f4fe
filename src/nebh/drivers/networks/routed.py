"""The network driver: one routed veth per instance, one table of ours, both made by the networker."""

from __future__ import annotations

import threading
from dataclasses import replace

from nebh.drivers.networks import foreign, nft_rules
from nebh.drivers.networks.foreign import ForeignDrops
from nebh.drivers.networks.nft_rules import Table
from nebh.host.run import Command, CommandFailed
from nebh.host.worker import Worker
from nebh.model.errors import Broken, NotFound
from nebh.model.network import (
    GATEWAY_INDEX,
    PUBLIC_RESOLVER_INDEX,
    RESOLVER_INDEX,
    Allow,
    InstanceNet,
    LinkPlan,
    NetworkRules,
    addresses,
    link_plan,
)

# free numbers below the first endpoint
_PROBE_SOURCE, _PROBE_TARGET, _PROBE_ENDPOINT, _PROBE_UNUSED = 4, 5, 6, 7
_PROBE_PORT = 7


class RoutedNetwork:
    """See NetworkDriver. worker: a networker (`nebh.host.networker.fork_networker`). Thread-safe."""

    def __init__(self, worker: Worker, *, connections: int = nft_rules.CONNECTIONS) -> None:
        self._worker = worker
        self._connections = connections
        self._lock = threading.Lock()
        self._subnets: tuple[str, ...] = ()
        self._applied: Table | None = None
        self._rules: NetworkRules | None = None

    def ensure(self, subnets: tuple[str, ...]) -> None:
        """Make what all links share. A table of ours that stands already stays as it is."""
        own = [addresses(subnets, index) for index in (RESOLVER_INDEX, PUBLIC_RESOLVER_INDEX, GATEWAY_INDEX)]
        both = [address for pair in own for address in (pair.v4, pair.v6)]
        with self._lock:
            if not self._table_stands():
                self._load(nft_rules.build_table(NetworkRules(subnets=subnets), connections=self._connections))
            self._worker.call("ensure", {"own": both, "subnets": list(subnets)})
            self._subnets = subnets

    def attach(self, link: LinkPlan) -> str:
        """Make namespace and link; return the namespace's path."""
        if not self._subnets:
            raise Broken(f"cannot attach {link.name}: the network was not ensured")
        gateway = addresses(self._subnets, GATEWAY_INDEX)
        own = [link.pair.v4, link.pair.v6]
        path, _ = self._worker.call("attach", {"name": link.name, "own": own, "gateway": [gateway.v4, gateway.v6]})
        return str(path)

    def hand_over(self, link_name: str) -> None:
        """Forget the namespace."""
        self._worker.call("hand_over", {"name": link_name})

    def detach(self, link_name: str) -> None:
        """Remove the link."""
        self._worker.call("detach", {"name": link_name})

    def links(self) -> tuple[str, ...]:
        """Return the names of our links."""
        names, _ = self._worker.call("links")
        return tuple(names)

    def reach(self, address: str, port: int) -> str:
        """See NetworkDriver."""
        found: str = self._worker.call("reach", {"address": address, "port": port})[0]
        return found

    def apply(self, rules: NetworkRules) -> None:
        """Replace the whole table. Its counters start again at 0."""
        table = nft_rules.build_table(rules, connections=self._connections)
        with self._lock:
            self._load(table)
            self._rules = rules

    def swap(self, rules: NetworkRules) -> None:
        """As `apply`, but send only the elements that differ from what was applied last when that is enough."""
        table = nft_rules.build_table(rules, connections=self._connections)
        with self._lock:
            self._change(table)
            self._rules = rules

    def repair(self) -> bool:
        """Look whether our table and forwarding stand, some ms; put back what `nft flush ruleset` or `sysctl` took."""
        with self._lock:
            self._worker.call("forward")
            if self._applied is None or self._table_stands():
                return False
            self._load(self._applied)
            return True

    def remove(self, *, subnets: tuple[str, ...] = ()) -> None:
        """Take away the table, the shared interface and its routes. Forwarding stays on. subnets: where `ensure` was
        another process's."""
        with self._lock:
            self._nft(nft_rules.render_removal())
            self._applied = self._rules = None
            self._worker.call("remove", {"subnets": list(subnets or self._subnets)})

    def counters(self) -> dict[str, int]:
        """Return packets by counter since the last `apply`: `spoofed`, `never`, `refused_<service>`, ..."""
        try:
            result = self._worker.run(Command(argv=("nft", "list", "counters", "table", "inet", "nebh"), timeout=20))
        except CommandFailed as error:
            raise NotFound("cannot read the counters: our table is not there", hint="run `nebh doctor`") from error
        return nft_rules.parse_counters(result.text)

    def probe_foreign_drop(self) -> ForeignDrops:
        """Send real packets between two links made for it, and to the resolver; when they do not come through, name
        the chains of other tables that may be why. Cut-overs wait meanwhile: some ms, at most 8 s when all is dropped.
        """
        with self._lock:
            rules = self._rules or NetworkRules(subnets=self._subnets)
            if self._applied is None or not self._subnets:
                raise Broken("cannot probe the network: no rules were applied yet")
            source, target = (link_plan(self._subnets, index) for index in (_PROBE_SOURCE, _PROBE_TARGET))
            try:
                self.attach(source)
                self.attach(target)
                self._change(nft_rules.build_table(_with_probe(rules, source, target), connections=self._connections))
                between, names = self._try(source, target)
            finally:
                self.detach(source.name)
                self.detach(target.name)
                self._change(nft_rules.build_table(rules, connections=self._connections))
            listing = self._worker.run(Command(argv=("nft", "-j", "list", "ruleset"), timeout=20)).text
        return foreign.judge(between=between, names=names, ruleset=listing)

    def _try(self, source: LinkPlan, target: LinkPlan) -> tuple[dict[str, str], dict[str, str]]:
        endpoint = addresses(self._subnets, _PROBE_ENDPOINT)
        resolver = addresses(self._subnets, RESOLVER_INDEX)
        ask = {"name": "probe.nebh.internal", "timeout": 0.5}
        between: dict[str, str] = {}
        names: dict[str, str] = {}
        for version in ("v4", "v6"):
            listen = getattr(target.pair, version)
            links = {"source": source.name, "target": target.name, "listen": listen, "port": _PROBE_PORT}
            args = {**links, "address": getattr(endpoint, version)}
            for timeout in (1.0, 2.0):  # on a busy machine one packet may come late: that is no firewall
                between[version] = str(self._worker.call("exchange", {**args, "timeout": timeout})[0])
                if between[version] != "silent":
                    break
            question = {**ask, "server": getattr(resolver, version)}
            # a resolver that answers nobody is not the firewall's doing
            if self._worker.call("ask", question)[0]["status"] != "silent":
                answer = self._worker.call("ask", {**question, "inside": source.name})[0]["status"]
                names[version] = "silent" if answer == "silent" else "ok"
        return between, names

    def _change(self, table: Table) -> None:
        change = None if self._applied is None else nft_rules.render_change(self._applied, table)
        if change is None:
            self._load(table)
            return
        try:
            if change:
                self._nft(change)
        except CommandFailed:  # somebody changed our table behind our back: put it right as a whole
            self._load(table)
        self._applied = table

    def _table_stands(self) -> bool:
        command = Command(argv=("nft", "list", "chain", "inet", "nebh", "from_instance"), accept=(0, 1), timeout=20)
        return "goto refuse" in self._worker.run(command).text

    def _load(self, table: Table) -> None:
        self._nft(nft_rules.render_table(table))
        self._applied = table

    def _nft(self, text: str) -> None:
        # The first one after a boot makes the kernel load ten modules, on a slow machine for half a minute.
        self._worker.run(Command(argv=("nft", "-f", "-"), stdin=text.encode(), timeout=120))


def _with_probe(rules: NetworkRules, source: LinkPlan, target: LinkPlan) -> NetworkRules:
    # upper-case names are no names of services: they cannot be anybody's
    unused, endpoint = (addresses(rules.subnets, index) for index in (_PROBE_UNUSED, _PROBE_ENDPOINT))
    more = (
        InstanceNet(link=source, service="PROBE-A", endpoint=unused, serving=False),
        InstanceNet(link=target, service="PROBE-B", endpoint=endpoint, serving=True),
    )
    allow = Allow(source="PROBE-A", target="PROBE-B", port=_PROBE_PORT)
    return replace(rules, instances=(*rules.instances, *more), allows=(*rules.allows, allow))

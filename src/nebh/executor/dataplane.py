"""Brings network, names and ingress to what the journal says, one at a time."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable

from nebh.executor.context import Context
from nebh.executor.instances import release_of
from nebh.executor.tls_keys import TlsKeys
from nebh.model.errors import Failed
from nebh.model.network import IngressPlan, NetworkRules, SlotChange, SlotState
from nebh.model.policy import Policy
from nebh.model.work import InstanceRow, Role
from nebh.planning import dataplane

Rows = tuple[InstanceRow, ...]


def with_roles(rows: Rows, roles: dict[str, Role]) -> Rows:
    """Return the rows as they will be once `roles` are journalled."""
    return tuple(dataclasses.replace(one, role=roles[one.id]) if one.id in roles else one for one in rows)


class Dataplane:
    """Computes from the journal, then loads. `resting`: serving instances that are not ready just now."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._drivers = context.drivers
        self.lock = threading.RLock()
        self.resting: set[str] = set()
        self.tls = TlsKeys(context)
        self.changed: Callable[[], None] = lambda: None
        """Told after routes were made known to the ingress."""

    def _endpoints(self, rows: Rows) -> dataplane.Endpoints:
        work = self._context.work
        return {(one.service, one.replica): work.endpoint(one.service, one.replica) for one in rows}

    def rules(self, rows: Rows | None = None) -> NetworkRules:
        """Return the table for `rows` (default: the journal's)."""
        found = self._context.work.instances() if rows is None else rows
        return dataplane.network_rules(
            instances=found,
            endpoints=self._endpoints(found),
            policies=self._bounds(found),
            subnets=self._context.subnets(),
            apart=self._context.rehearsals.rows(),
        )

    def _effective(self, rows: Rows) -> dict[str, Policy]:
        """Return the policy in effect of every service that has instances."""
        found = {name: self._context.accepted.effective(name) for name in {one.service for one in rows}}
        return {name: policy for name, policy in found.items() if policy is not None}

    def _bounds(self, rows: Rows) -> dict[str, Policy]:
        """Return what each service may do on the network: during a transaction what either side's policy declares."""
        found = self._effective(rows)
        for row in self._context.work.open_transactions():
            accepted = self._context.accepted
            for other in (accepted.policy(row.service), accepted.fallback(row.service)):
                if row.service in found and other is not None:
                    found[row.service] = dataplane.join_bounds(found[row.service], other)
        return found

    def apply_network(self) -> None:
        """Bring the table to what the journal says."""
        with self.lock:
            self._drivers.networks.swap(self.rules())

    def swap_endpoints(self, rules: NetworkRules) -> None:
        """Lead the endpoints where `rules` say: only what differs is changed."""
        with self.lock:
            self._drivers.networks.swap(rules)

    def apply_names(self) -> None:
        """Answer the names that the journal says."""
        with self.lock:
            found = self._context.work.instances()
            subnets = self._context.subnets()
            self._drivers.dns.apply(
                dataplane.dns_records(instances=found, endpoints=self._endpoints(found), subnets=subnets)
            )

    def plan(self, rows: Rows | None = None) -> IngressPlan:
        """Return what the ingress should know."""
        found = self._context.work.instances() if rows is None else rows
        policies = self._effective(found)
        plan = dataplane.ingress_plan(
            instances=found,
            ports={one.id: release_of(self._context, one).ports for one in found},
            policies=policies,
            subnets=self._context.subnets(),
            config=self._context.config,
            resting=frozenset(self.resting),
        )
        return dataclasses.replace(plan, pems=self.tls.pems(policies), challenges=self.tls.challenges(policies))

    def policies(self) -> dict[str, Policy]:
        """Return the policy in effect of every service that has instances here."""
        return self._effective(self._context.work.instances())

    def configure_ingress(self) -> None:
        """Make routes and slots of the journal known to the ingress."""
        with self.lock:
            plan = self.plan()
            try:
                self._drivers.ingress.configure(plan)
            except Failed:
                # it may have been killed a moment ago: start it, then it must work
                self._drivers.ingress.ensure(plan)
                self._drivers.ingress.configure(plan)
        self.changed()

    def record_ingress(self) -> None:
        """Write the file that a cold start of the ingress reads."""
        with self.lock:
            self._drivers.ingress.record(self.plan())

    def switch(self, changes: tuple[SlotChange, ...]) -> None:
        """Set slots in one batch."""
        if changes:
            with self.lock:
                try:
                    self._drivers.ingress.switch(changes)
                except Failed:
                    # as above
                    self._drivers.ingress.ensure(self.plan())
                    self._drivers.ingress.switch(changes)

    def settle(self) -> None:
        """Names, routes and the file of a cold start as the journal says: what follows a change of roles."""
        self.apply_names()
        self.configure_ingress()
        self.record_ingress()

    def rest(self, one: InstanceRow, *, resting: bool) -> None:
        """Take a serving instance out of traffic while it restarts, or put it back. Without routes: nothing to do."""
        with self.lock:
            (self.resting.add if resting else self.resting.discard)(one.id)
            now = self._context.work.instance(one.id)
            if now is None or now.role is Role.LEAVING:
                self.resting.discard(one.id)
                return
            one = now  # its role may have changed since the caller looked
            policy = self._context.accepted.effective(one.service)
            if policy is None:
                return
            if resting:
                self.switch(dataplane.slot_changes(policy=policy, ready=(), drain=(one,), then=SlotState.MAINT))
            elif one.role is Role.SERVING:
                self.switch(dataplane.slot_changes(policy=policy, ready=(one,), drain=()))
            self.record_ingress()

    def ensure_ingress(self) -> None:
        """Have the proxy running as the journal says."""
        with self.lock:
            self._drivers.ingress.ensure(self.plan())

    def ensure(self) -> None:
        """After a start: everything shared is there and shows what the journal says."""
        with self.lock:
            subnets = self._context.subnets()
            self._drivers.networks.ensure(subnets)
            self._drivers.networks.apply(self.rules())
            self._drivers.dns.ensure(subnets)
            self.apply_names()
            self._drivers.ingress.ensure(self.plan())

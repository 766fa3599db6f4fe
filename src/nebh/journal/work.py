"""What this node is doing: services, transactions, instances, endpoints and the effects under way."""

from __future__ import annotations

import json
from typing import Any

from nebh.journal.database import Database
from nebh.model.errors import Broken
from nebh.model.network import FIRST_ENDPOINT, FIRST_INSTANCE, LAST_INSTANCE
from nebh.model.transaction import ENDED, State, is_legal
from nebh.model.work import InstanceRow, Role, ServiceRow, TransactionRow, Wanted

KEPT_EFFECTS = 5_000
_TRANSACTION = (
    "id, service, kind, state, epoch, from_counter, to_counter, replicas, nonce, phase, cutover, attempt, created_at,"
    " changed_at, reason, rule, phases, data, snapshot, live"
)
_INSTANCE = "id, service, epoch, counter, replica, attempt, address, slot, role, txn, created_at, restarts, last_exit"
_SERVICE = "service, uid_index, epoch, counter, replicas, wanted, assignment"
_OPEN = "state NOT IN ({})".format(", ".join(f"'{state}'" for state in sorted(ENDED)))


class Work:
    """The tables of the node's doing. Reads give values; writes are durable on return."""

    def __init__(self, database: Database) -> None:
        self.database = database

    # services

    def services(self) -> tuple[ServiceRow, ...]:
        """Return every service that this node knows."""
        rows = self.database.read(f"SELECT {_SERVICE} FROM services ORDER BY service")
        return tuple(_service(row) for row in rows)

    def service(self, name: str) -> ServiceRow | None:
        """Return one service."""
        rows = self.database.read(f"SELECT {_SERVICE} FROM services WHERE service = ?", name)
        return _service(rows[0]) if rows else None

    def ensure_service(self, name: str, *, epoch: int) -> ServiceRow:
        """Return a service, made with a user id range of its own when it is new."""
        with self.database.atomically():
            found = self.service(name)
            if found is not None:
                return found
            index = int(self.database.read("SELECT COALESCE(MAX(uid_index) + 1, 0) FROM services")[0][0])
            self.database.write("INSERT INTO services VALUES (?, ?, ?, 0, 0, 'running', '')", name, index, epoch)
            return ServiceRow(service=name, uid_index=index, epoch=epoch, counter=0, replicas=0, wanted=Wanted.RUNNING)

    def set_service(self, name: str, *, epoch: int, counter: int, replicas: int, wanted: Wanted) -> None:
        """Note what is committed and wanted."""
        self.database.write(
            "UPDATE services SET epoch = ?, counter = ?, replicas = ?, wanted = ? WHERE service = ?",
            epoch,
            counter,
            replicas,
            wanted.value,
            name,
        )

    def set_assignment(self, name: str, envelope: str) -> None:
        """Keep the newest assignment of a service (base64 of its envelope)."""
        self.database.write("UPDATE services SET assignment = ? WHERE service = ?", envelope, name)

    # transactions

    def open_transactions(self) -> tuple[TransactionRow, ...]:
        """Return transactions that have not ended."""
        rows = self.database.read(f"SELECT {_TRANSACTION} FROM transactions WHERE {_OPEN} ORDER BY id")
        return tuple(_transaction(row) for row in rows)

    def open_transaction(self, service: str) -> TransactionRow | None:
        """Return the service's open transaction; there is at most one."""
        found = [row for row in self.open_transactions() if row.service == service]
        return found[0] if found else None

    def transaction(self, number: int) -> TransactionRow:
        """Return one transaction."""
        rows = self.database.read(f"SELECT {_TRANSACTION} FROM transactions WHERE id = ?", number)
        if not rows:
            raise Broken(f"cannot find transaction {number} in the journal")
        return _transaction(rows[0])

    def history(self, service: str = "", *, limit: int = 50) -> tuple[TransactionRow, ...]:
        """Return transactions, newest first."""
        rows = self.database.read(
            f"SELECT {_TRANSACTION} FROM transactions WHERE ? IN ('', service) ORDER BY id DESC LIMIT ?",
            service,
            limit,
        )
        return tuple(_transaction(row) for row in rows)

    def knows(self, nonce: str) -> bool:
        """Tell whether anything came of the command with `nonce`: a transaction or a receipt."""
        return bool(
            self.database.read(
                "SELECT 1 FROM transactions WHERE nonce = ? UNION SELECT 1 FROM receipts WHERE nonce = ?", nonce, nonce
            )
        )

    def begin(self, row: TransactionRow) -> TransactionRow:
        """Journal a new transaction (its id is given here)."""
        number = self.database.write(
            "INSERT INTO transactions (service, kind, state, epoch, from_counter, to_counter, replicas, nonce, phase,"
            " attempt, created_at, changed_at, reason, rule, data, snapshot)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row.service,
            row.kind,
            row.state.value,
            row.epoch,
            row.from_counter,
            row.to_counter,
            row.replicas,
            row.nonce,
            row.phase,
            row.attempt,
            row.created_at,
            row.changed_at,
            row.reason,
            row.rule,
            row.data,
            row.snapshot,
        )
        return self.transaction(number)

    def move(
        self, row: TransactionRow, state: State, *, now: int, reason: str = "", rule: str = "", cutover: bool = False
    ) -> TransactionRow:
        """Journal a legal transition; the time spent in the state left is added to `phases`."""
        if not is_legal(row.state, state):
            raise Broken(f"cannot take transaction {row.id} from {row.state} to {state}: there is no such transition")
        phases = dict(row.phases)
        phases[row.state.value.lower()] = phases.get(row.state.value.lower(), 0) + max(0, now - row.changed_at)
        self.database.write(
            "UPDATE transactions SET state = ?, changed_at = ?, phases = ?, reason = ?, rule = ?,"
            " cutover = MAX(cutover, ?) WHERE id = ?",
            state.value,
            now,
            json.dumps(phases),
            reason or row.reason,
            rule or row.rule,
            int(cutover),
            row.id,
        )
        return self.transaction(row.id)

    def set_phase(self, number: int, phase: str) -> None:
        """Let a prepared transaction go on (`run`)."""
        self.database.write("UPDATE transactions SET phase = ? WHERE id = ?", phase, number)

    def set_data(self, number: int, choice: str) -> TransactionRow:
        """Note what going back does with the data; return the row as it is now."""
        self.database.write("UPDATE transactions SET data = ? WHERE id = ?", choice, number)
        return self.transaction(number)

    def set_live(self, number: int, *, live: bool) -> TransactionRow:
        """Note whether the transaction only replaces files under running instances; return the row as it is now."""
        self.database.write("UPDATE transactions SET live = ? WHERE id = ?", int(live), number)
        return self.transaction(number)

    def adopt(self, number: int, *, nonce: str, phase: str) -> None:
        """Let a later command take over a prepared transaction."""
        self.database.write("UPDATE transactions SET nonce = ?, phase = ? WHERE id = ?", nonce, phase, number)

    def prune(self, *, keep: int) -> None:
        """Forget ended transactions but the newest `keep` of each service."""
        self.database.write(
            f"DELETE FROM transactions WHERE NOT ({_OPEN}) AND id IN (SELECT id FROM (SELECT id, ROW_NUMBER() OVER"
            " (PARTITION BY service ORDER BY id DESC) AS place FROM transactions) WHERE place > ?)",
            keep,
        )

    # effects

    def effect_begins(self, transaction: int, name: str, *, now: int) -> int:
        """Journal that an effect is about to happen."""
        with self.database.atomically():
            number = self.database.write(
                "INSERT INTO effects (txn, name, began) VALUES (?, ?, ?)", transaction, name, now
            )
            if number % 256 == 0:
                self.database.write("DELETE FROM effects WHERE id <= ?", number - KEPT_EFFECTS)
            return number

    def effect_ended(self, number: int, *, now: int) -> None:
        """Journal that an effect has happened."""
        self.database.write("UPDATE effects SET ended = ? WHERE id = ?", now, number)

    def effects(self, transaction: int) -> tuple[tuple[str, int, int], ...]:
        """Return (name, began, ended) of a transaction's effects; times Unix ms, ended 0 = cut short."""
        rows = self.database.read("SELECT name, began, ended FROM effects WHERE txn = ? ORDER BY id", transaction)
        return tuple((name, began, ended) for name, began, ended in rows)

    # instances

    def instances(self, service: str = "") -> tuple[InstanceRow, ...]:
        """Return instances that exist or should."""
        rows = self.database.read(
            f"SELECT {_INSTANCE} FROM instances WHERE ? IN ('', service) ORDER BY service, replica, attempt",
            service,
        )
        return tuple(_instance(row) for row in rows)

    def instance(self, name: str) -> InstanceRow | None:
        """Return one instance."""
        rows = self.database.read(f"SELECT {_INSTANCE} FROM instances WHERE id = ?", name)
        return _instance(rows[0]) if rows else None

    def add_instance(self, row: InstanceRow) -> None:
        """Journal an instance before anything of it exists."""
        self.database.write(
            "INSERT INTO instances VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            row.id,
            row.service,
            row.epoch,
            row.counter,
            row.replica,
            row.attempt,
            row.address,
            row.slot,
            row.role.value,
            row.txn,
            row.created_at,
            row.restarts,
            row.last_exit,
        )

    def set_roles(self, roles: dict[str, Role]) -> None:
        """Give instances new roles, in one commit."""
        with self.database.atomically():
            for name, role in roles.items():
                self.database.write("UPDATE instances SET role = ? WHERE id = ?", role.value, name)

    def set_counter(self, names: tuple[str, ...], counter: int) -> None:
        """Let instances be of another release of their service, in one commit."""
        with self.database.atomically():
            for name in names:
                self.database.write("UPDATE instances SET counter = ? WHERE id = ?", counter, name)

    def note_exit(self, name: str, text: str) -> None:
        """Note why an instance ended, and count its restart."""
        self.database.write("UPDATE instances SET last_exit = ?, restarts = restarts + 1 WHERE id = ?", text, name)

    def remove_instance(self, name: str, *, now: int) -> None:
        """Forget an instance of which nothing but its logs is left."""
        with self.database.atomically():
            self.database.write(
                "INSERT OR REPLACE INTO former (id, service, ended_at) SELECT id, service, ? FROM instances WHERE id = ?",
                now,
                name,
            )
            self.database.write("DELETE FROM instances WHERE id = ?", name)

    def next_attempt(self, service: str) -> int:
        """Return a number that no instance of the service ever had."""
        with self.database.atomically():
            self.database.write(
                "INSERT INTO attempts VALUES (?, 1) ON CONFLICT (service) DO UPDATE SET newest = newest + 1", service
            )
            return int(self.database.read("SELECT newest FROM attempts WHERE service = ?", service)[0][0])

    def former(self, service: str) -> tuple[str, ...]:
        """Return the ids of a service's instances that are gone but whose logs may be left, newest first."""
        rows = self.database.read("SELECT id FROM former WHERE service = ? ORDER BY ended_at DESC", service)
        return tuple(str(name) for (name,) in rows)

    def forget_former(self, name: str) -> None:
        """Its logs are gone too."""
        self.database.write("DELETE FROM former WHERE id = ?", name)

    def free_address(self) -> int:
        """Return an instance address number that none has, the one after the newest so that none is re-used soon."""
        held = "SELECT address FROM instances UNION SELECT address FROM rehearsals"
        taken = {number for (number,) in self.database.read(held)}
        last = int(self.database.read("SELECT COALESCE(MAX(value), '') FROM meta WHERE key = 'address'")[0][0] or 0)
        span = LAST_INSTANCE - FIRST_INSTANCE + 1
        for step in range(1, span + 1):
            number = FIRST_INSTANCE + (max(last, FIRST_INSTANCE - 1) - FIRST_INSTANCE + step) % span
            if number not in taken:
                self.database.write("INSERT OR REPLACE INTO meta VALUES ('address', ?)", str(number))
                return number
        raise Broken("cannot give an instance an address: all of this node's are in use")

    # endpoints

    def endpoint(self, service: str, replica: int) -> int:
        """Return the endpoint address number of an allocation, given for good when it is first asked for."""
        with self.database.atomically():
            rows = self.database.read(
                "SELECT address FROM endpoints WHERE service = ? AND replica = ?", service, replica
            )
            if rows:
                return int(rows[0][0])
            taken = {number for (number,) in self.database.read("SELECT address FROM endpoints")}
            number = next((n for n in range(FIRST_ENDPOINT, FIRST_INSTANCE) if n not in taken), 0)
            if not number:
                raise Broken("cannot give an allocation an endpoint: all of this node's are in use")
            self.database.write("INSERT INTO endpoints VALUES (?, ?, ?)", service, replica, number)
            return number

    def forget_service(self, service: str) -> None:
        """Forget a removed service: its endpoints and what is committed; its transactions stay as history."""
        with self.database.atomically():
            self.database.write("DELETE FROM endpoints WHERE service = ?", service)
            self.database.write(
                "UPDATE services SET counter = 0, replicas = 0, wanted = 'removed' WHERE service = ?", service
            )


def _service(row: tuple[Any, ...]) -> ServiceRow:
    service, uid_index, epoch, counter, replicas, wanted, assignment = row
    return ServiceRow(
        service=service,
        uid_index=uid_index,
        epoch=epoch,
        counter=counter,
        replicas=replicas,
        wanted=Wanted(wanted),
        assignment=assignment,
    )


def _transaction(row: tuple[Any, ...]) -> TransactionRow:
    names = [name.strip() for name in _TRANSACTION.split(",")]
    fields = dict(zip(names, row, strict=True))
    fields["state"] = State(fields["state"])
    fields["cutover"], fields["live"] = bool(fields["cutover"]), bool(fields["live"])
    fields["phases"] = json.loads(fields["phases"])
    return TransactionRow(**fields)


def _instance(row: tuple[Any, ...]) -> InstanceRow:
    names = [name.strip() for name in _INSTANCE.split(",")]
    fields = dict(zip(names, row, strict=True))
    fields["role"] = Role(fields["role"])
    return InstanceRow(**fields)

"""What a node does with one transaction: who comes, who stays, who goes, and how to go on after a crash."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from nebh.model.transaction import ENDED, State
from nebh.model.work import InstanceRow, Role, TransactionRow


@dataclass(frozen=True, kw_only=True)
class Sides:
    """keep: instances that go on untouched. old: those that the transaction replaces or ends. new: the replica
    numbers that need a new instance, each with its slot."""

    keep: tuple[InstanceRow, ...]
    old: tuple[InstanceRow, ...]
    new: tuple[tuple[int, int], ...]


KEEPING = frozenset({"scale"})
ENDING = frozenset({"stop", "remove"})


def slot_for(*, replica: int, taken: frozenset[int]) -> int:
    """Return the proxy slot of a new instance: each replica has two, used in turn; a third when both are taken."""
    for slot in (2 * replica, 2 * replica + 1):
        if slot not in taken:
            return slot
    slot = 2 * replica + 2
    while slot in taken:
        slot += 1
    return slot


def plan_sides(*, kind: str, epoch: int, to_counter: int, replicas: int, instances: tuple[InstanceRow, ...]) -> Sides:
    """Say which instances a transaction of `kind` keeps, ends and makes. Leaving ones only hold their slots."""
    serving = tuple(one for one in instances if one.role is Role.SERVING)
    wanted = 0 if kind in ENDING else replicas
    keep = tuple(
        one
        for one in serving
        if kind in KEEPING and one.replica < wanted and (one.epoch, one.counter) == (epoch, to_counter)
    )
    kept = {one.replica for one in keep}
    taken = {one.slot for one in instances}
    new: list[tuple[int, int]] = []
    for replica in range(wanted):
        if replica not in kept:
            slot = slot_for(replica=replica, taken=frozenset(taken))
            taken.add(slot)
            new.append((replica, slot))
    return Sides(keep=keep, old=tuple(one for one in serving if one not in keep), new=tuple(new))


class Recovery(StrEnum):
    """What a fresh executor does with a transaction it finds (architecture 3, recovery table)."""

    NOTHING = "nothing"
    PREPARE_AGAIN = "prepare-again"
    BACK = "back"
    FORWARD = "forward"
    FINISH_ROLLBACK = "finish-rollback"


def recover(row: TransactionRow) -> Recovery:
    """Decide by the last journalled state; `cutover` is the point of no return."""
    if row.state in ENDED:
        return Recovery.NOTHING
    if row.state in (State.ASSIGNED, State.PREPARING, State.PREPARED):
        return Recovery.PREPARE_AGAIN
    if row.state is State.ROLLING_BACK:
        return Recovery.FINISH_ROLLBACK
    return Recovery.FORWARD if row.cutover else Recovery.BACK


def roles_after_cutover(sides: Sides, new: tuple[InstanceRow, ...]) -> dict[str, Role]:
    """Return the roles that the cut-over journals."""
    return {one.id: Role.SERVING for one in new} | {one.id: Role.OLD for one in sides.old}


def roles_after_rollback(new: tuple[InstanceRow, ...], old: tuple[InstanceRow, ...]) -> dict[str, Role]:
    """Return the roles once traffic is back where it was."""
    return {one.id: Role.LEAVING for one in new} | {one.id: Role.SERVING for one in old}


def kind_of(
    *, phase: str, epoch: int, counter: int, replicas: int, committed: tuple[int, int], now_running: int
) -> str:
    """Name the transaction that an assignment asks for, `none` when everything is so already.

    committed: (epoch, counter) of the service here; now_running: its serving replicas.
    """
    if phase == "withdraw":
        return "stop" if now_running else "none"
    if phase == "restart":
        return "restart"
    if (epoch, counter) == committed and now_running:
        return "none" if replicas == now_running else "scale"
    return "deploy"


def boot_order(needs: dict[str, tuple[str, ...]]) -> tuple[frozenset[str], ...]:
    """Return services in levels: each after those it needs; what needs each other, or itself, comes in one last level."""
    left = dict(needs)
    levels: list[frozenset[str]] = []
    while left:
        level = frozenset(name for name, wanted in left.items() if not set(wanted) & (left.keys() - {name}))
        levels.append(level or frozenset(left))
        for name in levels[-1]:
            del left[name]
    return tuple(levels)

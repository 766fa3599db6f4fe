"""How large a volume may become: the policy's word, from the moment that its release needs it, and back with it.

A larger size holds from prepare on, since a migration may need it. A smaller one holds once its release is committed:
until then the old release may go on, and writes as much as it was allowed to.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from nebh.executor.context import Context
from nebh.executor.effects import effect
from nebh.model.errors import Refused
from nebh.model.kept import VolumeRow
from nebh.model.quantities import render_size
from nebh.model.stored import Ability, stored_name
from nebh.model.volume import VolumeBound

RULE: Final = "data"


def sizes_for_update(context: Context, wanted: Iterable[tuple[str, VolumeBound]]) -> dict[str, int]:
    """Return the quota that each volume gets while an update is under way. wanted: (stored name, what the new policy
    says). Raises Refused for sizes below what is in the volumes already, all of them at once."""
    quotas = {one.name: one.quota for one in context.drivers.volumes.list()}
    sizes, problems = {}, []
    for stored, bound in wanted:
        now = quotas.get(stored)
        sizes[stored] = bound.size if now is None else max(now, bound.size) if now and bound.size else 0
        if now is not None and bound.size and (not now or bound.size < now):
            used = context.drivers.volumes.usage(stored).used
            if used > bound.size:
                problems.append(f"{bound.name} holds {render_size(used)}, its new size is {render_size(bound.size)}")
    if problems:
        raise Refused(
            "cannot make volumes smaller than what is in them: "
            + "; ".join(sorted(set(problems)))
            + "; nothing was changed",
            rule=RULE,
            hint="remove something in them first, or declare a larger `size`",
        )
    return sizes


def settle_sizes(context: Context, service: str) -> None:
    """After an update, whatever came of it: every volume of a service has the size that the policy in effect says. May
    be repeated at any time."""
    if Ability.RESIZE not in context.drivers.volumes.abilities:
        return
    with context.data_lock(service):
        rows, policy = context.volumes.volumes(service), context.accepted.effective(service)
        if not rows or policy is None or context.work.open_transaction(service) is not None:
            return
        bounds = {one.name: one for one in policy.volumes}
        quotas = {one.name: one.quota for one in context.drivers.volumes.list()}
        for row in rows:
            stored = stored_name(service=service, volume=row.name, replica=row.replica)
            bound = bounds.get(row.name)
            if bound is not None and quotas.get(stored, bound.size) != bound.size:
                _resize(context, row, stored, bound.size)


def _resize(context: Context, row: VolumeRow, stored: str, size: int) -> None:
    with effect(context, 0, "data.resize"):
        context.drivers.volumes.resize(stored, size)
    context.event("data.resized", f"{row.service}: volume {row.name} may hold {render_size(size)}", service=row.service)

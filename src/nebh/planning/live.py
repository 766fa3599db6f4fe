"""What a new release asks of instances that run: new ones, or only other texts in files that they read again."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from nebh.model.config import OnChange
from nebh.model.release import Release
from nebh.model.volume import HookPoint
from nebh.planning.release import is_same_release

_RANK = (OnChange.NOTHING, OnChange.RELOAD, OnChange.RESTART)
_NEED_INSTANCES = frozenset({HookPoint.PREPARE, HookPoint.BEFORE_SWITCH, HookPoint.AFTER_SWITCH})


def differs_in_texts_alone(old: Release, new: Release) -> bool:
    """Tell whether nothing but the texts of files could tell instances of two releases apart. Hooks that belong to the
    making of instances want instances to be made."""
    if old.counter == new.counter or not new.files:
        return False
    if any(hook.at in _NEED_INSTANCES for hook in new.hooks):
        return False
    return is_same_release(old, replace(new, config=old.config))


def what_follows(old: Release, new: Release, changed: Collection[str]) -> OnChange:
    """Return what instances of `old` need once the files at `changed` have the texts of `new`: the most that one asks."""
    if not differs_in_texts_alone(old, new):
        return OnChange.RESTART
    asked = [one.on_change for one in new.files if one.path in changed]
    return max(asked, key=_RANK.index, default=OnChange.NOTHING)


def is_live(one: OnChange) -> bool:
    """Tell whether a file may be replaced under a running instance."""
    return one is not OnChange.RESTART

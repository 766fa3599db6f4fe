"""What a release may say at all, whoever signed it: the node runs it inside its policy and within sane figures."""

from __future__ import annotations

import re

from nebh.model.names import is_name
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.service import Check, CheckKind
from nebh.planning.bounds_secrets import find_secrets_problem

DAY = 86_400_000
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
SIGNALS = frozenset({"TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL"})
LONGEST_TEXTS = 128 * 1024
"""Linux takes at most 128 KiB per argument; all of ours together stay below it."""


def find_bounds_problem(release: Release, policy: Policy) -> str:
    """Return why this release is outside its policy or outside what any node runs, or ""."""
    return (
        _find_image(release, policy)
        or _find_process(release)
        or _find_times(release)
        or _find_checks(release, policy)
        or find_secrets_problem(release)
    )


def _find_image(release: Release, policy: Policy) -> str:
    if set(release.images) != {"main"}:
        return "it must bring exactly one image, `main`"
    image, limits = release.images["main"], policy.limits
    if image.bytes > limits.image_bytes:
        return f"its image has {image.bytes} bytes, the policy allows {limits.image_bytes}"
    if image.entries > limits.image_entries:
        return f"its image has {image.entries} entries, the policy allows {limits.image_entries}"
    return ""


def _find_process(release: Release) -> str:
    if not release.argv or not release.argv[0].startswith("/"):
        return "argv does not start with an absolute path"
    if not 1 <= release.user <= 65_533:
        return f"user {release.user} is not between 1 and 65533"
    wrong = [key for key in release.env if not _ENV.match(key)]
    if wrong:
        return f"{wrong[0]!r} is not a variable name"
    texts = [*release.argv, *release.env.keys(), *release.env.values()]
    if any("\0" in one for one in texts):
        return "argv or env holds a NUL"
    if sum(len(one) for one in texts) > LONGEST_TEXTS:
        return f"argv and env have more than {LONGEST_TEXTS} characters"
    return ""


def _find_times(release: Release) -> str:
    update, stop = release.update, release.stop
    figures = (
        ("update.bake", update.bake, 0, DAY),
        ("update.drain", update.drain, 0, 3_600_000),
        ("update.max_error_percent", update.max_error_percent, 0, 100),
        ("stop.grace", stop.grace, 0, 3_600_000),
        ("health.startup_timeout", release.health.startup_timeout, 100, DAY),
        ("retention", release.retention, 1, 100),
    )
    for name, value, low, high in figures:
        if not low <= value <= high:
            return f"{name} is {value}, not between {low} and {high}"
    if update.together and not is_name(update.together):
        return f"update.together {update.together[:40]!r} is not a name"
    return "" if stop.signal in SIGNALS else f"stop.signal {stop.signal!r} is not a signal we send"


def _find_checks(release: Release, policy: Policy) -> str:
    health = release.health
    checks = [one for one in (health.startup, health.readiness, health.liveness) if one] + [*release.update.checks]
    if len(checks) > 32:
        return "it has more than 32 checks"
    for one in checks:
        problem = _find_check(one, release, policy)
        if problem:
            return f"check {one.name!r}: {problem}"
    watched = health.readiness is not None or release.update.checks or policy.net.ports
    if policy.checks_required and not watched:
        return "the policy wants health.readiness or update.checks, it has neither, and no port"
    return ""


def _find_check(check: Check, release: Release, policy: Policy) -> str:
    if not 100 <= check.interval <= 3_600_000 or not 10 <= check.timeout <= 60_000 or not 1 <= check.failures <= 100:
        return "interval, timeout or failures are out of bounds"
    if check.kind is CheckKind.EXEC:
        return "" if check.argv and check.argv[0].startswith("/") else "its program is not an absolute path"
    # an earlier release may listen elsewhere under the same name: a moved port must not bar the way back
    own = {number for name, number in release.ports.items() if name in policy.net.ports}
    if check.port not in own | set(policy.net.ports.values()):
        return f"port {check.port} is not among the policy's ports"
    texts = check.path + check.host
    if not check.path.startswith("/") or any(ord(one) <= 0x20 or ord(one) >= 0x7F for one in texts):
        return "its path or host is not plain text"
    return ""

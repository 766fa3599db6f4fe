"""Every acceptance rule: a valid thing passes, its violation is refused, and switching the rule off lets it pass."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebh.model.config import ConfigBundle, ConfigFile
from nebh.model.image import EntryType, ImageRef, LintFinding, LintRule, TreeEntry, TreeManifest
from nebh.model.node import Baseline, NodeList, NodeRecord, NodeStatus, Settings
from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.release import Release
from nebh.model.secret import Box, SecretList, SecretUse
from nebh.model.service import Check, CheckKind, Health, Limits, Placement, PlacementMode, Replicas, Route
from nebh.model.statement import Action, Assignment, Order, Phase
from nebh.model.trust import AcceptedRelease, AcceptedState, Delegation, TrustedSet, Verdict
from nebh.planning import accept
from nebh.planning.accept_choice import CHOICE_RULES, Choice
from nebh.planning.accept_image import IMAGE_RULES
from nebh.planning.accept_metadata import METADATA_RULES
from nebh.planning.accept_order import ORDER_RULES, OrderFacts
from nebh.planning.accept_secret import SECRET_RULES, SecretFacts

NOW = 1_800_000_000
DAY = 86_400
POLICY = Policy(
    cluster_id="c",
    service="web",
    version=3,
    epoch=1,
    signed_at=NOW - DAY,
    state=ServiceState.RUNNING,
    placement=Placement(groups=("front",), max_per_node=4),
    replicas=Replicas(count=1, min=1, max=3),
    limits=Limits(memory=2**26, image_bytes=1000, image_entries=10),
    net=NetPolicy(routes=(Route(port=8080, host="a.example"),), ports={"http": 8080}),
)
PLACED = ConfigFile(path="/usr/bin/app", template="a")
BUNDLE = ConfigBundle(digest="d" * 64, bytes=10)
IMAGE = ImageRef(manifest="a" * 64, bytes=100, entries=2)
RELEASE = Release(
    cluster_id="c",
    service="web",
    epoch=1,
    counter=7,
    signed_at=NOW - DAY,
    images={"main": IMAGE},
    argv=("/usr/bin/app",),
    health=Health(readiness=Check(name="readiness", kind=CheckKind.TCP, port=8080)),
    policy_min_version=3,
)
RECORD = NodeRecord(
    node_id="n1",
    name="node1",
    groups=("front",),
    sign_pk="",
    seal_pk="",
    wg_pk="",
    subnets=(),
    enrolled_at=1,
    baseline=Baseline(snapshot=5, roles={"root": 1, "targets": 5, "rel-web": 2}),
)
ROLE = Delegation(
    role="rel-web",
    paths=("release/web/*",),
    terminating=True,
    keyids=("k",),
    threshold=1,
    own_delegations=0,
    listed=tuple(f"release/web/{n}.json" for n in (5, 6, 7, 8)),
)
VERSIONS = {"root": 1, "targets": 9, "snapshot": 20, "timestamp": 30, "rel-web": 4}
TRUSTED = TrustedSet(
    source="controller",
    versions=VERSIONS,
    digests={role: f"d-{role}" for role in VERSIONS},
    expires=dict.fromkeys(VERSIONS, NOW + DAY),
    cluster_ids=("c",),
    top_level=("cluster/nodes.json", "cluster/settings.json", "policy/web.json"),
    delegations=(ROLE,),
    operator_keys=("op",),
    online_keys="k1",
    newest_signed_at=NOW - 10,
    nodes=NodeList(cluster_id="c", nodes=(RECORD,)),
    settings=Settings(cluster_id="c", name="x", controller_keys=("ctl",)),
    policies={"web": POLICY},
    releases={"release/web/7.json": RELEASE},
    release_digests={f"release/web/{n}.json": f"digest-{n}" for n in (5, 6, 7, 8)},
)
ACCEPTED = AcceptedState(
    cluster_id="c",
    node_id="n1",
    node_name="node1",
    roles={"root": (1, "d-root"), "targets": (9, "d-targets"), "rel-web": (4, "d-rel-web")},
    sources={"controller": (20, 30)},
    online_keys="k1",
    seq=10,
    nonces=frozenset({"used"}),
    newest_signed_at=NOW - 10,
)
WISH = Assignment(
    cluster_id="c",
    node_id="n1",
    seq=11,
    assignment_id="a",
    nonce="n",
    service="web",
    epoch=1,
    counter=7,
    replicas=2,
    phase=Phase.RUN,
)
CHOICE = Choice(
    assignment=WISH,
    signer="ctl",
    accepted=ACCEPTED,
    trusted=TRUSTED,
    nodes=TRUSTED.nodes,
    settings=TRUSTED.settings,
    policy=POLICY,
    release=RELEASE,
    release_digest="digest-7",
    now=NOW * 1000,
)
ORDER = Order(
    cluster_id="c",
    nodes=("n1",),
    service="web",
    action=Action.REMOVE,
    nonce="fresh",
    signed_at=NOW - 5,
    not_after=NOW + 600,
)
ORDERED = OrderFacts(order=ORDER, signer="op", operator_keys=("op",), accepted=ACCEPTED, fresh=True, now=NOW)
MANIFEST = TreeManifest(
    format=1,
    entries=(
        TreeEntry(path="usr", type=EntryType.DIRECTORY, mode=0o755),
        TreeEntry(path="usr/bin", type=EntryType.DIRECTORY, mode=0o755),
        TreeEntry(path="usr/bin/app", type=EntryType.FILE, mode=0o755, size=100, sha256="b" * 64),
    ),
)
IMAGED: dict[str, Any] = {
    "release": RELEASE,
    "policy": POLICY,
    "found": IMAGE,
    "manifest": MANIFEST,
    "findings": (),
}
SHELL = LintFinding(rule=LintRule.SHELL, path="/bin/sh", message="a shell")


def accepted(counter: int, *, committed: int = 0, digest: str = "", until: int = 0) -> AcceptedRelease:
    return AcceptedRelease(
        service="web",
        epoch=1,
        counter=counter,
        digest=digest or f"digest-{counter}",
        accepted_at=1,
        committed_at=committed,
        rollback_until=until,
    )


def with_releases(*releases: AcceptedRelease) -> AcceptedState:
    return replace(ACCEPTED, releases=releases)


def role(**changes: Any) -> TrustedSet:
    return replace(TRUSTED, delegations=(replace(ROLE, **changes),))


def version(name: str, number: int) -> TrustedSet:
    return replace(TRUSTED, versions=VERSIONS | {name: number})


def metadata(trusted: TrustedSet = TRUSTED, state: AcceptedState = ACCEPTED, now: int = NOW) -> Callable[..., Verdict]:
    return lambda **options: accept.accept_metadata(trusted, state, now=now, **options)


def choice(**changes: Any) -> Callable[..., Verdict]:
    wish = {key: changes.pop(key) for key in list(changes) if key in Assignment.__dataclass_fields__}
    made = replace(CHOICE, assignment=replace(WISH, **wish), **changes)
    return lambda **options: accept.accept_assignment(made, **options)


def image(**changes: Any) -> Callable[..., Verdict]:
    return lambda **options: accept.accept_image(**{**IMAGED, **changes}, **options)


def order(*, facts: dict[str, Any] | None = None, **changes: Any) -> Callable[..., Verdict]:
    made = replace(ORDERED, order=replace(ORDER, **changes), **(facts or {}))
    return lambda **options: accept.accept_order(made, **options)


USING = replace(RELEASE, secrets=(SecretUse(name="db", path="/run/secrets/db"),))
NAMING = replace(POLICY, secrets=("db",))
BOX = Box(digest="f" * 64, bytes=60)
LISTED = SecretList(cluster_id="c", service="web", name="db", version=1, signed_at=NOW - DAY, boxes={"n1": BOX})
ARRIVED = SecretFacts(key="web/db", node_id="n1", listed=LISTED, arrived=BOX, opened=True)


def secret(**changes: Any) -> Callable[..., Verdict]:
    return lambda **options: accept.accept_secret(replace(ARRIVED, **changes), **options)


def using(**changes: Any) -> Callable[..., Verdict]:
    return choice(**{"release": USING, "policy": NAMING, "secrets": {"web/db": LISTED}, **changes})


LATE = with_releases(accepted(9, committed=(NOW - 8 * DAY) * 1000))
SHOP = replace(POLICY, service="shop")
FOREIGN = replace(POLICY, cluster_id="other")
NEXT = replace(ACCEPTED, seq=10, newest_signed_at=NOW + DAY)
FRESH = AcceptedState(cluster_id="c", node_id="n1", node_name="node1")

# (rule, its violation). Every rule has at least one, and its violation breaks no other rule.
VIOLATIONS: list[tuple[str, Callable[..., Verdict]]] = [
    ("N0.metadata", metadata(replace(TRUSTED, cluster_ids=("c", "other")))),
    ("N13.metadata", metadata(replace(TRUSTED, newest_signed_at=NOW + DAY))),
    ("N1.expired", metadata(replace(TRUSTED, expires=TRUSTED.expires | {"timestamp": NOW}))),
    ("N2.older", metadata(version("targets", 8))),
    ("N2.older", metadata(version("rel-web", 3))),
    ("N2.equivocation", metadata(replace(TRUSTED, digests=TRUSTED.digests | {"targets": "x"}))),
    ("N2.baseline", metadata(version("targets", 4), FRESH)),
    ("N2.baseline", metadata(version("snapshot", 4), FRESH)),
    ("N2.source", metadata(version("snapshot", 19))),
    ("N2.source", metadata(version("timestamp", 29))),
    ("N3.top-level", metadata(replace(TRUSTED, top_level=("release/web/9.json",)))),
    ("N3.delegations", metadata(role(role="web", listed=()))),
    ("N3.delegations", metadata(role(role="rel-shop", listed=()))),
    ("N3.delegations", metadata(role(paths=("release/*",)))),
    ("N3.delegations", metadata(role(paths=("release/web/*", "policy/*")))),
    ("N3.delegations", metadata(role(terminating=False))),
    ("N3.delegations", metadata(role(own_delegations=1))),
    ("N3.delegations", metadata(role(threshold=0))),
    ("N3.delegations", metadata(replace(TRUSTED, delegations=(ROLE, replace(ROLE, role="rel-web.2"))))),
    ("N3.listed", metadata(role(listed=("release/web/07.json",)))),
    ("N3.listed", metadata(role(listed=("policy/web.json",)))),
    ("N3.agree", metadata(replace(TRUSTED, policies={"blog": POLICY}))),
    ("N3.agree", metadata(replace(TRUSTED, releases={"release/web/8.json": RELEASE}))),
    ("N3.claims", metadata(replace(TRUSTED, policies={"web": POLICY, "shop": SHOP}))),
    ("N0.assignment", choice(cluster_id="other")),
    ("N0.assignment", choice(policy=FOREIGN)),
    ("N0.assignment", choice(release=replace(RELEASE, cluster_id="other"))),
    ("assignment.signer", choice(signer="op")),
    ("N4.addressee", choice(node_id="n2")),
    ("assignment.seq", choice(seq=10)),
    ("N13.assignment", choice(accepted=NEXT)),
    ("N3.policy", choice(policy=None)),
    ("N3.policy", choice(policy=SHOP)),
    ("N3.release", choice(release=replace(RELEASE, counter=8))),
    ("N3.release", choice(release=replace(RELEASE, service="shop"))),
    ("N4.node", choice(nodes=NodeList(cluster_id="c"))),
    ("N4.node", choice(nodes=NodeList(cluster_id="c", nodes=(replace(RECORD, status=NodeStatus.REVOKED),)))),
    ("N4.placement", choice(nodes=NodeList(cluster_id="c", nodes=(replace(RECORD, groups=("back",)),)))),
    ("assignment.state", choice(policy=replace(POLICY, state=ServiceState.STOPPED))),
    (
        "assignment.withdraw",
        choice(
            phase=Phase.WITHDRAW,
            replicas=0,
            policy=replace(POLICY, placement=replace(POLICY.placement, mode=PlacementMode.PINNED)),
        ),
    ),
    ("N5.epoch", choice(policy=replace(POLICY, epoch=2))),
    ("N5.floor", choice(policy=replace(POLICY, min_release=8))),
    ("N5.floor", choice(accepted=LATE)),
    ("N5.floor", choice(accepted=with_releases(accepted(9, committed=(NOW - DAY) * 1000, until=NOW - 1)))),
    ("N5.equivocation", choice(accepted=with_releases(accepted(7, digest="other")))),
    ("assignment.restart", choice(phase=Phase.RESTART, running=6)),
    ("N6.listed", choice(trusted=replace(TRUSTED, delegations=()))),
    ("N6.listed", choice(trusted=role(listed=("release/web/6.json",)))),
    ("N6.listed", choice(release_digest="swapped")),
    ("N6.listed", choice(trusted=None)),
    ("N6.listed", choice(trusted=replace(TRUSTED, expires=TRUSTED.expires | {"rel-web": 0}))),
    ("N7.policy", choice(policy=replace(POLICY, version=2))),
    ("N8.replicas", choice(replicas=4)),
    ("N8.replicas", choice(replicas=0)),
    ("N8.replicas", choice(replicas=2, policy=replace(POLICY, placement=replace(POLICY.placement, max_per_node=1)))),
    ("N9.bounds", choice(release=replace(RELEASE, images={"main": replace(IMAGE, bytes=1001)}))),
    ("N9.bounds", choice(release=replace(RELEASE, argv=("app",)))),
    ("N9.bounds", choice(release=replace(RELEASE, user=0))),
    ("N9.bounds", choice(release=replace(RELEASE, env={"A=B": "x"}))),
    ("N9.bounds", choice(release=replace(RELEASE, health=Health()), policy=replace(POLICY, net=NetPolicy()))),
    ("N9.bounds", choice(release=replace(RELEASE, update=replace(RELEASE.update, drain=10**12)))),
    (
        "N9.bounds",
        choice(release=replace(RELEASE, health=Health(readiness=Check(name="r", kind=CheckKind.TCP, port=22)))),
    ),
    ("N9.image", image(found=replace(IMAGE, manifest="c" * 64))),
    ("N9.image", image(found=replace(IMAGE, entries=3))),
    ("N9.limits", image(policy=replace(POLICY, limits=replace(POLICY.limits, image_bytes=99)))),
    ("N9.limits", image(policy=replace(POLICY, limits=replace(POLICY.limits, image_entries=1)))),
    ("image.program", image(release=replace(RELEASE, argv=("/usr/bin/other",)))),
    (
        "image.program",
        image(
            release=replace(
                RELEASE, health=Health(readiness=Check(name="r", kind=CheckKind.EXEC, argv=("/usr/bin/check",)))
            )
        ),
    ),
    ("image.files", image(release=replace(RELEASE, files=(ConfigFile(path="/etc/no", template="a"),), config=BUNDLE))),
    ("image.files", image(release=replace(RELEASE, files=(ConfigFile(path="/proc/a", template="a"),), config=BUNDLE))),
    ("image.files", image(release=replace(RELEASE, files=(ConfigFile(path="/usr", template="a"),), config=BUNDLE))),
    ("image.files", image(release=replace(RELEASE, files=(PLACED,)))),
    ("image.files", image(release=replace(RELEASE, files=(PLACED, PLACED), config=BUNDLE))),
    ("image.files", image(release=replace(RELEASE, files=(PLACED,), config=replace(BUNDLE, bytes=5 << 20)))),
    ("N14.lint", image(findings=(SHELL,))),
    ("image.secrets", image(release=USING)),
    ("N11.agree", metadata(replace(TRUSTED, secrets={"web/key": LISTED}))),
    ("N11.named", using(policy=POLICY)),
    ("N11.sealed", using(secrets={})),
    ("N11.sealed", using(secrets={"web/db": replace(LISTED, boxes={"n2": BOX})})),
    ("N11.suite", secret(listed=replace(LISTED, suite="rot13"))),
    ("N11.bytes", secret(arrived=replace(BOX, digest="e" * 64))),
    ("N11.bytes", secret(arrived=replace(BOX, bytes=61))),
    ("N11.bytes", secret(node_id="n2")),
    ("N11.opened", secret(opened=False)),
    ("N9.bounds", using(release=replace(USING, secrets=(SecretUse(name="db", path="/proc/db"),)))),
    ("N0.order", order(cluster_id="other")),
    ("order.signer", order(facts={"signer": "ctl"})),
    ("order.fresh", order(facts={"fresh": False})),
    ("N4.order", order(nodes=("n2",))),
    ("order.nonce", order(nonce="used")),
    ("N13.order", order(signed_at=NOW + DAY, not_after=NOW + 2 * DAY)),
    ("order.not-after", order(not_after=NOW - 1)),
]
VALID = [metadata(), metadata(state=FRESH), choice(), image(), order(), using(), secret()]


@pytest.mark.parametrize("case", VALID)
def test_what_is_right_is_accepted(case: Callable[..., Verdict]) -> None:
    assert case() == Verdict(ok=True)


@pytest.mark.parametrize(("rule", "case"), VIOLATIONS, ids=[f"{n}-{rule}" for n, (rule, _) in enumerate(VIOLATIONS)])
def test_each_violation_is_refused_by_its_rule_and_passes_without_it(rule: str, case: Callable[..., Verdict]) -> None:
    verdict = case()
    assert not verdict.ok
    assert verdict.rule == rule.partition(".")[0]
    assert verdict.reason
    assert case(disabled=frozenset({rule})).ok, case(disabled=frozenset({rule}))


def test_every_rule_has_a_violation_and_a_unique_id() -> None:
    ids = [rule.id for rule in accept.RULES]
    assert {rule for rule, _ in VIOLATIONS} == set(ids)
    assert len(set(ids)) == len(ids)
    assert len(accept.RULES) == len(METADATA_RULES) + len(CHOICE_RULES) + len(IMAGE_RULES) + len(ORDER_RULES) + len(
        SECRET_RULES
    )
    assert all(rule.description for rule in accept.RULES)


# ------------------------------------------------------------------ what must be accepted, or goes on, all the same


def test_a_source_that_lags_is_no_alarm_but_a_mixed_set_is() -> None:
    lagging = metadata(version("targets", 8))()
    assert not lagging.alarm
    mixed = replace(TRUSTED, versions=VERSIONS | {"targets": 8, "rel-web": 5})
    assert metadata(mixed)().alarm


def test_new_online_keys_reset_their_floors() -> None:
    back = replace(TRUSTED, versions=VERSIONS | {"snapshot": 6, "timestamp": 1, "root": 2}, online_keys="k2")
    assert metadata(back)().ok
    assert metadata(replace(back, versions=back.versions | {"snapshot": 1}))().ok, "root is newer than the baseline"


def test_another_source_has_floors_of_its_own() -> None:
    mirror = replace(TRUSTED, source="mirror", versions=VERSIONS | {"snapshot": 1, "timestamp": 1})
    assert metadata(mirror)().ok


def test_a_role_that_is_gone_is_no_older_role() -> None:
    versions = {key: item for key, item in VERSIONS.items() if key != "rel-web"} | {"targets": 10}
    assert metadata(replace(TRUSTED, versions=versions, delegations=()))().ok


def test_a_small_difference_of_clocks_is_honest() -> None:
    assert metadata(replace(TRUSTED, newest_signed_at=NOW + 60))().ok


def test_going_back_inside_the_window_and_to_pins() -> None:
    recent = with_releases(accepted(9, committed=(NOW - 6 * DAY) * 1000))
    assert choice(accepted=recent)().ok
    assert choice(accepted=LATE, policy=replace(POLICY, pins=(7,)))().ok
    assert choice(accepted=with_releases(accepted(7, committed=(NOW - 8 * DAY) * 1000)))().ok, "the floor itself"


def test_a_clock_set_back_does_not_open_a_closed_window() -> None:
    assert choice(accepted=LATE, now=(NOW - 400 * DAY) * 1000)().rule in {"N5", "N13"}
    known = with_releases(accepted(9, committed=(NOW - 8 * DAY) * 1000), accepted(7))
    verdict = choice(accepted=known, trusted=None, now=(NOW - 400 * DAY) * 1000)()
    assert verdict.rule == "N5"


def test_a_new_epoch_starts_floors_afresh() -> None:
    assert choice(epoch=2, policy=replace(POLICY, epoch=2), release=replace(RELEASE, epoch=2), accepted=LATE)().ok


def test_what_runs_goes_on_when_it_is_no_longer_listed_below_the_floor_or_the_clock_is_wrong() -> None:
    state = replace(LATE, newest_signed_at=NOW + DAY)
    for phase in (Phase.RESTART, Phase.RUN):
        gone = role(listed=())
        assert choice(phase=phase, running=7, trusted=gone, accepted=state)().ok
        assert choice(phase=phase, running=7, trusted=None, accepted=state)().ok


def test_offline_only_what_was_accepted_before() -> None:
    assert choice(trusted=None, accepted=with_releases(accepted(7)))().ok
    expired = replace(TRUSTED, expires=TRUSTED.expires | {"rel-web": NOW})
    assert choice(trusted=expired, accepted=with_releases(accepted(7)))().ok
    verdict = choice(trusted=None)()
    assert "expired" in verdict.reason
    assert verdict.hint


def test_root_on_the_node_may_go_back_without_a_controller() -> None:
    state = with_releases(accepted(7), accepted(8, committed=NOW * 1000))
    wish = accept.local_wish(state, service="web", epoch=1, counter=7, replicas=1)
    local = replace(CHOICE, assignment=wish, signer="", accepted=state, trusted=None, settings=None, local=True)
    assert accept.accept_assignment(local).ok
    assert not accept.accept_assignment(replace(local, local=False)).ok


def test_a_withdrawal_of_a_spread_service_needs_no_release() -> None:
    assert choice(phase=Phase.WITHDRAW, release=None, release_digest="", counter=0, replicas=0)().ok


def test_lint_exceptions_are_globs_of_one_rule() -> None:
    for text, ok in (
        ("shell:/bin/*", True),
        ("shell:/bin/sh", True),
        ("compiler:/bin/sh", False),
        ("shell:/usr/*", False),
    ):
        policy = replace(POLICY, lint_exceptions=(text,))
        assert image(policy=policy, findings=(SHELL,))().ok is ok


def test_the_reason_is_in_plain_words() -> None:
    verdict = choice(accepted=LATE)()
    assert verdict.reason.startswith("release 7 of web is below the floor 9")
    assert "nebh pin web 7" in verdict.hint


@settings(max_examples=200, deadline=None)
@given(
    floors=st.dictionaries(st.sampled_from(sorted(VERSIONS)), st.integers(1, 40), min_size=1),
    given_versions=st.fixed_dictionaries({name: st.integers(1, 40) for name in VERSIONS}),
)
def test_no_accepted_set_is_older_than_what_was_accepted(
    floors: dict[str, int], given_versions: dict[str, int]
) -> None:
    state = replace(FRESH, roles={name: (number, f"d-{name}") for name, number in floors.items()})
    older = any(
        given_versions[name] < number for name, number in floors.items() if name not in {"snapshot", "timestamp"}
    )
    base = RECORD.baseline
    below = any(given_versions[name] < number for name, number in base.roles.items())
    below |= given_versions["snapshot"] < base.snapshot and given_versions["root"] <= base.roles["root"]
    verdict = metadata(replace(TRUSTED, versions=given_versions), state)()
    assert verdict.ok is not (older or below)


@settings(max_examples=300, deadline=None)
@given(
    commits=st.dictionaries(st.integers(1, 12), st.integers(0, 20), max_size=6),
    counter=st.integers(1, 12),
    pins=st.sets(st.integers(1, 12), max_size=2),
    least=st.integers(0, 12),
)
def test_the_floor_is_safe_and_live(commits: dict[int, int], counter: int, pins: set[int], least: int) -> None:
    """Safety: nothing below a commit whose window has passed. Liveness: everything else that is listed."""
    path = f"release/web/{counter}.json"
    trusted = replace(role(listed=(path,)), release_digests={path: "d"})
    releases = tuple(
        accepted(one, committed=(NOW - days * DAY) * 1000, digest="d" if one == counter else "")
        for one, days in commits.items()
    )
    passed = [one for one, days in commits.items() if days >= 7]
    allowed = counter in pins or counter >= max([least, *passed])
    verdict = choice(
        counter=counter,
        trusted=trusted,
        release=replace(RELEASE, counter=counter),
        release_digest="d",
        policy=replace(POLICY, pins=tuple(pins), min_release=least),
        accepted=with_releases(*releases),
    )()
    assert verdict.ok is allowed
    assert allowed or verdict.rule == "N5"

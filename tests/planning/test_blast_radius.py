"""What a thief of each thing could do: computed, so that another policy or key gives another answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nebh.model.errors import NotFound
from nebh.model.node import Baseline, NodeList, NodeRecord, NodeStatus, Settings
from nebh.model.policy import NetPolicy, Policy, ServiceState
from nebh.model.service import Limits, Placement, PlacementMode, Replicas
from nebh.model.trust import Delegation, TrustedSet
from nebh.planning.blast_radius import Facts, HeldKey, Loss, Place, blast_radius, find_losses

WORDS, OPERATOR, CONTROLLER, CI = "0" * 64, "1" * 64, "2" * 64, "3" * 64


def node(name: str, *groups: str) -> NodeRecord:
    return NodeRecord(
        node_id=name,
        name=name,
        groups=groups,
        sign_pk="",
        seal_pk="",
        wg_pk="",
        subnets=(),
        enrolled_at=1,
        baseline=Baseline(snapshot=1),
    )


def policy(name: str, *, secrets: tuple[str, ...] = (), min_release: int = 0, **place: object) -> Policy:
    return Policy(
        cluster_id="c",
        service=name,
        version=1,
        epoch=1,
        signed_at=1,
        state=ServiceState.RUNNING,
        placement=Placement(**place),  # type: ignore[arg-type]
        replicas=Replicas(count=1, min=1, max=3),
        limits=Limits(memory=1 << 26),
        net=NetPolicy(),
        secrets=secrets,
        min_release=min_release,
    )


def releases(name: str, *counters: int) -> Delegation:
    return Delegation(
        role=f"rel-{name}",
        paths=(f"release/{name}/*",),
        terminating=True,
        keyids=(),
        threshold=1,
        own_delegations=0,
        listed=tuple(f"release/{name}/{counter}.json" for counter in counters),
    )


def key(public: str, kind: str, *roles: str) -> HeldKey:
    return HeldKey(public=public, name=public[:8], kind=kind, roles=roles)


def solo(*keys: HeldKey, policies: tuple[Policy, ...] = (), place: Place | None = None) -> Facts:
    """One person, one machine, services `db` (pinned, with a secret) and `web` (releases 1 to 3, 1 below the minimum)."""
    policies = policies or (
        policy("web", min_release=2),
        policy("db", secrets=("password",), mode=PlacementMode.PINNED),
    )
    trusted = TrustedSet(
        source="controller",
        versions={},
        digests={},
        expires={},
        cluster_ids=("c",),
        top_level=(),
        delegations=(releases("web", 1, 2, 3), releases("db", 1)),
        operator_keys=(OPERATOR,),
        online_keys="",
        newest_signed_at=1,
        nodes=NodeList(cluster_id="c", nodes=(node("one"), replace(node("old"), status=NodeStatus.REVOKED))),
        settings=Settings(cluster_id="c", name="home", controller_keys=(CONTROLLER,)),
        policies={one.service: one for one in policies},
        releases={},
        release_digests={},
    )
    return Facts(
        trusted=trusted,
        keys=(
            key(WORDS, "recovery", "root"),
            key(OPERATOR, "operator", "targets", "snapshot", "timestamp", "rel-web", "rel-db"),
            key(CONTROLLER, "controller", "timestamp", "assignments"),
            *keys,
        ),
        thresholds={"root": 1, "targets": 1},
        places=(place or Place(name="laptop", keys=(OPERATOR,)),),
        address="ssh://root@203.0.113.7",
    )


def one(facts: Facts, asked: str) -> Loss:
    (found,) = find_losses(facts, asked)
    return found


def test_a_solo_cloud_names_every_key_and_place() -> None:
    assert [loss.what for loss in blast_radius(solo())] == [
        "words",
        "operator",
        "controller",
        "laptop",
        "one",
        "agent",
        "mirror",
    ]
    for loss in blast_radius(solo()):
        assert loss.can
        assert loss.cannot
        assert loss.safe


@pytest.mark.parametrize("asked", ["operator", "laptop", OPERATOR, OPERATOR[:8]])
def test_a_solo_operators_key_is_all_but_the_keys_themselves(asked: str) -> None:
    facts = solo()
    for loss in find_losses(facts, asked):
        assert loss.code_on == loss.policies == ("db", "web")
        assert loss.secrets == ("db",)
        assert any("root is signed by the words" in text for text in loss.cannot)
        assert loss.recover[0].startswith("nebh key recover")


def test_the_laptop_says_how_to_recover_from_elsewhere_and_how_its_key_is_locked() -> None:
    plain = one(solo(), "laptop")
    assert plain.recover[0] == "nebh key recover --name home --controller ssh://root@203.0.113.7"
    assert plain.runs_on == ()
    locked = one(solo(place=Place(name="laptop", keys=(OPERATOR,), lock="passphrase")), "laptop")
    assert "passphrase" in locked.can[0]
    assert locked.can[1:] == plain.can
    empty = one(solo(place=Place(name="laptop", keys=())), "laptop")
    assert (empty.code_on, empty.can) == ((), ())


def test_one_machine_for_everything_is_said() -> None:
    place = Place(name="laptop", keys=(OPERATOR,), controller=True, node="one")
    loss = one(solo(place=place), "laptop")
    assert loss.runs_on == ("one",)
    assert any("read and change what runs there" in text for text in loss.can)
    assert any("withhold" in text for text in loss.can)


def test_a_ci_key_reaches_its_service_only() -> None:
    loss = one(solo(key(CI, "ci", "rel-web")), "ci:web")
    assert (loss.code_on, loss.policies, loss.secrets, loss.runs_on) == (("web",), (), (), ())
    assert "sign for another service: db" in loss.cannot
    assert "service db" in loss.safe
    assert loss.recover == ("nebh key revoke 33333333 --since TIME", "nebh rollback web")
    assert any("when an operator signs the next set" in text for text in loss.can)
    again = one(solo(key(CI, "ci", "rel-db.2")), "ci:db")
    assert (again.code_on, again.secrets) == (("db",), ("db",))


def test_where_a_controller_seals_the_set_a_ci_key_needs_nobody() -> None:
    facts = solo(key(CI, "ci", "rel-web"))
    sealing = tuple(
        replace(held, roles=(*held.roles, "snapshot")) if held.kind == "controller" else held for held in facts.keys
    )
    loss = one(replace(facts, keys=sealing), "ci:web")
    assert any("in effect at once" in text for text in loss.can)


def test_a_revoked_key_gives_nothing() -> None:
    assert find_losses(solo(key(CI, "ci", "rel-web")), CI)[0].code_on == ("web",)
    loss = one(solo(), CI)
    assert (loss.kind, loss.code_on, loss.policies, loss.secrets, loss.runs_on) == ("key", (), (), (), ())
    assert loss.can == ("nothing: no role and no setting names this key",)
    with pytest.raises(NotFound):
        find_losses(solo(), "nobody")
    with pytest.raises(NotFound):
        find_losses(solo(), CI[:8])


def test_a_controller_chooses_inside_what_is_signed() -> None:
    loss = one(solo(), "controller")
    assert (loss.code_on, loss.policies, loss.secrets) == ((), (), ())
    assert "choose among what is signed and listed: db 1; web 2, 3" in loss.can
    assert "withdraw services that are not pinned: web" in loss.can
    assert "restart, and scale within the policy: db 1 to 3, web 1 to 3" in loss.can
    assert loss.recover == ("nebh key add NEW --as controller", "nebh key revoke 22222222")


def test_a_node_has_what_its_policies_admit() -> None:
    policies = (policy("web", groups=("front",)), policy("db", nodes=("one",), secrets=("password",)))
    loss = one(solo(policies=policies), "one")
    assert loss.secrets == ("db",)
    assert any("its policies admit db" in text for text in loss.can)
    with pytest.raises(NotFound):
        find_losses(solo(), "old")


def test_one_of_two_operators_can_do_nothing_alone() -> None:
    facts = replace(solo(), thresholds={"root": 1, "targets": 2, "rel-web": 2})
    loss = one(facts, "operator")
    assert (loss.code_on, loss.policies) == (("db",), ())
    assert loss.can[0] == "nothing alone: targets takes 2 signatures"


def rows(section: str) -> dict[str, str]:
    """The rows of the table in a section of docs/security.md, by their first cell."""
    text = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    lines = text.partition(f"\n## {section}\n")[2].partition("\n## ")[0].splitlines()
    cells = [line.strip("| ").partition(" | ") for line in lines if line.startswith("| ")]
    return {first: rest for first, _, rest in cells[1:]}


def test_the_security_page_says_the_same() -> None:
    """Every kind of loss has a row, with the commands that are computed for it."""
    table = rows("What each stolen thing gives")
    heads = {
        "words": "recovery words",
        "operator": "operator's key, or the laptop with it",
        "laptop": "operator's key, or the laptop with it",
        "ci": "CI key of one service",
        "controller": "controller (machine and its keys)",
        "node": "SSH to a node as root",
        "agent": "agent (the process)",
        "mirror": "a mirror or the line",
        "key": "a key that was revoked",
    }
    losses = (*blast_radius(solo(key(CI, "ci", "rel-web"))), *find_losses(solo(), CI))
    assert {loss.kind for loss in losses} == set(heads)
    assert set(heads.values()) | {"a container"} == set(table)
    for loss in losses:
        asked = [" ".join(line.split()[:3]) for line in loss.recover if line.startswith("nebh key")]
        assert not [command for command in asked if f"`{command}" not in table[heads[loss.kind]]], loss.what
        assert "tests/" in table[heads[loss.kind]]


def test_every_way_back_was_walked_by_a_test() -> None:
    table = rows("After a loss")
    assert {"operator's key", "laptop", "controller", "controller's key", "node", "CI key"} <= set(table)
    assert [lost for lost, row in table.items() if "::test_" not in row] == ["the words are gone, and the key too"]

"""Every rule that exists is switched off alone, and then at least one attack that it refused gets through.

The tables of the node (N...) are in tests/planning/test_accept.py, case by case; here are those of the signing side
(O...), the two rules that are no table (N1's signatures, N12), and the list that no new rule can be missing from.
"""

from __future__ import annotations

import base64
import dataclasses
import inspect
import re
import time
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tuf.api._payload import Root, Snapshot, Targets, Timestamp

from nebh.cli.output import OUTPUT_RULES, harmless
from nebh.drivers.containers.oci_config import render_config
from nebh.model.errors import Refused
from nebh.model.instance import InstanceFacts
from nebh.model.node import Baseline, NodeList, NodeRecord, Settings
from nebh.model.policy import Policy
from nebh.model.release import Release
from nebh.model.rules import NONE
from nebh.model.statement import Assignment, Outcome, Receipt
from nebh.model.trust import TrustedSet
from nebh.planning import accept, operate
from nebh.planning.operate import Consent, ReceiptFacts
from nebh.signing import roles, statements
from nebh.signing.floors import FLOOR_RULES, RoleFloor, check_floors
from nebh.signing.floors import Floors as SeenFloors
from nebh.signing.genesis import init_cluster
from nebh.signing.roles import KEY_RULES, check_may_sign, parse_role
from nebh.signing.statements import Seed, keyid_of, sign_statement, verify_statement
from nebh.signing.trust_store import TrustStore
from nebh.wire import dsse

SOURCE = Path(__file__).resolve().parents[2] / "src" / "nebh"
DOCS = Path(__file__).resolve().parents[2] / "docs" / "security.md"
NODE_CASES = Path(__file__).resolve().parents[1] / "planning" / "test_accept.py"
CLUSTER = "c" * 32
OPERATOR, CONTROLLER, NODE, STRANGER = (Seed(letter * 32) for letter in (b"o", b"t", b"n", b"x"))
NOT_THERE_YET = {"N10", "N15", "N16"}  # stacks, several nodes, updates of programs
NO_TABLE = {"N1", "N12"}  # signatures, and a pure function: the tests at the end
NO_RULE = {
    "peer",
    "busy",
    "identity",
    "pin",
    "door",
    "data",
    "tls",
    "acme",
    "smtp",
}  # refusals that are no rule of docs/security.md: see their own tests

Attack = Callable[[frozenset[str]], bool]
"""Tries something without the rules it is given; whether it got through."""

# ---------------------------------------------------------------------------------------- what the cases are made of

VERSIONS = {"root": 1, "targets": 9, "snapshot": 20, "timestamp": 30, "rel-web": 4}
TRUSTED = TrustedSet(
    source="controller",
    versions=VERSIONS,
    digests={role: f"digest of {role}" for role in VERSIONS},
    expires=dict.fromkeys(VERSIONS, 1),
    cluster_ids=(CLUSTER,),
    top_level=(),
    delegations=(),
    operator_keys=(OPERATOR.public,),
    online_keys="k",
    newest_signed_at=0,
    nodes=NodeList(cluster_id=CLUSTER),
    settings=Settings(cluster_id=CLUSTER, name="home", controller_keys=(CONTROLLER.public,)),
    policies={},
    releases={},
    release_digests={},
)
FLOORS = SeenFloors(
    cluster_id=CLUSTER,
    online_keys="k",
    roles={role: RoleFloor(version=number, digest=TRUSTED.digests[role]) for role, number in VERSIONS.items()},
)
RECORD = NodeRecord(
    node_id="n" * 64,
    name="one",
    groups=(),
    sign_pk=NODE.public,
    seal_pk="",
    wg_pk="",
    subnets=(),
    enrolled_at=1,
    baseline=Baseline(snapshot=1),
)
RECEIPT = Receipt(
    cluster_id=CLUSTER,
    node_id=RECORD.node_id,
    number=7,
    previous="0" * 64,
    at=1,
    nonce="mine",
    outcome=Outcome.COMMITTED,
    service="web",
    counter=3,
    snapshot=21,
)
FOUNDED = init_cluster(
    name="home",
    operator=OPERATOR,
    controller=CONTROLLER.public,
    entropy=b"e" * 16,
    cluster_id=CLUSTER,
    now=int(time.time()),
)
FILES = {
    **{f"metadata/{name}": data for name, data in FOUNDED.publication.metadata.items()},
    **{f"targets/{name}": data for name, data in FOUNDED.publication.targets.items()},
}
SIGNED_ROOT = parse_role(FILES["metadata/1.root.json"], Root)
SIGNED_TARGETS = parse_role(FILES["metadata/1.targets.json"], Targets)


def refuses(check: Callable[[], object]) -> bool:
    try:
        check()
    except Refused:
        return True
    return False


def served(**changes: Any) -> Attack:
    """The command line is shown another set."""
    shown = dataclasses.replace(TRUSTED, **changes)
    return lambda off: not refuses(lambda: check_floors(shown, FLOORS, disabled=off))


def signed_by(key: Seed, role: str = "targets") -> Attack:
    return lambda off: not refuses(lambda: check_may_sign(SIGNED_ROOT, SIGNED_TARGETS, role, key.public, disabled=off))


def agreed(**fields: Any) -> Attack:
    """Something that widens is to be signed."""
    facts = Consent(**{"widening": frozenset({"node evil"}), "consented": False, **fields})
    return lambda off: operate.may_sign_difference(facts, disabled=off).ok


def published(**changes: int) -> Attack:
    """A publication that was built upon other versions."""
    return lambda off: operate.may_publish(base=VERSIONS | changes, current=VERSIONS, disabled=off).ok


def confirmed(*, signer: Seed = NODE, node: NodeRecord = RECORD, since: int = 21, **changes: Any) -> Attack:
    """A receipt is handed to the command line; its signature is a real one."""
    receipt = dataclasses.replace(RECEIPT, **changes)
    envelope = sign_statement("receipt", receipt, signer)
    found = verify_statement(envelope, "receipt", Receipt, keys=(signer.public,))
    facts = ReceiptFacts(
        receipt=found, signer=signer.public, node=node, cluster_id=CLUSTER, nonce="mine", published=since
    )
    return lambda off: operate.counts(facts, disabled=off).ok


def printed(text: str) -> Attack:
    """A container writes to somebody's terminal."""
    return lambda off: any(not letter.isprintable() for letter in harmless(text, disabled=off))


ATTACKS: list[tuple[str, Attack]] = [
    ("N0.floors", served(cluster_ids=(CLUSTER, "d" * 32))),
    ("O1.older", served(versions=VERSIONS | {"targets": 8})),
    ("O1.older", served(versions=VERSIONS | {"rel-web": 3})),
    ("O1.older", served(versions=VERSIONS | {"snapshot": 19})),
    ("O1.equivocation", served(digests=TRUSTED.digests | {"targets": "other"})),
    ("O2.key", signed_by(STRANGER)),
    ("O2.key", signed_by(CONTROLLER)),
    ("O2.key", signed_by(CONTROLLER, "snapshot")),
    ("O2.widens", agreed()),
    ("O2.again", agreed(consented=True, agreed=frozenset({"a route"}))),
    ("O3.base", published(targets=8)),
    ("O3.base", published(snapshot=21)),
    ("O3.base", lambda off: operate.may_publish(base={}, current=VERSIONS, disabled=off).ok),
    ("O4.control", printed("\x1b]0;owned\x07")),
    ("O4.control", printed("fine\r\x1b[2Kbad")),
    ("O4.control", printed("\u202egnp.exe")),
    ("O5.signer", confirmed(signer=STRANGER)),
    ("O5.signer", confirmed(signer=CONTROLLER)),
    ("O5.node", confirmed(node_id="m" * 64)),
    ("O5.cluster", confirmed(cluster_id="d" * 32)),
    ("O5.nonce", confirmed(nonce="another command's")),
    ("O5.snapshot", confirmed(snapshot=20)),
    ("O5.snapshot", confirmed(snapshot=20, outcome=Outcome.STOPPED)),
]
CONTROLS: list[Attack] = [
    served(),
    served(versions=VERSIONS | {"targets": 10}, digests=TRUSTED.digests | {"targets": "newer"}),
    signed_by(OPERATOR),
    signed_by(CONTROLLER, "timestamp"),
    agreed(consented=True),
    agreed(widening=frozenset()),
    agreed(consented=True, agreed=frozenset({"node evil", "a route"})),
    published(),
    published(timestamp=29),
    confirmed(),
    confirmed(snapshot=22),
    confirmed(snapshot=5, since=0),
    confirmed(snapshot=5, outcome=Outcome.REFUSED),
]


@pytest.mark.parametrize(("rule", "attack"), ATTACKS, ids=[f"{n}-{rule}" for n, (rule, _) in enumerate(ATTACKS)])
def test_an_attack_on_the_signing_side_gets_through_only_without_its_rule(rule: str, attack: Attack) -> None:
    assert not attack(NONE)
    assert attack(frozenset({rule})), f"another rule refuses it too: {rule} could be missing and no test would see it"


@pytest.mark.parametrize("control", CONTROLS)
def test_what_is_right_is_taken_on_the_signing_side(control: Attack) -> None:
    assert control(NONE)


def test_plain_text_is_printed_as_it_is() -> None:
    assert harmless("ünïcode 漢字 [x]") == "ünïcode 漢字 [x]"


# ---------------------------------------------------------------------------------------------- no rule is forgotten

TABLES = (accept.RULES, operate.OPERATE_RULES, FLOOR_RULES, KEY_RULES)


def test_every_rule_that_exists_has_an_attack() -> None:
    ids = [rule.id for table in TABLES for rule in table] + list(OUTPUT_RULES)
    assert len(ids) == len(set(ids))
    node = {rule.id for rule in accept.RULES}
    cases = NODE_CASES.read_text()
    assert not [rule for rule in node if f'"{rule}"' not in cases], "no case in tests/planning/test_accept.py"
    assert {rule for rule, _ in ATTACKS} == set(ids) - node


def test_every_table_of_rules_is_known_here() -> None:
    """A table made elsewhere would escape the lists above."""
    makers = {path for path in SOURCE.rglob("*.py") if re.search(r"\bRule\(id=", path.read_text())}
    known = {rule.id for table in TABLES for rule in table}
    found = {name for path in makers for name in re.findall(r'Rule\(id="([^"]+)"', path.read_text())}
    assert found == known


def test_code_and_page_name_the_same_rules() -> None:
    named = {rule.name for table in TABLES for rule in table} | {one.partition(".")[0] for one in OUTPUT_RULES}
    expected = {f"N{n}" for n in range(17)} - NOT_THERE_YET | {f"O{n}" for n in range(1, 6)}
    assert {one for one in named if re.fullmatch(r"[NO]\d+", one)} | NO_TABLE == expected
    rows = [line for line in DOCS.read_text().splitlines() if line.startswith("|")]
    assert expected <= set(re.findall(r"\b[NO]\d+\b", "\n".join(rows)))
    raised = {one for path in SOURCE.rglob("*.py") for one in re.findall(r'\brule="([^"]+)"', path.read_text()) if one}
    assert {one.partition(".")[0] for one in raised} <= named | NO_TABLE | NO_RULE, "a refusal by a rule of no table"


def test_production_switches_no_rule_off() -> None:
    """`disabled` is a parameter of decisions, which tests alone give a value."""
    givers = [
        f"{path.relative_to(SOURCE)}: {line.strip()}"
        for path in SOURCE.rglob("*.py")
        if path.relative_to(SOURCE).parts[0] != "testing"
        for line in path.read_text().splitlines()
        if re.search(r"\bdisabled=(?!disabled\b)", line)
    ]
    assert not givers


# ------------------------------------------------------------------------------------ N1 and N12, which are no table


def test_n1_a_statement_under_a_forged_signature(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stranger signs and writes the controller's key id beside it."""
    media, payload, _ = dsse.unwrap(sign_statement("receipt", RECEIPT, STRANGER))
    signature = base64.b64encode(STRANGER.sign_bytes(dsse.pae(media, payload))).decode()
    forged = dsse.wrap(media, payload, (dsse.Signature(keyid=keyid_of(NODE.public), sig=signature),))
    keys = (NODE.public,)

    def verify() -> Receipt:
        return verify_statement(forged, "receipt", Receipt, keys=keys)

    with pytest.raises(Refused) as caught:
        verify()
    assert caught.value.rule == "N1"
    assert verify_statement(sign_statement("receipt", RECEIPT, NODE), "receipt", Receipt, keys=keys) == RECEIPT
    monkeypatch.setattr(statements, "verify_raw", lambda **_: True)
    assert verify() == RECEIPT, "only the signature stood in its way"


def test_n1_a_role_under_a_strangers_signature(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    forged = dict(FILES)

    def seal(role: str, body: Any) -> None:
        name = "metadata/timestamp.json" if role == "timestamp" else f"metadata/1.{role}.json"
        forged[name] = roles.seal_role(
            body, signers=(STRANGER,), cluster_id=CLUSTER, version=1, now=int(time.time()), life=9999
        )

    seal("targets", SIGNED_TARGETS)
    seal("snapshot", Snapshot(meta={"targets.json": roles.meta_file(forged["metadata/1.targets.json"], 1)}))
    seal("timestamp", Timestamp(snapshot_meta=roles.meta_file(forged["metadata/1.snapshot.json"], 1)))

    def refresh(files: dict[str, bytes], folder: str) -> None:
        def fetch(name: str, limit: int) -> bytes | None:
            data = files.get(name)
            return None if data is None else data[: limit + 1]

        TrustStore(tmp_path / folder, fetch, FOUNDED.root, CLUSTER).refresh()

    with pytest.raises(Refused) as caught:
        refresh(forged, "attacked")
    assert caught.value.rule == "N1"
    refresh(FILES, "honest")
    for owner in (Root, Targets):
        monkeypatch.setattr(owner, "verify_delegate", lambda *_: None)
    refresh(forged, "without")


def is_function_of_signed_things_and_node_facts(render: Callable[..., bytes]) -> bool:
    """N12: nothing that a controller chooses reaches a container's configuration, but the replica's number."""
    takes = set(typing.get_type_hints(render).values()) - {bytes}
    chosen = {field.name for field in dataclasses.fields(Assignment)}
    facts = {field.name for field in dataclasses.fields(InstanceFacts)}
    return takes == {Policy, Release, InstanceFacts} and not chosen & facts


def test_n12_a_configuration_takes_nothing_of_an_assignment() -> None:
    def without(policy: Policy, release: Release, facts: InstanceFacts, wish: Assignment) -> bytes:
        return render_config(policy, release, facts) + wish.nonce.encode()

    assert is_function_of_signed_things_and_node_facts(render_config)
    assert not is_function_of_signed_things_and_node_facts(without)
    code = inspect.getsource(inspect.getmodule(render_config) or render_config)
    assert "Assignment" not in code

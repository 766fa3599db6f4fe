"""What counts as signed and what as the right bytes: key types, double and broken signatures, hashes, delegations."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import DelegatedRole, Delegations, MetaFile, TargetFile, Targets

KEY_TYPES = {
    "ed25519": CryptoSigner.generate_ed25519,
    "ecdsa": CryptoSigner.generate_ecdsa,
    "rsa-pss": CryptoSigner.generate_rsa,
    "rsa-pkcs1": lambda: CryptoSigner.generate_rsa(scheme="rsa-pkcs1v15-sha256"),
}


@pytest.mark.parametrize("kind", KEY_TYPES)
def test_each_key_type_counts_and_its_broken_signature_does_not(client, kind):
    repository = client.repository
    signer = KEY_TYPES[kind]()
    root = repository.bodies["root"]
    root.add_key(signer.public_key, "root")
    root.roles["root"].threshold = 2
    repository.signers["root"].append(signer)
    repository.publish("root")
    assert client.refresh() == 0
    repository.publish("root")

    def spoil(signatures):
        mine = next(entry for entry in signatures if entry["keyid"] == signer.public_key.keyid)
        mine["sig"] = mine["sig"][:-2] + ("00" if mine["sig"][-2:] != "00" else "01")

    honest = repository.files["/metadata/3.root.json"]
    repository.rewrite_signatures("3.root.json", spoil)
    assert client.refresh() == 1
    assert client.versions()["root"] == 2
    repository.files["/metadata/3.root.json"] = honest
    assert client.refresh() == 0


def test_one_key_signing_twice_is_one_signature(client):
    repository = client.repository
    root = repository.bodies["root"]
    repository.new_key("timestamp")
    root.roles["timestamp"].threshold = 2
    repository.publish("root", "timestamp")
    assert client.refresh() == 0
    repository.signers["timestamp"].pop()
    repository.publish("timestamp")
    assert client.refresh() == 1
    repository.rewrite_signatures("timestamp.json", lambda signatures: signatures.append(signatures[0]))
    assert client.refresh() == 1
    assert client.versions()["timestamp"] == 2


@pytest.mark.parametrize("sig", ["", "not hexadecimal", "00"])
def test_a_useless_signature_beside_enough_good_ones_does_no_harm(client, sig):
    repository = client.repository
    repository.new_key("timestamp")
    repository.publish("root", "timestamp")

    def spoil(signatures):
        signatures[0]["sig"] = sig

    repository.rewrite_signatures("timestamp.json", spoil)
    assert client.refresh() == 0


def test_a_role_signed_by_the_right_key_but_of_another_type_is_refused(client):
    repository = client.repository
    both = repository.signers["timestamp"][0]
    repository.bodies["root"].add_key(both.public_key, "snapshot")
    repository.signers["snapshot"] = [both]
    repository.bodies["snapshot"].meta = {"snapshot.json": MetaFile(1)}
    repository.publish("root", "snapshot")
    repository.files["/metadata/timestamp.json"] = repository.files["/metadata/2.snapshot.json"]
    assert client.refresh() == 1
    assert client.versions() == {"root": 2}


@pytest.mark.parametrize("algorithms", [["sha512"], ["sha256", "sha512"]])
def test_every_listed_hash_is_checked(client, algorithms):
    repository = client.repository
    listed = repository.bodies["targets"].targets
    listed["a.txt"] = TargetFile.from_data("a.txt", b"right", algorithms)
    for path in listed["a.txt"].get_prefixed_paths():
        repository.files["/targets/" + path] = b"right"
    # the same bytes, but with one hash that does not fit, and with one that nobody can compute
    for name, wrong in (("b.txt", {"sha512": "0" * 128}), ("c.txt", {"nonsense": "0" * 64})):
        listed[name] = TargetFile(5, {**listed["a.txt"].hashes, **wrong}, name)
        for path in listed[name].get_prefixed_paths():
            repository.files["/targets/" + path] = b"right"
    repository.publish("targets", "snapshot", "timestamp")
    assert client.download("b.txt") == 1
    assert client.download("c.txt") == 1
    assert client.downloaded() == []
    assert client.download("a.txt") == 0
    assert client.downloaded() == [b"right"]


def test_an_expired_delegated_role_says_nothing_until_it_is_renewed(client):
    repository = client.repository
    repository.delegate("team", ["x/*"])
    body = repository.bodies["team"]
    good, body.expires = body.expires, datetime.now(tz=UTC).replace(microsecond=0) - timedelta(days=1)
    repository.add("x/a", b"delegated", "team")
    repository.publish("team", "targets", "snapshot", "timestamp")
    assert client.refresh() == 0
    assert client.download("x/a") == 1
    assert "team" not in client.versions()
    body.expires = good
    repository.publish("team", "snapshot", "timestamp")
    assert client.download("x/a") == 0


def test_a_role_that_two_delegate_to_is_verified_for_each_of_them(client):
    """What one delegator's keys vouched for is not yet vouched for by the other's, in one run too."""
    repository = client.repository
    repository.delegate("left", ["left/*"])
    repository.delegate("right", ["right/*"])
    keys = {}
    for delegator in ("left", "right"):
        keys[delegator] = CryptoSigner.generate_ed25519()
        body = repository.bodies[delegator]
        shared = DelegatedRole("shared", [], 1, False, [f"{delegator}/*"])
        body.delegations = Delegations({}, {"shared": shared})
        body.add_key(keys[delegator].public_key, "shared")
    repository.bodies["shared"] = Targets(expires=repository.bodies["targets"].expires)
    repository.bodies["shared"].version = 0
    repository.signers["shared"] = [keys["left"]]
    repository.add("left/a", b"of the left", "shared")
    repository.add("right/b", b"of the right", "shared")
    repository.publish("shared", "left", "right", "targets", "snapshot", "timestamp")
    assert client.download("left/a", "right/b") == 1
    assert client.downloaded() == [b"of the left"]
    repository.signers["shared"] = list(keys.values())
    repository.publish("shared", "snapshot", "timestamp")
    assert client.download("left/a", "right/b") == 0
    assert client.downloaded() == [b"of the left", b"of the right"]

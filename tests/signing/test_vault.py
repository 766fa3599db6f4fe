"""The vault opens with the keys it was sealed to, and with no other; nothing in it is readable otherwise."""

import pytest

from nebh.model.errors import BadInput, Broken, Failed, NotFound, Refused
from nebh.signing import key_life, words
from nebh.signing.statements import Seed
from nebh.signing.vault import NotSealedToIt, Vault, recipients_of, vault_key

VALUE = b"correct horse battery staple"


class Agent:
    """A key whose seed nobody sees. odd: signs one text in two ways, as a key of another kind would."""

    def __init__(self, seed: Seed, *, odd: bool = False) -> None:
        self._seed, self._odd, self._count = seed, odd, 0

    @property
    def public(self) -> str:
        return self._seed.public

    def sign_bytes(self, data: bytes) -> bytes:
        self._count += self._odd
        return self._seed.sign_bytes(data + b"x" * self._count)


@pytest.fixture
def vault(cloud, tmp_path):
    (tmp_path / "home").mkdir(mode=0o700)
    return Vault(tmp_path / "home", cloud.genesis.cluster_id)


def put(vault, cloud, *, key=None, version=1, value=VALUE, **more):
    own = vault_key(key or cloud.operator, cloud.genesis.cluster_id)
    recipients = recipients_of(cloud.state(), own)
    vault.put(service="web", name="db", value=value, version=version, now=7, recipients=recipients, **more)
    return own


def again(vault, cloud):
    return Vault(vault.path.parent, cloud.genesis.cluster_id)


def test_operator_and_words_open_it_and_nobody_else(vault, cloud):
    own = put(vault, cloud, generate="32 alnum")
    there = again(vault, cloud)
    assert there.keys == ("web/db",)
    assert (there.entry("web/db").version, there.entry("web/db").generate) == (1, "32 alnum")
    assert there.open("web", "db", own) == VALUE
    recovery = vault_key(words.root_key(cloud.entropy), cloud.genesis.cluster_id)
    assert there.open("web", "db", recovery) == VALUE
    with pytest.raises(NotSealedToIt, match="not sealed to the key"):
        there.open("web", "db", vault_key(Seed(b"x" * 32), cloud.genesis.cluster_id))
    with pytest.raises(NotSealedToIt):
        there.open("web", "db", vault_key(cloud.controller, cloud.genesis.cluster_id))
    with pytest.raises(NotFound, match="web/other"):
        there.open("web", "other", own)


def test_the_file_is_its_owners_and_tells_nothing(vault, cloud):
    put(vault, cloud)
    assert vault.path.stat().st_mode & 0o777 == 0o600
    data = vault.path.read_bytes()
    assert VALUE not in data
    assert VALUE.hex().encode() not in data
    assert "private" not in repr(vault_key(cloud.operator, "c"))


def test_a_key_in_an_ssh_agent_opens_it_too(vault, cloud):
    own = put(vault, cloud, key=Agent(cloud.operator))
    assert again(vault, cloud).open("web", "db", vault_key(Agent(cloud.operator), cloud.genesis.cluster_id)) == VALUE
    recovery = vault_key(words.root_key(cloud.entropy), cloud.genesis.cluster_id)
    assert again(vault, cloud).open("web", "db", recovery) == VALUE
    assert own.private != vault_key(Agent(cloud.operator), "another cloud").private
    with pytest.raises(Failed, match="in two ways"):
        vault_key(Agent(cloud.operator, odd=True), cloud.genesis.cluster_id)


def test_after_a_recovery_by_the_words_the_new_key_opens_it_and_the_old_one_no_later_copy(vault, cloud):
    old = put(vault, cloud)
    new = Seed(b"n" * 32)
    made = key_life.recover(cloud.state(), recovery_words=words.to_words(cloud.entropy), key=new, now=cloud.now + 60)
    cloud.publish(made.publication)
    recovery = vault_key(words.root_key(cloud.entropy), cloud.genesis.cluster_id)
    own = vault_key(new, cloud.genesis.cluster_id)
    there = again(vault, cloud)
    assert there.reseal(recovery, recipients_of(cloud.state(), own)) == ()
    there = again(vault, cloud)
    assert there.open("web", "db", own) == VALUE
    assert there.open("web", "db", recovery) == VALUE
    with pytest.raises(NotSealedToIt):
        there.open("web", "db", old)


def test_what_a_key_does_not_open_is_left_and_named(vault, cloud):
    put(vault, cloud)
    stranger = vault_key(Seed(b"x" * 32), cloud.genesis.cluster_id)
    before = vault.path.read_bytes()
    assert vault.reseal(stranger, {stranger.owner: stranger.public}) == ("web/db",)
    assert vault.path.read_bytes() == before


def test_a_copy_brings_what_is_newer(vault, cloud, tmp_path):
    own = put(vault, cloud, version=2)
    copy = vault.path.read_bytes()
    put(vault, cloud, version=1, value=b"older")
    assert vault.adopt(copy, what="copy") == ("web/db",)
    assert vault.open("web", "db", own) == VALUE
    assert vault.adopt(copy, what="copy") == ()
    vault.drop("web/db")
    vault.drop("web/db")
    assert again(vault, cloud).keys == ()


def test_a_damaged_or_foreign_vault_is_said_and_kept(vault, cloud):
    own = put(vault, cloud)
    data = vault.path.read_bytes()
    with pytest.raises(Broken, match="is of cluster") as caught:
        Vault(vault.path.parent, "d" * 32)
    assert caught.value.hint
    vault.path.write_bytes(data[:-9])
    with pytest.raises(Broken, match=r"vault\.json"):
        again(vault, cloud)
    # a box moved to another name or number does not open: what it is for is bound into it
    vault.path.write_bytes(data.replace(b'"version":1', b'"version":2'))
    with pytest.raises(Refused):
        again(vault, cloud).open("web", "db", own)


def test_a_value_that_cannot_be_sealed_changes_nothing(vault, cloud):
    put(vault, cloud)
    before = vault.path.read_bytes()
    with pytest.raises(BadInput):
        put(vault, cloud, version=2, value=b"")
    assert vault.path.read_bytes() == before

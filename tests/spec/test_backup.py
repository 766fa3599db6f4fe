"""`backup:` of a spec: what can be written, and every problem with its place."""

from __future__ import annotations

import pytest

from nebh.model.backup import BackupRetention, BackupRule
from nebh.model.errors import SpecErrors
from nebh.planning.release import make_policy
from nebh.spec.parse import parse_spec

HEAD = "name: db\nimage: {dir: r}\nargv: [/a]\nlimits: {memory: 64M}\npolicy: {checks_required: false}\n"
VOLUMES = """volumes:
  data: {path: /data, class: state, size: 1G}
  scratch: {path: /scratch, class: cache, size: 1G}
"""
SECRETS = "secrets: [{name: pw, generate: 40 alnum}, {name: key}, {name: shown, path: /run/secrets/shown}]\n"
HOST_KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ2Zr4N3"


def parse(backup: str, *, volumes: str = VOLUMES) -> BackupRule | None:
    return parse_spec(f"{HEAD}{volumes}{SECRETS}backup: {backup}\n", file="db.yaml").backup


def test_each_kind_of_store() -> None:
    assert parse("{to: /srv/backups, password: pw}") == BackupRule(to="/srv/backups", password="pw")
    assert parse(f"{{to: 'sftp:b@h.example:/x', password: pw, ssh_key: key, host_key: {HOST_KEY}, port: 2222}}") == (
        BackupRule(to="sftp:b@h.example:/x", password="pw", ssh_key="key", host_key=HOST_KEY, port=2222)
    )
    rule = parse(
        "{to: 's3:https://s3.example/b', password: pw, access_key: AKIA, secret_key: key, every: 6h,"
        " keep: {daily: 2}, volumes: [data]}"
    )
    assert rule is not None
    assert (rule.every, rule.keep, rule.volumes) == (6 * 3_600_000, BackupRetention(daily=2), ("data",))
    assert rule.secrets == ("pw", "key")


@pytest.mark.parametrize(
    ("backup", "path", "said"),
    [
        ("{to: relative, password: pw}", "backup.to", "no plain path"),
        ("{to: /srv/../x, password: pw}", "backup.to", "no plain path"),
        ("{to: /, password: pw}", "backup.to", "no plain path"),
        ("{to: 'rest:http://h/', password: pw}", "backup.to", "no plain path"),
        ("{to: 'sftp:-oProxyCommand=x@h:/x', password: pw}", "backup.to", "no plain path"),
        ("{to: 'sftp:b@h:/x', password: pw, host_key: ssh-ed25519 AAAA}", "backup.ssh_key", "needs `ssh_key`"),
        ("{to: 'sftp:b@h:/x', password: pw, ssh_key: key}", "backup.host_key", "needs `host_key`"),
        ("{to: 's3:https://h/b', password: pw, access_key: A}", "backup.secret_key", "needs `secret_key`"),
        ("{to: /srv/b, password: pw, region: eu}", "backup.region", "another kind of store"),
        ("{to: /srv/b, password: nobody}", "backup.password", "there is no secret `nobody`"),
        ("{to: /srv/b, password: shown}", "secrets[2].path", "no container gets it"),
        ("{to: /srv/b, password: pw, volumes: [more]}", "backup.volumes[0]", "there is no volume `more`"),
        ("{to: /srv/b, password: pw, volumes: [scratch]}", "backup.volumes[0]", "class cache is never copied"),
        ("{to: /srv/b, password: pw, every: 1s}", "backup.every", "is not between"),
        ("{to: /srv/b}", "backup", "password"),
        ("{password: pw}", "backup", "to"),
    ],
)
def test_what_cannot_be(backup: str, path: str, said: str) -> None:
    with pytest.raises(SpecErrors) as caught:
        parse(backup)
    found = [str(one) for one in caught.value.problems if one.path.startswith(path)]
    assert any(said in one for one in found), [str(one) for one in caught.value.problems]


def test_there_has_to_be_a_volume() -> None:
    with pytest.raises(SpecErrors, match="no volume to back up"):
        parse("{to: /srv/b, password: pw}", volumes="")


def test_the_policy_has_the_rule_and_no_container_its_secrets() -> None:
    text = f"{HEAD}{VOLUMES}{SECRETS}backup: {{to: /srv/b, password: pw}}\n"
    spec = parse_spec(text, file="db.yaml")
    policy = make_policy(spec, previous=None, cluster_id="c" * 32, now=1)
    assert policy.backup == spec.backup
    assert policy.secrets == ("key", "pw", "shown")

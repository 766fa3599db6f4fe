"""`secrets:` of a spec."""

import pytest

from nebh.model.errors import SpecErrors
from nebh.model.secret import SecretUse, SecretWish
from nebh.spec.parse import parse_spec

HEAD = "name: web\nimage: {dir: r}\nargv: [/a]\nlimits: {memory: 64M}\nports: {http: 80}\n"


def problems(text: str) -> list[str]:
    with pytest.raises(SpecErrors) as caught:
        parse_spec(HEAD + text, file="web.yaml")
    return [str(one) for one in caught.value.problems]


def test_defaults_and_everything():
    spec = parse_spec(
        HEAD
        + "secrets:\n  - name: db\n  - {name: key, path: /run/k/x.pem, env: KEY, signal: HUP, generate: 32 alnum}\n",
        file="web.yaml",
    )
    assert spec.secrets == (
        SecretWish(use=SecretUse(name="db", path="/run/secrets/db")),
        SecretWish(use=SecretUse(name="key", path="/run/k/x.pem", env="KEY", signal="HUP"), generate="32 alnum"),
    )
    assert parse_spec(HEAD, file="web.yaml").secrets == ()


def test_all_problems_at_once_each_with_its_place():
    found = problems(
        "env: {KEY: x}\n"
        "secrets:\n"
        "  - {name: db, path: /proc/db}\n"
        "  - {name: db, path: relative}\n"
        "  - {name: a--b, env: KEY}\n"
        "  - {name: k, path: /run/secrets/deep/er}\n"
        "  - {name: s, signal: SIGHUP}\n"
        "  - {name: g, generate: alnum}\n"
        "  - {path: /run/secrets/x}\n"
    )
    text = "\n".join(found)
    for said in (
        "web.yaml:8:",
        "nothing of a service lies below /proc",
        "`relative` is not an absolute path",
        "another secret has the name `db`",
        "two - in a row",
        "`KEY` stands under `env` too",
        "lie in one another",
        "did you mean `HUP`?",
        "a length and a kind",
        "secrets[6].name: it is missing",
    ):
        assert said in text, text


def test_a_plain_list_of_names_is_told_how():
    (one,) = problems("secrets: [db]\n")
    assert "a mapping is needed here" in one

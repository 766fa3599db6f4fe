"""Spec texts become models, and every problem of a text is said at once, at its place."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nebh.model.errors import SpecErrors
from nebh.model.service import (
    Acme,
    CheckKind,
    Connect,
    Egress,
    OnFailure,
    PlacementMode,
    Route,
    RouteTls,
    ServiceSpec,
    SourceKind,
)
from nebh.spec.document import LIMIT
from nebh.spec.parse import parse_spec
from nebh.spec.schema import example_text

SMALL = """\
name: web
image: {dir: ./rootfs}
argv: [/usr/bin/app]
ports: {http: 8080}
limits: {memory: 64M}
health: {readiness: {tcp: {port: http}}}
"""


def parse(text: str) -> ServiceSpec:
    return parse_spec(text, file="web.yaml", base="/srv/app")


def problems(text: str) -> list[str]:
    with pytest.raises(SpecErrors) as caught:
        parse(text)
    return [str(one) for one in caught.value.problems]


def test_the_smallest_useful_spec() -> None:
    spec = parse(SMALL)
    assert spec.name == "web"
    assert spec.image.location == "/srv/app/rootfs"
    assert spec.limits.memory == 64 * 2**20
    assert spec.health.readiness is not None
    assert spec.health.readiness.port == 8080
    assert spec.replicas.count == spec.replicas.max == 1


def test_the_example_means_what_its_comments_say() -> None:
    spec = parse(example_text())
    assert spec.image.kind is SourceKind.DIRECTORY
    assert spec.argv == ("/usr/bin/app", "--port", "8080")
    assert spec.env["GREETING"] == "yes"
    assert spec.routes[0].tls == RouteTls(acme=Acme(email="admin@example.org", ca="/etc/ssl/certs/ca-certificates.crt"))
    assert spec.routes[1].tls == RouteTls(secret="shop-tls")
    assert spec.routes[3] == Route(port=9100, tcp_port=9100)
    assert spec.connects == (Connect(service="db", port=5432),)
    assert spec.egress[2] == Egress(cidr="2001:db8::/32", port=53, protocol="udp")
    assert spec.limits.cpu == 500
    assert spec.health.startup is not None
    assert spec.health.startup.kind is CheckKind.EXEC
    assert spec.update.on_failure is OnFailure.ROLLBACK
    assert spec.placement.mode is PlacementMode.PINNED
    assert spec.policy.rollback_window == 7 * 86_400_000
    assert (spec.replicas.count, spec.replicas.min, spec.replicas.max) == (2, 1, 4)


@pytest.mark.parametrize(
    ("image", "kind", "location"),
    [
        ("tar: app.tar.zst", SourceKind.TAR, "/srv/app/app.tar.zst"),
        ('oci: "./layout:1.2"', SourceKind.OCI_LAYOUT, "/srv/app/layout:1.2"),
        ("docker-archive: ../f.tar", SourceKind.DOCKER_ARCHIVE, "/srv/f.tar"),
        ("dir: /abs", SourceKind.DIRECTORY, "/abs"),
        (f"registry: docker.io/library/redis@sha256:{'a' * 64}", SourceKind.REGISTRY, None),
        ("door: web:1.2", SourceKind.DOOR, "web:1.2"),
        (f"door: team/web@sha256:{'a' * 64}", SourceKind.DOOR, None),
        (f"manifest: {'ab' * 32}", SourceKind.MANIFEST, "ab" * 32),
    ],
)
def test_image_sources(image: str, kind: SourceKind, location: str | None) -> None:
    spec = parse(SMALL.replace("dir: ./rootfs", image))
    assert spec.image.kind is kind
    assert spec.image.location == (location or image.partition(": ")[2])


def test_all_problems_at_once_in_order() -> None:
    text = """\
name: all
image: ./foo
argv: app
memory: 64M
env: {A: no, B: 012, C: 1.10, NEBH_X: 1}
ports: {http: 8080:80, b: 0644}
routes: [{host: WWW.x, port: htp}, {tcp: 5, path: /}]
helth: {}
egress: ["example.org:443", "1.2.3.4", "10.0.0.1/8:3"]
replicas: {count: 5, max: 2}
update: {bake: 10, on_failure: rolback}
stop: {signal: SIGTERM}
limits: {cpu: 0.5}
"""
    found = problems(text)
    assert len(found) >= 18
    places = [int(one.split(":")[1]) for one in found]
    assert places == sorted(places)
    assert "web.yaml:8:1: helth: unknown field `helth` (did you mean `health`?)" in found
    assert any("limits.memory: it is missing" in one for one in found)
    assert any("did you mean `limits.memory`?" in one for one in found)


@pytest.mark.parametrize(
    ("before", "after", "place", "message"),
    [
        ("name: web", "name: web-", "1:7", "is not a name"),
        ("name: web", "name: no", "1:7", "YAML reads `no` as true or false"),
        ("name: web", "name: a--b", "1:7", "two - in a row"),
        ("name: web", "name: 2026-01-01", "1:7", "as a timestamp"),
        ("name: web", "name:", "1:6", "it is empty"),
        ("name: web", "name: web\nname: web", "2:1", "stands twice, first in line 1"),
        ("[/usr/bin/app]", "/usr/bin/app", "3:7", "write a list, one word per item"),
        ("[/usr/bin/app]", "[app]", "3:8", "is not an absolute path"),
        ("[/usr/bin/app]", "[]", "3:7", "0 items"),
        ("8080", "8080:80", "4:15", "write `80` alone"),
        ("8080", "20:30", "4:15", "base 60"),
        ("8080", "0644", "4:15", "without the leading 0"),
        ("8080", '"8080"', "4:15", "without quotes"),
        ("8080", "70000", "4:15", "from 1 to 65535"),
        ("{http: 8080}", "{http: 8080, web: 8080}", "4:26", "already named `http`"),
        ("64M", "64", "5:18", "did you mean 64M?"),
        ("64M", "64X", "5:18", "is not a size"),
        ("{memory: 64M}", "{}", "5:9", "every service needs a limit"),
        ("{tcp: {port: http}}", "{tcp: {port: htpp}}", "6:34", "no port `htpp` in `ports`"),
        ("{tcp: {port: http}}", "{exec: [check]}", "6:29", "is not an absolute path"),
        ("{tcp: {port: http}}", "{}", "6:21", "exactly one of `http`, `tcp`, `exec`"),
        ("{tcp: {port: http}}", "{tcp: {port: http}, interval: 1:30}", "6:51", "is not a duration"),
        (
            "ports: {http: 8080}\nlimits: {memory: 64M}\nhealth: {readiness: {tcp: {port: http}}}",
            "limits: {memory: 64M}",
            "1:7",
            "could not be noticed",
        ),
        ("limits:", "\tlimits:", "5:1", "a tab in the indentation"),
        ("limits:", "limits: &a", "5:9", "anchors and aliases"),
        ("64M", "!!str 64M", "5:18", "explicit tags"),
        ("ports:", "needs: [web]\nports:", "4:9", "cannot wait for itself"),
        ("ports:", "connects: [db]\nports:", "4:12", "is not `service:port`"),
        ("ports:", "update: {overlap: no}\nports:", "4:19", "neither true nor false"),
        ("ports:", "update: {bake: 1s, checks: [{tcp: {}, interval: 2s}]}\nports:", "4:29", "never be looked at"),
        ("ports:", "routes: [{host: a.b}, {host: a.b, path: /}]\nports:", "4:23", "the same as routes[0]"),
        ("ports:", "routes: [{tls: {cert: /a, key: /b}}]\nports:", "4:16", "a certificate is for a host"),
        ("ports:", "routes: [{host: a.b, tls: {cert: /a}}]\nports:", "4:27", "`key` is missing"),
        ("ports:", "routes: [{host: a.b, tls: {}}]\nports:", "4:27", "it is empty"),
        ("ports:", "routes: [{host: a.b, tls: {secret: s, acme: {}}}]\nports:", "4:27", "do not go together"),
        ("ports:", "routes: [{host: a.b, tls: amce}]\nports:", "4:27", "acme"),
        ("ports:", "routes: [{host: a.b, tls: {acme: {directory: http://a.b/}}}]\nports:", "4:46", "https URL"),
        (
            "ports:",
            "routes: [{host: a.b, tls: acme}, {host: a.b, path: /x, tls: {secret: s}}]\nports:",
            "4:34",
            "another certificate",
        ),
        ("ports:", "routes: [{host: a.b, path: /../x}]\nports:", "4:28", "is not a plain path"),
        ("ports:", "policy: {lint_exceptions: [/bin/sh]}\nports:", "4:28", "such as shell:/bin/sh"),
        ("ports:", "egress: [dns, dns]\nports:", "4:15", "stands twice"),
        ("ports:", "environment: {A: b}\nports:", "4:1", "did you mean `env`?"),
        ("ports:", "placement: {}\nports:", "4:1", "did you mean `policy.placement`?"),
    ],
)
def test_each_trap_is_said_at_its_place(before: str, after: str, place: str, message: str) -> None:
    assert before in SMALL
    found = problems(SMALL.replace(before, after))
    assert any(one.startswith(f"web.yaml:{place}:") and message in one for one in found), found


@pytest.mark.parametrize(
    "text", ["", "---\na: 1\n---\nb: 2", "[", "a: \x01", "- 1", "a: " + "[" * 50, "x" * (LIMIT + 1)]
)
def test_what_is_no_spec_at_all_is_one_clear_problem(text: str) -> None:
    assert len(problems(text)) == 1


def test_aliases_are_never_expanded() -> None:
    bomb = "a: &a [x, x, x, x, x, x, x, x]\n" + "".join(
        f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(12)
    )
    assert "anchors and aliases" in problems(bomb)[0]


@pytest.mark.timeout(60)
def test_a_file_full_of_mistakes_is_answered_in_good_time() -> None:
    many = "".join(f"k{n}: 1\n" for n in range(4000))
    assert len(problems(SMALL + many)) == 4000
    long = SMALL + "needs: [" + ", ".join(f"n{n}" for n in range(9000)) + "]\n"
    assert any("9000 items; 0 to 256 are allowed" in one for one in problems(long))


def said(text: str) -> list[str]:
    try:
        parse(text)
    except SpecErrors as error:
        return [str(one) for one in error.problems] or ["nothing said"]
    return []


@settings(max_examples=150, deadline=None)
@given(st.text(max_size=200), st.integers(0, len(SMALL)))
def test_no_text_makes_anything_but_a_spec_or_spec_errors(noise: str, place: int) -> None:
    for text in (noise, SMALL[:place] + noise + SMALL[place:]):
        assert all(re.match(r"web\.yaml:\d+:\d+: ", one) for one in said(text))

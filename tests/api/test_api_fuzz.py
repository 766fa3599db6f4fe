"""Whatever is sent, by whomever, the answer is one of ours: never a 500, always the documented shape of an error."""

from __future__ import annotations

import json

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from nebh.client.http import HttpConnection
from nebh.client.transport import UnixTransport
from nebh.model.api import Who

pytestmark = pytest.mark.e2e

SLOW = {"/v1/services/{service}/logs"}


def token(cloud, who: Who) -> str:
    if who is Who.NOBODY:
        return ""
    client = cloud.as_operator() if who is Who.OPERATOR else cloud.as_node()
    client._enter()
    return client._token


@pytest.mark.parametrize("who", list(Who))
def test_no_request_breaks_the_controller(cloud, who):
    connection = HttpConnection(UnixTransport(path=cloud.socket).connect(), host="x")
    document = json.loads(connection.request("GET", "/schema/openapi.json", headers={}, timeout=30).read(limit=1 << 22))
    schema = schemathesis.openapi.from_dict(document)
    bearer = token(cloud, who)
    before = cloud.nobody().health().snapshot
    seen: set[int] = set()
    for found in schema.get_all_operations():
        operation = found.ok()
        if operation.path in SLOW:
            continue

        @given(case=operation.as_strategy())
        @settings(
            max_examples=6,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate],
        )
        def attack(case) -> None:
            seen.add(send(cloud, case, bearer))

        attack()
    assert 200 in seen or who is Who.NOBODY

    assert cloud.nobody().health().snapshot == before


def send(cloud, case, bearer: str) -> int:
    made = case.as_transport_kwargs(base_url="http://x")
    from requests import Request

    prepared = Request(
        **{key: value for key, value in made.items() if key in {"method", "url", "headers", "params", "json", "data"}}
    ).prepare()
    target = (prepared.path_url or "/").replace("wait=", "nowait=")
    body = prepared.body or b""
    body = body.encode() if isinstance(body, str) else body
    body = body.replace(b'"wait"', b'"tiaw"')
    headers = {"Content-Type": "application/json"} if body else {}
    if bearer:
        headers["Authorization"] = f"Bearer {bearer}"
    with UnixTransport(path=cloud.socket).connect() as channel:
        answer = HttpConnection(channel, host="x").request(case.method, target, headers=headers, body=body, timeout=40)
        data = answer.read(limit=1 << 24)
    assert answer.status < 500, (case.method, target, body[:300], data[:500])
    if answer.status >= 400:
        assert set(json.loads(data)) == {"error", "hint", "kind", "rule"}, data
        assert "defect" not in data.decode()
    return answer.status


@settings(max_examples=60, deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(data=st.binary(min_size=1, max_size=300))
def test_garbage_on_the_socket_is_answered_or_dropped(cloud, data):
    with UnixTransport(path=cloud.socket).connect() as channel:
        channel.send(data)
        channel.finish()
    assert cloud.nobody().health().cluster_id

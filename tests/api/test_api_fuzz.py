"""schemathesis with every check, as nobody, as a node and as an operator: nothing is found; every operation answers 2xx
to whom it is for, and the very same requests never to the others. Without `--long` the examples are always the same."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import socket
import threading
import warnings
from collections import defaultdict

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema

from nebh.api.app import access_table
from nebh.api.document import DELTA, PACK, path_of
from nebh.client.transport import UnixTransport
from nebh.images.delta_pack import Outgoing, encode_delta_pack
from nebh.images.manifest import EMPTY_SHA256, MOUNT_DIRECTORIES, MOUNT_FILES, encode_manifest
from nebh.images.pack import encode_pack
from nebh.model import api
from nebh.model.api import Who
from nebh.model.errors import NebhError
from nebh.model.image import EntryType, TreeEntry, TreeManifest
from nebh.signing.statements import Seed
from nebh.signing.wish import Wish
from nebh.wire import codec
from nebh.wire.challenge import challenge

pytestmark = pytest.mark.e2e

ALLOWED = {f"{method} {path_of(path)}": set(who) for method, path, who in access_table()}
# Nobody may publish once, to found the cluster; here it is founded. Here is no mail server, and no node that answers.
PROPER: dict[str, set[Who]] = {
    **ALLOWED,
    "POST /v1/publish": {Who.OPERATOR},
    "POST /v1/mail/test": set(),
    "POST /v1/questions": set(),
}
MANIFEST = encode_manifest(
    TreeManifest(
        format=1,
        entries=tuple(
            TreeEntry(path=path, type=EntryType.FILE, mode=0o644, sha256=EMPTY_SHA256)
            if path in MOUNT_FILES
            else TreeEntry(path=path, type=EntryType.DIRECTORY, mode=0o755)
            for path in sorted((*MOUNT_DIRECTORIES, *MOUNT_FILES))
        ),
    )
)
OBJECTS = (b"one", MANIFEST)
DIGESTS = tuple(hashlib.sha256(data).hexdigest() for data in OBJECTS)


def pack(*contents: bytes) -> bytes:
    known = {hashlib.sha256(data).hexdigest(): data for data in contents}
    return b"".join(encode_pack([(digest, len(data)) for digest, data in known.items()], lambda one: [known[one]]))


def delta_pack(*contents: bytes) -> bytes:
    known = {hashlib.sha256(data).hexdigest(): data for data in contents}
    outgoing = [Outgoing(digest, len(data)) for digest, data in known.items()]
    return b"".join(encode_delta_pack(outgoing, lambda one: [known[one]]))


def teach(cloud) -> None:
    """Tell schemathesis what a statement and a pack look like: the OpenAPI document cannot say it."""
    statements = [cloud.order(), cloud.order(Seed(b"z" * 32)), cloud.statement()]
    texts = [base64.b64encode(one).decode() for one in statements]
    schemathesis.openapi.format("nebh-statement", st.sampled_from(texts))
    schemathesis.openapi.format("nebh-cursor", st.sampled_from(["", "{}", '{"web-1-0-1":"5@9"}', '{"a":"b"}']))
    packs = st.lists(st.binary(max_size=100), max_size=3).map(lambda contents: pack(*contents))
    schemathesis.openapi.media_type(PACK, packs)
    schemathesis.openapi.media_type(DELTA, packs.map(lambda _: delta_pack(*OBJECTS)))


def add_examples(document: dict, cloud) -> None:
    """Put a request that works into the document, for every operation that takes something."""
    publication = cloud.sign(Wish(releases=(cloud.release(50 + cloud.nobody().health().snapshot),)))
    status = cloud.as_operator().status()
    role = f"{status.versions['rel-web']}.rel-web.json"
    listed = json.loads(cloud.nobody().metadata(role, limit=1 << 20))["signed"]["targets"]
    path, about = next(iter(listed.items()))
    folder, _, name = path.rpartition("/")
    parameters = {
        "service": "web",
        "name": "timestamp.json",
        "digest": DIGESTS[1],
        "number": "3fa94c01d2e8",
        "path": f"{folder}/{about['hashes']['sha256']}.{name}",
    }
    plain = {
        "/v1/publish": api.PublishRequest(
            base=publication.base,
            metadata={name: base64.b64encode(data).decode() for name, data in publication.metadata.items()},
            targets={name: base64.b64encode(data).decode() for name, data in publication.targets.items()},
        ),
        "/v1/tokens": api.TokenRequest(kind=Who.OPERATOR, key=cloud.operator.public, nonce="", signature="0" * 128),
        "/v1/services/{service}/deployments": api.DeploymentRequest(
            counter=1, epoch=1, replicas=1, phase="run", nonce="ab" * 16
        ),
        "/v1/orders": api.Signed(envelope=base64.b64encode(cloud.order()).decode()),
        "/v1/objects/missing": api.Digests(digests=DIGESTS),
        "/v1/objects/batch": api.Digests(digests=DIGESTS),
        "/v1/objects/patches": api.Digests(digests=DIGESTS),
        "/v1/door/tokens": api.DoorTokenRequest(repository="web"),
        "/v1/node/poll": api.PollRequest(snapshot=0, seq=0, order=0, wait=0),
        "/v1/node/report": api.ReportRequest(),
    }
    for path, operations in document["paths"].items():
        for operation in operations.values():
            for parameter in operation.get("parameters", ()):
                if parameter["name"] in parameters:
                    parameter["example"] = parameters[parameter["name"]]
            if path in plain and "requestBody" in operation:
                content = operation["requestBody"]["content"]["application/json"]
                content["example"] = json.loads(codec.encode(plain[path]))
    document["paths"]["/v1/objects"]["post"]["requestBody"]["content"][PACK]["example"] = pack(*OBJECTS)
    deltas = document["paths"]["/v1/objects/deltas"]["post"]["requestBody"]["content"]
    deltas[DELTA]["example"] = delta_pack(*OBJECTS)


def respell(value):
    """Write 7.0 as 7: JSON Schema takes both for the same integer, here numbers have one spelling."""
    if isinstance(value, dict):
        return {name: respell(item) for name, item in value.items()}
    if isinstance(value, list):
        return [respell(item) for item in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def prepare(cloud, case) -> None:
    """Let nobody wait for long, and sign a fresh nonce where a token is asked for by the operator's own key."""
    case.body = respell(case.body)
    negative = case.meta is not None and case.meta.generation.mode.is_negative
    if case.path in ("/v1/objects", "/v1/objects/deltas") and negative and isinstance(case.body, bytes):
        case.body = case.body[:-4]  # a pack is all that schemathesis knows to make: it has no wrong ones
    for fields in (case.query, case.body):
        for name in ("wait", "follow"):
            if isinstance(fields, dict) and str(fields.get(name, "")).isdecimal() and int(fields[name]) <= 60_000:
                fields[name] = min(int(fields[name]), 1)
    if case.path == "/v1/tokens" and isinstance(case.body, dict) and case.body.get("key") == cloud.operator.public:
        nonce = cloud.nobody()._post("/v1/nonces", {}, api.Nonce).nonce
        signature = cloud.operator.sign_bytes(challenge(kind=Who.OPERATOR, nonce=nonce)).hex()
        case.body |= {"nonce": nonce, "signature": signature}


def make_schema(cloud, document: dict, who: Who, *, examples: int, seed: int | None):
    header = {} if who is Who.NOBODY else {"Authorization": f"Bearer {token(cloud, who)}"}
    config = SchemathesisConfig.from_dict(
        {
            "base-url": f"https://127.0.0.1:{cloud.port}/",
            "tls-verify": False,
            "request-timeout": 60,
            "continue-on-failure": True,
            "headers": header,
            "generation": {"max-examples": examples, "database": "none"},
            # Each is one more request for every operation; the answer does not depend on which it is.
            "phases": {"coverage": {"unexpected-methods": ["PUT", "TRACE"]}},
            **({} if seed is None else {"seed": seed}),
        }
    )
    return schemathesis.openapi.from_dict(document, config=config)


def token(cloud, who: Who) -> str:
    client = {Who.OPERATOR: cloud.as_operator, Who.NODE: cloud.as_node, Who.CI: cloud.as_ci}[who]()
    client._enter()
    return client._token


def run(schema) -> tuple[dict[str, set[int]], list[str]]:
    """Let schemathesis loose; returns the statuses that each operation answered with, and what was found."""
    statuses, found = defaultdict(set), []
    for event in from_schema(schema).execute():
        if isinstance(event, events.NonFatalError):
            found.append(f"{event.label}: {event.value!r}")
        elif isinstance(event, events.FatalError):
            raise event.exception
        elif isinstance(event, events.ScenarioFinished):
            for one, interaction in event.recorder.interactions.items():
                case = event.recorder.cases[one].value
                if interaction.response is not None and f"{case.method} {case.path}" in PROPER:
                    statuses[f"{case.method} {case.path}"].add(interaction.response.status_code)
            for checks in event.recorder.checks.values():
                for check in checks:
                    if check.status is not Status.SUCCESS:
                        info = check.failure_info
                        found.append(
                            f"{event.recorder.label}: {check.name}: {info and (info.failure, info.code_sample)}"
                        )
    return statuses, found


@pytest.fixture(scope="module")
def open_cloud(cloud):
    """The cloud with a TLS door for schemathesis, objects, and an agent that answers requests for logs."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        cloud.port = found.getsockname()[1]
    cloud.stop()
    cloud.start("--listen", f"127.0.0.1:{cloud.port}")
    cloud.as_operator().upload_objects(lambda: [pack(*OBJECTS)])
    teach(cloud)
    over = threading.Event()
    agent = threading.Thread(target=answer_logs, args=(cloud, over))
    agent.start()

    @schemathesis.hook
    def before_call(context, case, kwargs) -> None:
        prepare(cloud, case)

    yield cloud
    schemathesis.hooks.unregister(before_call)
    over.set()
    agent.join(60)


def answer_logs(cloud, over: threading.Event) -> None:
    node = cloud.as_node()
    while not over.is_set():
        try:
            snapshot = node.health().snapshot
            answer = node.poll(api.PollRequest(snapshot=snapshot, seq=2**50, order=2**50, wait=500))
            logs = tuple(api.LogReply(id=one.id, cursors={"web-1-0-1": "5@9"}) for one in answer.requests)
            node.report(api.ReportRequest(logs=logs))
        except NebhError:
            over.wait(0.1)


@pytest.fixture(scope="module")
def table():
    made: dict[Who, dict[str, set[int]]] = {}
    yield made
    if len(made) == len(Who):
        print(f"\n{'operation':46} {'nobody':22} {'node':22} {'operator':22} CI key")
        for name in PROPER:
            cells = (", ".join(str(one) for one in sorted(made[who][name])) for who in Who)
            print(f"{name:46} " + " ".join(f"{cell:22}" for cell in cells))


@pytest.mark.timeout(900)
@pytest.mark.parametrize("who", list(Who))
def test_nothing_is_found_and_each_operation_answers_only_whom_it_is_for(open_cloud, table, who, pytestconfig):
    long = pytestconfig.getoption("--long")
    document = json.loads(open_cloud.nobody()._call("GET", "/schema/openapi.json").read(limit=1 << 22))
    add_examples(document, open_cloud)
    # The operator reaches most; the others are turned away from most of it.
    examples = 100 if long else 3 if who is Who.OPERATOR else 1
    seed = secrets.randbits(32) if long else 1
    print(f"seed {seed}")
    before = open_cloud.nobody().health()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # urllib3: the certificate is not looked at; here it is not what is tested
        statuses, found = run(make_schema(open_cloud, document, who, examples=examples, seed=seed))
    table[who] = statuses
    assert not found, "\n\n".join(found[:20]) + f"\n{len(found)} found"
    assert set(statuses) == set(PROPER)
    good = {name for name, codes in statuses.items() if any(200 <= code < 300 for code in codes)}
    assert good == {name for name, proper in PROPER.items() if who in proper}
    # Exactly the publication of the example went through, and only as operator.
    assert open_cloud.nobody().health().snapshot == before.snapshot + (who is Who.OPERATOR)


@settings(max_examples=60, deadline=None, database=None, suppress_health_check=list(HealthCheck))
@given(data=st.binary(min_size=1, max_size=300))
def test_garbage_on_the_socket_is_answered_or_dropped(cloud, data):
    with UnixTransport(path=cloud.socket).connect() as channel:
        channel.send(data)
        channel.finish()
    assert cloud.nobody().health().cluster_id

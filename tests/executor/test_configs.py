"""Files of a release on a node: fetched with it, rendered for this node, kept as long as it is."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

import pytest

from nebh.model.config import ConfigBundle, ConfigFile
from nebh.model.config_layer import Bundle, Part
from nebh.model.errors import Refused
from nebh.model.statement import Outcome
from nebh.planning.config_bundle import encode_bundle

pytestmark = pytest.mark.slow

FILES = (ConfigFile(path="/etc/app.conf", template="app", mode=0o400),)
PARTS = (
    Part(layer="cluster", version=1, values={"who": "world"}),
    Part(layer="node/one", version=1, values={"who": "node one"}),
)


def configured(bench, text: str = "hello {{ who }}\n", *, fetchable: bool = True, **changes: Any) -> dict[str, Any]:
    cluster = bench.accepted.meta("cluster_id")
    bundle = Bundle(format=1, cluster_id=cluster, service="web", parts=PARTS, templates={"app": text})
    data, ref = encode_bundle(dataclasses.replace(bundle, **changes))
    if fetchable:
        bench.agent.bytes[ref.digest] = data
    return {"config": ref, "files": FILES}


def plan_of(bench, number: int = 0) -> Any:
    return bench.containers._containers[bench.serving()[number].id].plan


def test_a_container_gets_the_files_that_its_node_renders(bench):
    bench.deploy(1, **configured(bench))
    plan = plan_of(bench)
    (file,) = plan.files
    assert (file.data, file.mode) == (b"hello node one\n", 0o400)
    assert file.owner == plan.uid_base + 10001
    (mount,) = [one for one in json.loads(plan.config)["mounts"] if one["destination"] == "/etc/app.conf"]
    assert mount["source"].endswith("/files/0")
    assert "ro" in mount["options"]


def test_a_rollback_brings_the_values_back_with_the_binary(bench):
    bench.deploy(1, **configured(bench))
    bench.deploy(2, **configured(bench, "bye {{ who }}\n"))
    assert plan_of(bench).files[0].data == b"bye node one\n"
    bench.agent.bytes.clear()  # everything is here already
    bench.assign(1)
    bench.settle()
    assert plan_of(bench).files[0].data == b"hello node one\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{{ no }}", "`no` is not defined"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "more than 1 s"),
    ],
)
def test_what_cannot_be_rendered_is_dropped_and_said_and_the_old_one_runs_on(bench, text, said):
    bench.deploy(1)
    bench.add_release(2, **configured(bench, text))
    nonce = bench.assign(2)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.FAILED
    assert said in bench.receipts[-1].detail
    assert [one.counter for one in bench.serving()] == [1]


def test_other_bytes_than_were_signed_are_refused(bench):
    bench.deploy(1)
    fields = configured(bench)
    bench.agent.bytes[fields["config"].digest] = b"x" * fields["config"].bytes
    bench.add_release(2, **fields)
    nonce = bench.assign(2)
    bench.settle()
    assert bench.outcome(nonce) is Outcome.REFUSED
    assert [one.counter for one in bench.serving()] == [1]
    configs = bench.context.configs
    for size in (0, 5 << 20):
        wrong = dataclasses.replace(fields["config"], bytes=size, digest="a" * 64)
        with pytest.raises(Refused):
            configs.fetch(dataclasses.replace(bench.add_release(3), config=wrong, files=FILES))


def test_a_bundle_that_decayed_is_fetched_again_and_one_that_nobody_needs_goes(bench):
    bench.deploy(1, **configured(bench))
    folder = bench.context.layout.configs
    (path,) = folder.iterdir()
    path.write_bytes(b"rot")
    bench.context.configs._rendered.clear()
    release = bench.accepted.release("web", 1, 1)
    assert bench.context.configs.files(release) == {"/etc/app.conf": b"hello node one\n"}
    assert hashlib.sha256(path.read_bytes()).hexdigest() == path.stem
    (folder / f"{'b' * 64}.json").write_bytes(b"x")
    bench.deploy(2, **configured(bench, "2"))
    bench.executor.sweeper.prune() if hasattr(bench.executor, "sweeper") else None
    names = {one.stem for one in folder.iterdir()}
    assert release.config.digest in names
    assert "b" * 64 not in names


def test_no_files_no_bundle(bench):
    bench.deploy(1)
    assert not bench.context.layout.configs.exists()
    assert bench.context.configs.files(bench.accepted.release("web", 1, 1)) == {}
    assert isinstance(ConfigBundle(digest="a", bytes=1), ConfigBundle)

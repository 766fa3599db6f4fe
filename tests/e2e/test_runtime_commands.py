"""What operators do to running services, by the command line, mostly under light load."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.timeout(900)]


@pytest.fixture
def background(cloud):
    """Return a function that starts a command of `nebh` and returns one that waits for its (status, JSON)."""
    import json

    running = []

    def start(*words):
        argv = cloud.inside(sys.executable, "-P", "-m", "nebh.programs.nebh", *words, "--json")
        process = subprocess.Popen(
            argv, env={**os.environ, **cloud.env}, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        running.append(process)

        def wait():
            out, problem = process.communicate(timeout=400)
            assert out, problem.decode()
            return process.returncode, json.loads(out)

        return wait

    yield start
    for process in running:
        if process.poll() is None:
            process.kill()
        process.wait()


def outcomes(document):
    return [one["outcome"] for one in document["receipts"]]


def version_of(cloud, host):
    import json

    status, body = cloud.get("/", host=host)
    assert status == 200, body
    return json.loads(body)["version"]


def counter_of(cloud, service):
    return {one["counter"] for one in cloud.serving(service)}


def in_state(cloud, service, state):
    return any(one["service"] == service and one["state"] == state for one in cloud.node_status()["transactions"])


def test_scaling_and_a_moving_port_lose_no_request(cloud, services, load):
    more = "replicas: {count: 1, min: 1, max: 3}\n"
    services.deploy("web", more=more)
    stop = load("web.example")
    assert outcomes(cloud.nebh_json("scale", "web", "3")) == ["committed"]
    assert len(cloud.serving("web")) == 3
    assert outcomes(cloud.nebh_json("scale", "web", "1")) == ["committed"]
    assert len(cloud.serving("web")) == 1
    services.deploy("web", version="v2", port=9090, more=more)
    assert version_of(cloud, "web.example") == "v2"
    assert outcomes(cloud.nebh_json("rollback", "web")) == ["committed"]
    assert version_of(cloud, "web.example") == "v1"
    told = stop()
    assert told["failed"] == 0, told
    assert set(told["versions"]) == {"v1", "v2"}


def test_too_many_replicas_are_refused_before_anything_happens(cloud):
    refused = cloud.nebh("scale", "web", "9", accept=tuple(range(1, 20)))
    assert b"replicas.max" in refused.stderr


def test_restart_replaces_instances_without_a_failure(cloud, load):
    (before,) = cloud.serving("web")
    stop = load("web.example")
    assert outcomes(cloud.nebh_json("restart", "web")) == ["committed"]
    (after,) = cloud.serving("web")
    told = stop()
    assert told["failed"] == 0, told
    assert (after["counter"], after["id"] != before["id"]) == (before["counter"], True)


def test_stop_and_start(cloud, eventually):
    counter = counter_of(cloud, "web")
    assert outcomes(cloud.nebh_json("stop", "web")) == ["stopped"]
    assert cloud.get("/", host="web.example")[0] in (404, 503)
    eventually(lambda: not [one for one in cloud.node_status()["instances"] if one["service"] == "web"])
    cloud.kill("executor")  # and it stays stopped
    cloud.wait_until_ready()
    assert cloud.serving("web") == []
    again = cloud.nebh("stop", "web")
    assert (again.status, again.stdout.strip()) == (0, b"web is stopped by its policy; it runs nowhere")
    assert outcomes(cloud.nebh_json("start", "web")) == ["committed"]
    assert cloud.get("/", host="web.example")[0] == 200
    assert counter_of(cloud, "web") == counter


def test_prepare_changes_nothing_visible_until_resumed(cloud, services):
    services.deploy("calm")
    spec = services.web("calm", version="v2")
    assert outcomes(cloud.nebh_json("deploy", str(spec), "--prepare")) == ["prepared"]
    assert version_of(cloud, "calm.example") == "v1"
    assert outcomes(cloud.nebh_json("resume", "calm")) == ["committed"]
    assert version_of(cloud, "calm.example") == "v2"


def test_what_was_prepared_can_be_dropped(cloud, services, eventually):
    spec = services.web("calm", version="v3")
    assert outcomes(cloud.nebh_json("deploy", str(spec), "--prepare")) == ["prepared"]
    assert cloud.nebh("abort", "calm").status == 0
    assert version_of(cloud, "calm.example") == "v2"
    eventually(lambda: len([one for one in cloud.node_status()["instances"] if one["service"] == "calm"]) == 1)


def test_abort_during_the_bake_goes_back(cloud, services, background, load, eventually):
    spec = services.web("calm", version="v4")
    spec.write_text(spec.read_text().replace("bake: 1s", "bake: 300s"))
    stop = load("calm.example")
    wait = background("deploy", str(spec))
    eventually(lambda: in_state(cloud, "calm", "CHECKING"), patience=200)
    assert version_of(cloud, "calm.example") == "v4"
    assert cloud.nebh("abort", "calm").status == 0
    status, document = wait()
    assert (status != 0, outcomes(document)) == (True, ["rolled-back"])
    assert version_of(cloud, "calm.example") == "v2"
    told = stop()
    assert told["failed"] == 0, told


@pytest.mark.parametrize(
    ("word", "outcome", "version"), [("abort", "rolled-back", "v1"), ("resume", "committed", "v2")]
)
def test_a_held_release_waits_for_a_word(cloud, services, background, eventually, word, outcome, version):
    services.deploy("held")
    check = ", on_failure: hold, checks: [{name: never, http: {path: /, contains: nowhere}, interval: 1s, failures: 1}]"
    wait = background("deploy", str(services.web("held", version="v2", update=check)))
    eventually(
        lambda: any(
            one["kind"] == "transaction.held" for one in cloud.nebh_json("events", "--service", "held")["events"][-4:]
        ),
        patience=200,
    )
    assert version_of(cloud, "held.example") == "v2"
    assert cloud.nebh(word, "held").status == 0
    assert outcomes(wait()[1]) == [outcome]
    assert version_of(cloud, "held.example") == version


def test_a_pin_is_confirmed_by_a_receipt_and_touches_nothing(cloud, services):
    services.deploy("kept")
    before = [(one["id"], one["pid"], one["started"]) for one in cloud.serving("kept")]
    for word, pinned in (("pin", True), ("unpin", False)):
        done = cloud.nebh_json(word, "kept", "1", *(["--yes-widen"] if pinned else []))
        assert (done["ok"], done["release"], done["pinned"]) == (True, 1, pinned)
        assert outcomes(done) == ["committed"]
        assert [(one["id"], one["pid"], one["started"]) for one in cloud.serving("kept")] == before


@pytest.mark.long
def test_old_releases_go_and_pinned_ones_stay(cloud, services, eventually):
    def trees_here():
        trees = [one for one in cloud.layout.trees.iterdir() if (one / "usr/bin/old").exists()]
        return {(one / "usr/lib/example/version").read_text(): one for one in trees}

    held = {}
    for number in range(1, 6):
        services.deploy("old", version=f"v{number}", more="retention: 2\n")
        held[number] = trees_here()[f"v{number}"]
        if number == 2:
            cloud.nebh("pin", "old", "2", "--yes-widen")
    eventually(lambda: not held[1].exists() and not held[3].exists(), what="trees of releases that nobody keeps")
    assert all(held[number].is_dir() for number in (2, 4, 5))
    assert outcomes(cloud.nebh_json("rollback", "old", "--to", "2")) == ["committed"]
    assert version_of(cloud, "old.example") == "v2"
    assert outcomes(cloud.nebh_json("rollback", "old", "--to", "5")) == ["committed"]
    cloud.nebh("unpin", "old", "2")
    services.deploy("old", version="v6", more="retention: 2\n")
    services.deploy("old", version="v7", more="retention: 2\n")
    eventually(lambda: not held[2].exists(), what="the tree of what is no longer pinned")


def test_a_removed_service_leaves_nothing_but_its_history(cloud, services, dial, ask, eventually):
    image = services.image("gone")
    spec = services.folder / "gone.yaml"
    spec.write_text(
        f"name: gone\nimage: {{dir: {image}}}\nargv: [/usr/bin/gone, --port, '7000']\nports: {{x: 7000}}\n"
        "routes: [{tcp: 17000, port: x}]\nlimits: {memory: 64M}\nupdate: {bake: 1s, drain: 1s}\n"
    )
    cloud.nebh("deploy", str(spec))
    (one,) = cloud.serving("gone")
    with dial(17000):
        pass
    cloud.nebh("rm", "gone", "--yes")
    status = cloud.node_status()
    assert "gone" not in {row["service"] for row in (*status["running"], *status["instances"])}
    with pytest.raises(OSError, match="refused"):
        dial(17000)
    assert not (cloud.layout.bundles / one["id"]).exists()
    assert not (cloud.layout.logs / one["id"]).exists()
    cloud.nebh("deploy", str(spec))  # and it may come back: numbers begin again in an epoch of their own
    (again,) = cloud.serving("gone")
    assert again["epoch"] > one["epoch"]
    with dial(17000):
        pass

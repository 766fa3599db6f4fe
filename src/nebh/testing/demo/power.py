"""Act 6: the power goes three times, each time in another state of a transaction."""

from __future__ import annotations

import json
import time
from pathlib import Path

from nebh.testing.demo.stage import PATIENCE, Plain, Stage

# journal state, the fault point at which the executor stands still, the version that is being deployed
CUTS = (
    ("PREPARED", "state.prepared.after", "v1"),
    ("STARTING", "start.start.after", "v2"),
    ("CHECKING", "state.checking.after", "v4"),
)

BEGUN_ANEW = 10.0


def power_cut(stage: Stage) -> None:
    """Everything is killed in the middle of a deploy; it comes back by itself, whole; then 0 failed."""
    stage.act.facts["cuts"] = [_cut(stage, state, point, version) for state, point, version in CUTS]
    with stage.load():
        stage.wait_for_load()
    outages = [one["outage_seconds"] for one in stage.act.facts["cuts"]]
    stage.act.facts["outage_seconds"] = outages
    stage.story.say(f"  outages, measured apart from the load: {', '.join(f'{one:.1f} s' for one in outages)}")


def _cut(stage: Stage, state: str, point: str, version: str) -> Plain:
    story, cloud = stage.story, stage.cloud
    old = stage.ask()
    with stage.load():
        story.say("every program of Nebh is restarted, armed for the next cut; containers and proxy run on")
        cloud.stop()
        cloud.up(env={"NEBH_FAULT_PAUSE": point})
        asked = stage.deploy(version, "--detach")
        stage.wait_until(f"the executor stands at {point}", lambda: _is_stopped(cloud.pid_of("executor")))
        time.sleep(1)
    story.say(f"power cut: kill -9 of everything while {version} is {state}; sockets, links and rules are gone too")
    begin = time.monotonic()
    cloud.power_cut()
    cloud.up(wait=False)
    stage.wait_until("an answer comes again", lambda: bool(stage.ask()), patience=PATIENCE)
    outage = time.monotonic() - begin
    before = len(stage.act.rows)
    with stage.load():
        stage.wait_until("the recovery has ended", lambda: _is_settled(stage, asked["nonce"]), patience=PATIENCE)
        settled = time.time()
        time.sleep(6)
    found = _recovered(stage, asked)
    rows = stage.act.rows[before:]
    late = sorted({row.version for row in rows if row.sent > settled})
    running = _running(stage)
    story.say(f"  back after {outage:.1f} s; found in {found['state']}: {found['decision']}; {running['version']} runs")
    stage.expect(found["state"] == state, f"the journal had it {found['state']}")
    stage.expect(
        late == [running["version"]] and running["version"] in (old, version) and running["serving"] == 1,
        f"{'/'.join(late)} answers, release {running['counter']} runs and is {running['version']}: nothing is mixed",
    )
    return {
        "state": found["state"],
        "decision": found["decision"],
        "fault_point": point,
        "outage_seconds": round(outage, 3),
        "from": old,
        "to": version,
        "answers_while_recovering": in_turns([row.version for row in rows if row.sent <= settled]),
        "answers_afterwards": late,
        "running": running,
        "failed_afterwards": sum(1 for row in rows if row.error),
    }


def _is_stopped(pid: int) -> bool:
    try:
        return bool(pid) and (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] == "T"
    except OSError:
        return False


def _is_settled(stage: Stage, nonce: str) -> bool:
    """The node has no transaction open, and the controller has heard how the command ended. One that went back because
    of the cut is begun anew by the node a moment later: only when nothing comes was it the end."""
    status = stage.cloud.nebh_executor("status", "--json", accept=tuple(range(256)))
    if status.status or json.loads(status.stdout)["transactions"]:
        return False
    if stage.cloud.nebh("status", "web", "--json", accept=tuple(range(256))).status:
        return False
    ends = {f"transaction.{name}" for name in ("committed", "rolled-back", "dropped", "refused")}
    ended = [one for one in stage.events(nonce=nonce) if one["kind"] in ends]
    if not ended:
        return False
    last = max(ended, key=lambda one: int(one["number"]))
    return bool(last["kind"] == "transaction.committed" or time.time() - last["at"] / 1000 > BEGUN_ANEW)


def _recovered(stage: Stage, asked: Plain) -> dict[str, str]:
    """Return what the executor found in its journal after the newest start."""
    found = [one for one in stage.events() if one["kind"] == "transaction.recovered"]
    if found:
        facts: dict[str, str] = max(found, key=lambda one: int(one["number"]))["facts"]
        return facts
    return {"state": "(no transaction)", "decision": f"nothing was open of release {asked['release']}"}


def _running(stage: Stage) -> Plain:
    """Return what the node says runs: release, the version we built it from, how many instances serve."""
    status = stage.cloud.node_status()
    counter = next(int(one["counter"]) for one in status["running"] if one["service"] == "web")
    serving = [one for one in status["instances"] if one["service"] == "web" and one["role"] == "serving"]
    return {"counter": counter, "version": stage.version_of.get(counter, "?"), "serving": len(serving)}


def in_turns(versions: list[str]) -> list[list[object]]:
    """Return versions in order of their answers, repeated ones counted."""
    found: list[list[object]] = []
    for version in versions:
        if found and found[-1][0] == version:
            found[-1][1] = int(str(found[-1][1])) + 1
        else:
            found.append([version, 1])
    return found

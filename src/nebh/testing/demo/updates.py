"""Acts 1 to 4: the first deploy, an update, an update that takes itself back, and a rollback by hand."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

from nebh.images.cache import ImageCache
from nebh.images.importing import import_image
from nebh.model.quantities import render_size
from nebh.planning.lint import lint_manifest
from nebh.spec.parse import parse_spec
from nebh.testing.demo.stage import Plain, Stage, answers_of, phases_of, receipt_of
from nebh.testing.load import Row


def deploy(stage: Stage) -> None:
    """Redis and the web application from nothing; the load runs as soon as the route answers."""
    story, act = stage.story, stage.act
    story.say("deploy db: Redis from Debian's package, and nothing else in its image")
    found = stage.deploy("db")
    act.facts["db"] = {"receipt": receipt_of(found), "phases_ms": phases_of(found)}
    story.say("deploy web v1: Python, waitress and redis-py; it reaches Redis by connects: [db:6379]")
    begin = time.monotonic()
    with ThreadPoolExecutor(1) as pool:
        deploying = pool.submit(stage.deploy, "v1")
        stage.wait_until("the route answers", lambda: bool(stage.ask()) or deploying.done())
        first = time.monotonic() - begin
        story.say(f"the route answers after {first:.1f} s; the load begins while the release is still on trial")
        with stage.load():
            found = deploying.result()
            committed = time.monotonic() - begin
            story.say(f"committed after {committed:.1f} s; now `nebh restart web`")
            again = stage.command("restart", "web")
            stage.wait_for_load()
    act.facts["web"] = {"receipt": receipt_of(found), "phases_ms": phases_of(found)}
    act.facts["restart"] = {"receipt": receipt_of(again), "phases_ms": phases_of(again)}
    act.facts |= {"first_answer_seconds": round(first, 3), "committed_seconds": round(committed, 3)}
    act.facts["images"] = {name: _image_facts(stage, name) for name in ("db", "v1")}
    findings = sum(one["lint_findings"] for one in act.facts["images"].values())
    sizes = ", ".join(f"{name} {render_size(one['bytes'])}" for name, one in act.facts["images"].items())
    stage.expect(findings == 0, f"{findings} lint findings (shells, package managers, setuid ...) in images of {sizes}")
    outcomes = {name: act.facts[name]["receipt"]["outcome"] for name in ("db", "web", "restart")}
    stage.expect(set(outcomes.values()) == {"committed"}, f"receipts signed by the node: {outcomes}")


def _image_facts(stage: Stage, version: str) -> Plain:
    path = stage.specs[version]
    spec = parse_spec(path.read_text(encoding="utf-8"), file=str(path), base=str(path.parent))
    report = import_image(spec.image, cache=ImageCache(stage.cloud.folder / "cache"))
    return {
        "manifest": report.digest,
        "bytes": report.ref.bytes,
        "entries": len(report.manifest.entries),
        "lint_findings": len(lint_manifest(report.manifest)),
    }


def update(stage: Stage) -> None:
    """v1 -> v2 while the load runs."""
    stage.story.say("deploy web v2 while the load runs")
    with stage.load():
        time.sleep(2)
        found = stage.deploy("v2")
        stage.wait_for_load(seconds=2)
    stage.act.facts |= {"receipt": receipt_of(found), "phases_ms": phases_of(found)}
    stage.expect(receipt_of(found)["outcome"] == "committed", f"release {found['release']} committed")
    _prove_cutover(stage, found, kind="checking", old="v1", new="v2")


def _prove_cutover(stage: Stage, command: Plain, *, kind: str, old: str, new: str) -> None:
    """The node says that it has cut over after it has: whatever is sent later must be answered by the new side."""
    at = stage.event(kind, nonce=command["nonce"])["at"] / 1000
    rows = stage.act.rows
    late = [row for row in answers_of(rows, old) if row.sent > at]
    news = answers_of(rows, new)
    stage.act.facts["cutover"] = {
        "how": f"`at` of the node's event transaction.{kind}, made after the proxy was switched; one clock for both",
        "at": at,
        f"{old}_answers_to_requests_sent_later": len(late),
        f"first_{new}_answer": min((row.received for row in news), default=0.0),
        f"last_{old}_request": max((row.sent for row in answers_of(rows, old)), default=0.0),
        "longest_wait_ms_around": _longest_wait(rows, at),
    }
    stage.expect(not late and bool(news), f"{len(late)} answers of {old} to requests sent after the cut-over to {new}")
    stage.story.say(
        f"  slowest answer within 2 s of the cut-over: {stage.act.facts['cutover']['longest_wait_ms_around']} ms"
    )


def _longest_wait(rows: list[Row], at: float) -> float:
    return round(max((row.latency_ms for row in rows if abs(row.sent - at) < 2), default=0.0), 1)


def auto_rollback(stage: Stage) -> None:
    """v3 is ready and answers, then fails the health check that its spec declares."""
    stage.story.say("deploy web v3: it becomes ready and answers, and a few seconds later its health check fails")
    with stage.load():
        time.sleep(2)
        found = stage.deploy("v3", accept=tuple(range(1, 256)))
        stage.wait_for_load(seconds=2)
    act, receipt = stage.act, receipt_of(found)
    good = len(answers_of(act.rows, "v3"))
    reason = stage.event("rolling-back", nonce=found["nonce"])["message"]
    act.facts |= {"receipt": receipt, "phases_ms": phases_of(found), "v3_answers": good, "reason": reason}
    stage.expect(good >= 100, f"v3 was ready and answered {good} requests correctly")
    stage.expect(
        receipt["outcome"] == "rolled-back" and "check health" in reason, f"rolled back by itself: {receipt['detail']}"
    )
    _prove_cutover(stage, found, kind="rolled-back", old="v3", new="v2")


def rollback(stage: Stage) -> None:
    """v2 -> v1 by `nebh rollback web`."""
    stage.story.say("nebh rollback web: back to v1, whose files are still on the node")
    with stage.load():
        time.sleep(2)
        sent = time.time()
        found = stage.command("rollback", "web")
        took = time.time() - sent
        stage.wait_for_load(seconds=2)
    first = min((row.received for row in answers_of(stage.act.rows, "v1")), default=0.0)
    stage.act.facts |= {
        "receipt": receipt_of(found),
        "phases_ms": phases_of(found),
        "seconds_to_first_v1_answer": round(first - sent, 3),
        "seconds_to_commit": round(took, 3),
    }
    stage.expect(
        receipt_of(found)["outcome"] == "committed" and stage.version_of.get(int(found["release"])) == "v1",
        f"v1 answers {first - sent:.1f} s after the command was given, committed after {took:.1f} s",
    )
    _prove_cutover(stage, found, kind="checking", old="v2", new="v1")

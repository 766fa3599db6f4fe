"""Where the acts play: a cloud of its own, the load beside it, and the commands that a person would give."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nebh.host.namespaces import CLONE_NEWNET, setns
from nebh.model.errors import Failed
from nebh.testing.cloud import Cloud
from nebh.testing.demo.record import LEAST_REQUESTS, Act, judge_load
from nebh.testing.demo.story import Story
from nebh.testing.load import Load, Mix, Row, Target

HOST = "demo.example"
MIX = Mix(rate=150.0, keepalive=12, fresh=3, post_share=0.4)
SPARE = 60
PATIENCE = 120.0
Plain = dict[str, Any]


class Stage:
    """One cloud and one act at a time. specs: spec files by release (`db`, `v1`, ...)."""

    name = "demo"

    def __init__(self, cloud: Cloud, *, story: Story, specs: dict[str, Path], build: Path) -> None:
        self.cloud, self.story, self.specs, self.build = cloud, story, specs, build
        self.act = Act(name="")
        self.version_of: dict[int, str] = {}

    # the load

    @contextlib.contextmanager
    def load(self) -> Iterator[None]:
        """Have the load run; its requests and its time count for the act."""
        act = self.act
        load = Load(
            Target(address="127.0.0.1", port=self.cloud.http_port, host=HOST),
            MIX,
            sink=act.rows.append,
            enter=functools.partial(_be_elsewhere, self.cloud.name),
        )
        ended = threading.Event()
        ticker = threading.Thread(target=self._tick, args=(act, ended), daemon=True)
        begin = time.monotonic()
        load.start()
        ticker.start()
        try:
            yield
        finally:
            load.stop()
            act.seconds += time.monotonic() - begin
            ended.set()
            ticker.join()
            self.story.clear()

    def _tick(self, act: Act, ended: threading.Event) -> None:
        seen = len(act.rows)
        while not ended.wait(1.0):
            new = act.rows[seen:]
            seen += len(new)
            versions = " ".join(sorted({row.version or "none" for row in new}))
            self.story.progress(
                f"{len(act.rows)} requests, {act.failed} failed, {len(new)} in the last second, answered by {versions}"
            )

    def wait_for_load(self, *, seconds: float = 0.0) -> None:
        """Let the load go on for `seconds`, and until the act has enough requests."""
        end = time.monotonic() + seconds
        patience = time.monotonic() + PATIENCE + seconds
        while time.monotonic() < end or len(self.act.rows) < LEAST_REQUESTS + SPARE:
            if time.monotonic() > patience:
                return  # the act's own judgement says what is missing
            time.sleep(0.1)

    # commands

    def command(self, *words: str, accept: tuple[int, ...] = (0,)) -> Plain:
        """Give a command of `nebh` with --json; return what it printed."""
        done = self.cloud.nebh(*words, "--json", accept=tuple(range(256)), timeout=300.0)
        shown = " ".join(Path(word).name if word.startswith("/") else word for word in words)
        if done.status not in accept:
            what = (done.stderr.decode(errors="replace").strip() or done.text.strip())[-1500:]
            raise Failed(f"cannot go on: `nebh {shown}` ended with status {done.status}: {what}")
        found: Plain = json.loads(done.stdout) if done.stdout.strip() else {}
        return found

    def deploy(self, version: str, *more: str, accept: tuple[int, ...] = (0,)) -> Plain:
        """Deploy a release and wait for the node's receipt; remember which release has which version."""
        found = self.command("deploy", str(self.specs[version]), *more, accept=accept)
        if found and found["service"] == "web":
            self.version_of[int(found["release"])] = version
        return found

    def events(self, *, service: str = "web", nonce: str = "") -> list[Plain]:
        """Return the newest events of a service, of one command when `nonce` is given."""
        found: list[Plain] = self.command("events", "--service", service)["events"]
        return [one for one in found if not nonce or one["facts"].get("nonce") == nonce]

    def event(self, kind: str, *, nonce: str) -> Plain:
        """Return the event `transaction.<kind>` of a command. Raises Failed when there is none."""
        for one in self.events(nonce=nonce):
            if one["kind"] == f"transaction.{kind}":
                return one
        raise Failed(f"cannot find the event transaction.{kind} of the command {nonce}")

    def wait_until(self, what: str, holds: Callable[[], bool], *, patience: float = PATIENCE) -> float:
        """Wait until `holds()`; return how many seconds it took. Raises Failed."""
        begin = time.monotonic()
        while not holds():
            if time.monotonic() - begin > patience:
                raise Failed(f"waited {patience:.0f} s in vain until {what}")
            time.sleep(0.05)
        return time.monotonic() - begin

    def ask(self) -> str:
        """Return the version that answers one request, "" when none does."""
        status, body = self.cloud.get("/", host=HOST)
        with contextlib.suppress(ValueError, KeyError, TypeError):
            return str(json.loads(body)["version"]) if status == 200 else ""
        return ""

    # what was measured

    def expect(self, ok: bool, text: str) -> bool:
        """Note whether something is as it should be."""
        self.story.proof(ok, text)
        if not ok:
            self.act.problems.append(text)
        return ok

    def judge(self) -> None:
        """End the act: what every act must show about its load."""
        for ok, text in judge_load(self.act):
            self.expect(ok, text)
        self.act.ended = True

    def keep_logs(self) -> Path:
        """Copy the cloud's logs to build/<name>/logs."""
        into = self.build / self.name / "logs"
        shutil.rmtree(into, ignore_errors=True)
        into.mkdir(parents=True, exist_ok=True)
        state = self.cloud.layout.state
        for path in (self.cloud.folder / "up.log", *state.glob("*.log"), *state.glob("logs/*/ctr.log*")):
            with contextlib.suppress(OSError):
                name = path.name if path.parent in (state, self.cloud.folder) else f"{path.parent.name}.{path.name}"
                shutil.copyfile(path, into / name)
        return into


def phases_of(document: Plain) -> dict[str, int]:
    """Return the ms of each phase, from the receipt that a command printed."""
    receipts = document.get("receipts") or [{}]
    phases: dict[str, int] = receipts[-1].get("phases") or {}
    return phases


def receipt_of(document: Plain) -> Plain:
    """Return number, outcome, rule and words of the receipt that a command printed."""
    receipts = document.get("receipts") or [{}]
    return {name: receipts[-1].get(name, "") for name in ("node", "receipt", "outcome", "rule", "detail")}


def answers_of(rows: list[Row], version: str) -> list[Row]:
    """Return the good answers of a version."""
    return [row for row in rows if row.version == version and not row.error]


def _be_elsewhere(name: str) -> None:
    """Have the calling thread alone use another network namespace, and not wait for processors behind what it
    measures: users' clients have machines of their own."""
    descriptor = os.open(f"/run/netns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(descriptor, CLONE_NEWNET)
    finally:
        os.close(descriptor)
    with contextlib.suppress(OSError):  # a container may not be allowed to
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -5)

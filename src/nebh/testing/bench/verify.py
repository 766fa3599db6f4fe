"""What of a container's start goes into verifying: the command's signature, the signed metadata, the image."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from nebh.host.run import Command, run
from nebh.images.manifest import accept_manifest
from nebh.model.service import Update
from nebh.model.statement import Phase
from nebh.signing.trust_store import TrustStore
from nebh.signing.trusted_set import read_trusted_set, release_path
from nebh.testing.bench import machine
from nebh.testing.bench.record import Record
from nebh.testing.bench.stage import Rounds, Settings, StampNode, a_node, in_turns
from nebh.testing.node import GOOD

NAME = "verify"
TITLE = "Verification before a start"
KEEP = Update(bake=50, checks=(GOOD,), drain=500)
PARTS = {
    "command": ("door.submit", "intake.checked"),
    "metadata": ("accept.begin", "accept.done"),
    "manifest": ("manifest.begin", "manifest.done"),
    "image": ("image.begin", "image.checked"),
}
"""The marks around each part that verifies."""
_LOAD = "import nebh.programs.verifier, nebh.signing.trust_store, nebh.signing.trusted_set"


@dataclass(kw_only=True)
class Counted:
    """Signatures that were checked, and bytes that went through a hash or under a signature."""

    signatures: int = 0
    bytes: int = 0

    def see(self, frame: FrameType, event: str, _arg: object) -> None:
        """Look at every call of Python's, for sys.setprofile."""
        if event != "call":
            return
        match frame.f_code.co_name:
            case "verify_signature":
                self.signatures += 1
                self.bytes += len(frame.f_locals["data"])
            case "_verify_hashes" | "digest_manifest":
                self.bytes += len(frame.f_locals["data"])


def measure(settings: Settings, record: Record) -> None:
    """Fill the record: a new release of an image that the node has, and the same release once more."""
    with a_node() as node:
        for version in ("v1", "v2"):
            node.add_image(version)
            node.assign(node.publish_version(version, update=KEEP))
            node.until(lambda: node.instances("serving") and node.quiet(), "it serves")
        for number in Rounds(settings, usual=44, quick=3):
            took: dict[str, float] = {}
            new = partial(_new_release, node, settings.folder, took, f"v{number % 2 + 1}")
            in_turns(number, new, partial(_restart, node, took))
            _peers(took)
            record.add("rounds", round=number, pressure=machine.pressure(), **took)
        _companions(node, settings.folder, record)
    _figures(record)


def _new_release(node: StampNode, folder: Path, took: dict[str, float], version: str) -> None:
    counter = node.publish_version(version, update=KEEP)
    known = _copy(node, folder)  # what the node verified before
    begin = time.perf_counter()
    _verify(node, known, counter)
    took["alone"] = (time.perf_counter() - begin) * 1000
    _start(node, took, "new", lambda: node.assign(counter))


def _restart(node: StampNode, took: dict[str, float]) -> None:
    counter = node.instances("serving")[0]["counter"]
    _start(node, took, "again", lambda: node.assign(counter, phase=Phase.RESTART))


def _start(node: StampNode, took: dict[str, float], kind: str, command: Callable[[], object]) -> None:
    """Give the command; keep the ms of each part and of the whole, from the command to the container's start."""
    before = len(node.passed())
    command()
    node.settle()
    at: dict[str, int] = {}
    passed = node.passed()[before:]
    for name, when in passed:
        at.setdefault(name, when)
    assert "start.done" in at, f"nothing was started: {node.tail()}"
    parts = {name: (at[end] - at[begin]) / 1e6 for name, (begin, end) in PARTS.items()}
    took |= {f"{kind}_{name}": value for name, value in parts.items()}
    took[f"{kind}_verify"] = sum(parts.values())
    took[f"{kind}_verifier"] = (at["verifier.done"] - at["verifier.begin"]) / 1e6
    took[f"{kind}_verifiers"] = _verifiers(passed)
    took[f"{kind}_start"] = (at["start.done"] - at["door.submit"]) / 1e6


def _peers(took: dict[str, float]) -> None:
    """A Python that does nothing, and one that loads what the verifier loads."""
    path = {"PYTHONPATH": str(Path(__file__).parents[3])}
    for name, text in (("python", "pass"), ("loading", _LOAD)):
        begin = time.perf_counter()
        run(Command(argv=(sys.executable, "-s", "-c", text), env=path))
        took[name] = (time.perf_counter() - begin) * 1000


def _copy(node: StampNode, folder: Path) -> Path:
    """Return a copy of what the node's verifier has stored."""
    copy = folder / "trust"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(node.layout.trust("controller"), copy)
    return copy


def _verify(node: StampNode, known: Path, counter: int) -> None:
    """Do in this process what the verifier does in its own."""

    def fetch(name: str, limit: int) -> bytes | None:
        path = node.served / name
        return path.read_bytes()[: limit + 1] if path.exists() else None

    store = TrustStore(known, fetch, node.layout.pinned_root.read_bytes(), node.cluster_id)
    store.refresh()
    read_trusted_set(store, source="controller", wanted=(release_path("web", counter),))


def _companions(node: StampNode, folder: Path, record: Record) -> None:
    """Count what the verifier checks of a new release and, after that, of the same once more; and the image's bytes."""
    counter = node.publish_version("v1", update=KEEP)
    known = _copy(node, folder)
    row: dict[str, Any] = {}
    for kind in ("new", "again"):
        counted = Counted()
        _counting(counted, partial(_verify, node, known, counter))
        row |= {f"{kind}_signatures": counted.signatures, f"{kind}_bytes": counted.bytes}
    ref, counted = node.images["v1"], Counted()
    data = (node.served / "objects" / ref.manifest).read_bytes()
    _counting(counted, lambda: accept_manifest(data, ref=ref))
    record.add("exact", **row, manifest_bytes=counted.bytes, revived_verifiers=_revive(node))


def _revive(node: StampNode) -> int:
    """Kill the container's process; return how many verifiers ran until the node had started another."""
    (serving,) = node.instances("serving")
    before = len(node.passed())
    os.kill(serving["pid"], signal.SIGKILL)
    old = (0, None, serving["pid"])
    node.until(lambda: all(one["pid"] not in old for one in node.instances("serving")), "it runs again")
    node.until(lambda: node.page() != "status 503", "it answers again")
    return _verifiers(node.passed()[before:])


def _verifiers(passed: list[tuple[str, int]]) -> int:
    return sum(1 for name, _ in passed if name == "verifier.begin")


def _counting(counted: Counted, work: Callable[[], object]) -> None:
    sys.setprofile(counted.see)
    try:
        work()
    finally:
        sys.setprofile(None)


def _figures(record: Record) -> None:
    def figure(name: str, what: str, *columns: str, **more: Any) -> None:
        record.figure(name, what, table="rounds", columns=columns, **more)

    for kind, what in {"new": "a new release of an image that is here", "again": "the same release again"}.items():
        verify, start = f"{kind}_verify", f"{kind}_start"
        figure(verify, f"verifying before a start: {what}", verify)
        figure(f"{verify}_p10", f"the same, 10th percentile ({kind})", verify, statistic="p10")
        figure(start, f"the whole start: executor has the command -> the container runs ({kind})", start)
        figure(f"{kind}_share", f"verifying / the whole start ({kind})", verify, start, unit="x", statistic="ratio")
        figure(
            f"{kind}_verifier",
            f"of that the verifier's process, metadata fetched from the agent ({kind})",
            f"{kind}_verifier",
        )
    for part, what in {
        "command": "the command's signature",
        "manifest": "the image's manifest",
        "image": "the image's rules",
    }.items():
        figure(f"new_{part}", f"of that {what} (new)", f"new_{part}")
    figure("alone", "what the verifier verifies (new), in a process that runs already", "alone")
    figure("loading", "a Python that loads what the verifier loads", "loading")
    figure("python", "a Python that does nothing", "python")
    exact = {
        "new_signatures": "signatures that the verifier checks for a new release",
        "again_signatures": "signatures that it checks for the same release again",
        "new_bytes": "bytes under those signatures and hashes, for a new release",
        "again_bytes": "the same for the same release again",
        "manifest_bytes": "bytes of the image's manifest that are hashed",
    }
    for name, what in exact.items():
        record.figure(name, what, unit="", table="exact", columns=(name,))
    figure("new_verifiers", "verifier processes for one start", "new_verifiers", unit="", statistic="max")
    revived = "verifier processes for a container that ended and is started again by its node, from the journal"
    record.figure("revived_verifiers", revived, unit="", table="exact", columns=("revived_verifiers",))
    record.notes.append("An image's files are hashed as they arrive, not again before a start.")

"""Is a node whole? Journal, containers, proxy, rules, names and machine are compared, and what its receipts say."""

from __future__ import annotations

import base64
import os
from pathlib import Path

from nebh.model.network import addresses
from nebh.model.statement import Outcome, Receipt
from nebh.signing.statements import peek_statement
from nebh.testing.node import SUBNETS, Node


def outcomes(node: Node, nonce: str) -> list[Outcome]:
    """Return what the node's receipts say of a command, oldest first."""
    found = []
    after = 0
    while batch := node.ask({"op": "poll", "receipt": after, "event": 0, "wait_ms": 0})["receipts"]:
        for number, body in batch:
            after = number
            receipt = peek_statement(base64.b64decode(body), "receipt", Receipt)
            if receipt.nonce == nonce:
                found.append(receipt.outcome)
    return found


def decisions(node: Node) -> list[tuple[str, str]]:
    """Return (state found, decision) of what the newest executor found open."""
    found: list[tuple[str, str]] = []
    after = 0
    while batch := node.ask({"op": "poll", "receipt": 0, "event": after, "wait_ms": 0})["events"]:
        for event in batch:
            after = event["number"]
            if event["kind"] == "transaction.recovered":
                found.append((event["facts"]["state"], event["facts"]["decision"]))
            if event["kind"] == "executor.started" and after < last_start(node):
                found.clear()
    return found


def last_start(node: Node) -> int:
    """Return the number of the last `executor.started` event."""
    newest, after = 0, 0
    while batch := node.ask({"op": "poll", "receipt": 0, "event": after, "wait_ms": 0})["events"]:
        for event in batch:
            after = event["number"]
            newest = after if event["kind"] == "executor.started" else newest
    return newest


def names_below(path: Path) -> set[str]:
    """Return the names in a folder that could be instances."""
    return {one.name for one in path.iterdir() if one.name.startswith("web-")} if path.exists() else set()


def conmons(node: Node) -> list[str]:
    """Return the instance of every conmon of this node."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[0].endswith(b"conmon") and any(str(node.folder).encode() + b"/" in word for word in words):
            found.append(words[words.index(b"-c") + 1].decode())
    return sorted(found)


def check_whole(node: Node, counter: int, *, replicas: int = 1) -> None:
    """One whole triple serves, everything agrees with the journal, nothing is left over."""
    node.settle()
    status = node.status()
    rows = status["instances"]
    assert status["transactions"] == []
    assert [(row["role"], row["counter"], row["status"]) for row in rows] == [
        ("serving", counter, "running")
    ] * replicas
    assert [row["replica"] for row in rows] == list(range(replicas))
    names = sorted(row["id"] for row in rows)
    places = {addresses(SUBNETS, row["address"]).v4 for row in rows}
    node.until(lambda: node.page() == f"v{counter}", f"release {counter} answers (it says {node.page()})")
    assert {address for address, state in node.slots().items() if state != "maint"} == places
    rules = node.inside_text("nft", "list", "ruleset")
    pairs = rules.partition("map endpoints4")[2].partition("elements = {")[2].partition("}")[0]
    found = [pair.split(" : ") for pair in pairs.replace("\n", " ").split(",") if " : " in pair]
    leads = {endpoint.strip(): instance.strip() for endpoint, instance in found}
    assert set(leads.values()) == places
    asked = node.inside_text("busybox", "nslookup", "-type=a", "web.nebh.internal", addresses(SUBNETS, 1).v4)
    assert {line.split()[-1] for line in asked.splitlines() if line.startswith("Address") and ":53" not in line} == set(
        leads
    )
    assert sorted(names_below(node.layout.run / "crun")) == names
    assert sorted(names_below(node.layout.bundles)) == names
    assert conmons(node) == names
    # not Path.glob: it fails when another test takes its own groups away meanwhile
    parents = [Path(folder) for folder, _, _ in os.walk("/sys/fs/cgroup") if Path(folder).name == node.name]
    groups = {name for folder in parents for name in names_below(folder)}
    assert sorted(groups) == names
    links = {line.split(":")[1].strip().partition("@")[0] for line in node.inside_text("ip", "-o", "link").splitlines()}
    assert {name for name in links if name.startswith("nebh0")} == {f"nebh{row['address']:04x}" for row in rows}

"""Releases of a `testing.node.Node` that share one image and differ in what their files say."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from nebh.model.config import ConfigFile, OnChange
from nebh.model.config_layer import Bundle, Part
from nebh.model.service import Check, CheckKind, Update
from nebh.planning.config_bundle import encode_bundle
from nebh.testing.node import GOOD, Node

PAGE: Final = "/www/index.html"
MORE: Final = "/more"
SAYS_GOOD: Final = Check(
    name="good", kind=CheckKind.EXEC, argv=("/bin/busybox", "grep", "-q", "good", MORE), interval=100, failures=1
)
"""Passes where the files say `good`."""
_TEXTS = {"page": "v{{ number }}\n", "more": "v{{ number }} {{ word }}\n"}


def publish_files(
    node: Node,
    word: str,
    *,
    series: int,
    argv: tuple[str, ...] = ("/bin/busybox", "true"),
    update: Update | None = None,
) -> int:
    """Sign the next release, of whose two files one is the page, `v<counter>`, and the other says `word` too. series: releases
    of two series differ in more than files; argv: what tells the program. Returns its counter."""
    bundle = Bundle(
        format=1,
        cluster_id=node.cluster_id,
        service="web",
        parts=(Part(layer="cluster", version=1, values={"number": node.counter + 1, "word": word}),),
        templates=_TEXTS,
    )
    data, ref = encode_bundle(bundle)
    (node.served / "objects" / ref.digest).write_bytes(data)
    fields: dict[str, Any] = {
        "config": ref,
        "env": {"SERIES": f"{series}"},
        "files": (
            ConfigFile(path=PAGE, template="page", on_change=OnChange.RELOAD, argv=argv),
            ConfigFile(path=MORE, template="more", on_change=OnChange.NOTHING),
        ),
        "images": {"main": node.make_image("of the image", more=b"of the image\n")},
    }
    return node.publish_release(update=update or Update(bake=100, checks=(GOOD,), drain=500), **fields)


def read_files(node: Node) -> tuple[str, str]:
    """Return what the serving instance sees, through its first process: (the other file, the page)."""
    (one,) = node.instances("serving")
    now = Path(f"/proc/{one['pid']}/root/dev/nebh/now")
    return (now / "0").read_text(encoding="ascii"), (now / "1").read_text(encoding="ascii")


def reloading(
    node: Node,
    word: str = "good",
    *,
    argv: tuple[str, ...] = ("/bin/busybox", "true"),
    update: Update | None = None,
) -> tuple[int, str]:
    """Have a release run whose files say `good`, then ask for one with other files; return (its counter, the nonce)."""
    series = node.counter + 1
    node.assign(publish_files(node, "good", series=series, argv=argv, update=update))
    node.settle()
    counter = publish_files(node, word, series=series, argv=argv, update=update)
    return counter, node.assign(counter)


def reload_failing_its_check(node: Node) -> tuple[int, str]:
    """As `reloading`, to files that fail their check."""
    return reloading(node, "bad", update=Update(bake=600, checks=(SAYS_GOOD,), drain=500))


def reload_told_in_vain(node: Node) -> tuple[int, str]:
    """As `reloading`, by a command that always fails."""
    return reloading(node, argv=("/bin/busybox", "false"))

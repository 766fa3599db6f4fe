"""A real container's secrets: it reads them, nobody else does, no disk holds them; they are replaced while it runs."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nebh.host.secret_mounts import MemoryFile, pack, unpack
from nebh.model.secret import SecretFile
from nebh.testing.container_rig import UID_BASE

pytestmark = pytest.mark.root

CANARY = "kAnaRy-5d81-in-a-file"
LOOK = (
    "ls -ln /run/secrets; cat /run/secrets/db; echo; grep secrets /proc/self/mountinfo; "
    "touch /run/secrets/x 2>&1; id -u; echo V=$TOKEN; echo end; sleep 60"
)


@pytest.fixture
def tree(rig):
    for path in ("run/secrets", "keys"):
        (rig.tree / path).mkdir(parents=True)
    return rig


def start(rig, script: str, *, env: dict[str, str] | None = None, files=None, user: int = 10001) -> str:
    plan = rig.plan("web-7-0-1", "/bin/sh", "-c", script, secret_folders=("/keys", "/run/secrets"))
    given = files or (SecretFile(place="0/tls.key", value=b"\x00\xff"), SecretFile(place="1/db", value=CANARY.encode()))
    rig.driver.create(replace(plan, secrets=given, secret_env=env or {}, user=user))
    rig.driver.start("web-7-0-1")
    return "web-7-0-1"


def said(rig, name: str, mark: str = "end") -> str:
    end = time.monotonic() + 20
    while True:
        text = "\n".join(line.text for line in rig.driver.read_logs(name, "", 1000).lines)
        if mark in text.splitlines():
            return text
        assert time.monotonic() < end, text
        time.sleep(0.05)


def on_disk(folder: Path, needle: bytes) -> list[Path]:
    return [
        path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and needle in path.read_bytes()
    ]


def test_the_container_reads_them_and_the_host_sees_an_empty_folder(tree):
    name = start(tree, LOOK)
    text = said(tree, name)
    assert CANARY in text
    assert re.search(r"^-r-------- +1 10001 +10001 .* db$", text, re.MULTILINE), text
    (mount,) = [line for line in text.splitlines() if " /run/secrets " in line]
    assert {"ro", "nosuid", "nodev", "noexec"} <= set(mount.split()[5].split(",")), mount
    assert "tmpfs" in mount
    assert "Read-only file system" in text
    bundle = tree.folders.bundle(name)
    assert list((bundle / "secrets").iterdir()) == []
    assert not os.path.ismount(bundle / "secrets")
    held = [path for path in on_disk(tree.folder, CANARY.encode()) if "ctr.log" not in path.name]
    assert held == []


def test_another_user_of_the_container_cannot_read_them(tree):
    name = start(tree, "cat /run/secrets/db 2>&1; id -u; echo end; sleep 60", user=10002)
    text = said(tree, name)
    assert "Permission denied" in text
    assert CANARY not in text


def test_they_are_replaced_while_it_runs_each_in_one_step(tree):
    script = "while true; do v=$(cat /run/secrets/db) || echo torn; echo $v; [ $v = two ] && echo end; sleep 0.05; done"
    name = start(
        tree, script, files=(SecretFile(place="0/tls.key", value=b"k"), SecretFile(place="1/db", value=b"one"))
    )
    pid = tree.driver.observe(name).pid
    said(tree, name, "one")
    again = (SecretFile(place="0/tls.key", value=b"k"), SecretFile(place="1/db", value=b"two"))
    assert tree.driver.give_secrets(name, again) == ("1/db",)
    text = said(tree, name, "end")
    assert set(text.splitlines()) == {"one", "two", "end"}
    assert tree.driver.observe(name).pid == pid
    status = tree.driver.check(name, ("/bin/sh", "-c", "ls -ln /run/secrets; ls -a /run/secrets | wc -l"), 5000)
    assert "10001" in status.detail
    assert status.detail.endswith("3"), "no leftover beside it"


def test_a_variable_is_in_the_container_and_in_no_file_of_the_bundle(tree):
    name = start(tree, LOOK, env={"TOKEN": "kAnaRy-in-a-variable"})
    assert "V=kAnaRy-in-a-variable" in said(tree, name)
    held = [path for path in on_disk(tree.folder, b"kAnaRy-in-a-variable") if "ctr.log" not in path.name]
    assert all(path.is_relative_to(tree.folders.run) for path in held), held
    assert tree.driver.check(name, ("/bin/sh", "-c", "test -z $TOKEN"), 5000).ok, "a check does not get it"


def test_a_container_without_secrets_has_no_such_mount(tree):
    tree.driver.create(tree.plan("web-7-0-1", "/bin/sh", "-c", "cat /proc/self/mountinfo; echo end; sleep 60"))
    tree.driver.start("web-7-0-1")
    assert "secrets" not in said(tree, "web-7-0-1")


def test_when_it_is_gone_so_is_the_memory(tree):
    def mounted() -> int:
        found = 0
        for path in Path("/proc").glob("[0-9]*/mountinfo"):
            try:
                found += f"{tree.folders.bundle('web-7-0-1')}/secrets" in path.read_text()
            except OSError:
                continue
        return found

    start(tree, LOOK)
    assert mounted() > 0, "conmon's"
    tree.driver.delete("web-7-0-1")
    assert mounted() == 0


def test_values_travel_in_memory_and_are_asked_for_by_length():
    files = (MemoryFile(place="0/a", size=3, owner=UID_BASE), MemoryFile(place="0/b", size=2, owner=UID_BASE))
    packed, descriptor = pack(files, (b"abc", b"de"))
    try:
        assert [data for _, data in unpack(packed, descriptor)] == [b"abc", b"de"]
        assert b"abc" not in str(packed).encode()
        with pytest.raises(OSError, match="ended early"):
            list(unpack([*packed, packed[0]], descriptor))
    finally:
        os.close(descriptor)

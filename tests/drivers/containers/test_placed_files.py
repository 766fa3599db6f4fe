"""Files that a node put into a real container: read by its user, written by nobody, gone with it."""

from __future__ import annotations

import pytest

from nebh.drivers.containers.base import PlacedFile
from nebh.testing.container_rig import UID_BASE

pytestmark = pytest.mark.root
ONE = "web-7-0-1"
SCRIPT = (
    "cat /etc/app/app.conf /etc/app/secret; stat -c '%a %u' /etc/app/app.conf /etc/app/secret; "
    "echo x >> /etc/app/app.conf; rm /etc/app/secret; chmod 777 /etc/app/secret; cat /etc/app/foreign; echo end"
)


def test_files_are_seen_read_only_with_their_mode_and_owner(rig):
    (rig.tree / "etc" / "app").mkdir()
    for name in ("app.conf", "secret", "foreign"):
        (rig.tree / "etc" / "app" / name).touch(mode=0o444)
    owner = UID_BASE + 10001
    files = {
        "/etc/app/app.conf": PlacedFile(data=b"level info\n", mode=0o444, owner=owner),
        "/etc/app/secret": PlacedFile(data=b"for its user\n", mode=0o400, owner=owner),
        "/etc/app/foreign": PlacedFile(data=b"for another user\n", mode=0o400, owner=UID_BASE + 7),
    }
    lines = rig.run_to_end(rig.plan(ONE, "/bin/sh", "-c", SCRIPT, files=files))
    assert lines[:4] == ["level info", "for its user", "444 10001", "400 10001"], lines
    said = "\n".join(lines[4:])
    assert "app.conf: Read-only file system" in said or "can't create /etc/app/app.conf" in said
    assert "can't remove '/etc/app/secret'" in said
    assert "for another user" not in said
    assert "end" in lines  # its two outputs may come in another order
    assert not (rig.folders.bundles / ONE).exists()
    assert (rig.tree / "etc" / "app" / "app.conf").read_bytes() == b"", "the image's own file is untouched"

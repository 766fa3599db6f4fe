"""Our AppArmor profile, where the kernel has AppArmor on: a second lock on doors that are locked already.

It allows what a program without privileges does, and refuses by name what an escape begins with: mounting, and writing
to the kernel's own files. Nothing here is relied upon: without AppArmor containers are confined as the tests say.
"""

from __future__ import annotations

import os
from pathlib import Path

from nebh.host.files import write_atomic
from nebh.host.run import Command, run
from nebh.model.errors import NebhError

NAME = "nebh-default"
PROFILE = f"""\
# Made by nebh-executor, loaded when it starts.
profile {NAME} flags=(attach_disconnected,mediate_deleted) {{
  file,
  network,
  unix,
  signal (send, receive) peer={NAME},
  signal (receive) peer=unconfined,
  ptrace (readby) peer=unconfined,

  deny mount,
  deny remount,
  deny umount,
  deny pivot_root,
  deny /proc/sys/** wklx,
  deny /proc/sysrq-trigger rwklx,
  deny /proc/kcore rwklx,
  deny /proc/*/attr/** wklx,
  deny /sys/** wklx,
}}
"""
_ON = Path("/sys/module/apparmor/parameters/enabled")
_LOADED = Path("/sys/kernel/security/apparmor/profiles")
_PARSER = "/usr/sbin/apparmor_parser"


def ensure_profile(folder: Path) -> str:
    """Load our profile where the kernel wants profiles; return its name, "" where containers run without one.

    folder: where its text is put. Raises nothing: a node without the parser runs containers all the same."""
    try:
        if not _ON.read_text(encoding="ascii").startswith("Y"):
            return ""
        path, draft = folder / "apparmor-profile", folder / "apparmor-profile.new"
        # Compiling takes a slow machine many seconds; folder and kernel forget at the same time.
        if is_loaded(_LOADED.read_text(encoding="utf-8")) and path.exists() and path.read_bytes() == PROFILE.encode():
            return NAME
        write_atomic(draft, PROFILE.encode(), mode=0o600, durable=False)
        if os.access(_PARSER, os.X_OK):
            run(Command(argv=(_PARSER, "--replace", "--skip-cache", str(draft)), timeout=120.0))
            draft.rename(path)
        return NAME if is_loaded(_LOADED.read_text(encoding="utf-8")) else ""
    except (OSError, NebhError):
        return ""


def is_loaded(profiles: str) -> bool:
    """Tell whether the kernel's list of profiles (`NAME (mode)` lines) has ours, enforced."""
    return f"{NAME} (enforce)" in profiles.splitlines()

"""Files that are replaced under a running container: all of them in one step, and never half of one.

The container sees each path as a symbolic link into one folder, and in that folder one more link says which set is the
one of now. Replacing that link is the whole change:

    BUNDLE/links/paths        their paths in the container, as JSON; a file's number is its place there
    BUNDLE/links/<number>     what the container sees at that path: a link to LIVE/now/<number>
    BUNDLE/live/              LIVE, in the container
    BUNDLE/live/<set>/        the files of one set, by number; named by what is in them, so that whole when it has its name
    BUNDLE/live/now           a link to the set of now
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from nebh.drivers.containers.base import PlacedFile
from nebh.drivers.containers.oci_config import LIVE
from nebh.host.files import write_atomic
from nebh.model.errors import Failed

FOLDER = "live"
_LINKS, _PATHS, _NOW = "links", "paths", "now"
Files = Mapping[str, PlacedFile]


def lay_out(bundle: Path, live: Files) -> None:
    """Make the links and the first set, in a bundle that has none."""
    if not live:
        return
    for folder, mode in ((bundle / FOLDER, 0o711), (bundle / _LINKS, 0o700)):
        folder.mkdir()
        folder.chmod(mode)
    for number in range(len(live)):
        (bundle / _LINKS / f"{number}").symlink_to(f"{LIVE}/{_NOW}/{number}")
    write_atomic(bundle / _LINKS / _PATHS, json.dumps(sorted(live)).encode(), mode=0o600, durable=False)
    _point_to(bundle / FOLDER, _write_set(bundle / FOLDER, live))


def links(bundle: Path, live: Files) -> tuple[tuple[str, str], ...]:
    """Return (link on the host, path in the container)."""
    return tuple((str(bundle / _LINKS / f"{number}"), path) for number, path in enumerate(sorted(live)))


def paths(bundle: Path) -> tuple[str, ...]:
    """Return the paths that a bundle was made with, () for none and for a bundle that is gone."""
    with contextlib.suppress(OSError, ValueError):
        return tuple(json.loads((bundle / _LINKS / _PATHS).read_bytes()))
    return ()


def exchange(bundle: Path, live: Files) -> tuple[str, ...]:
    """Have the container see this set from now on; return the paths whose bytes changed. The set before stays on the
    disk, so that going back to it writes nothing. Raises Failed, with everything as it was."""
    if not live or paths(bundle) != tuple(sorted(live)):
        raise Failed(f"cannot give {bundle.name} its files: it was made with others, or it is gone")
    folder = bundle / FOLDER
    try:
        before = os.readlink(folder / _NOW)
        name = _write_set(folder, live)
        if name == before:
            return ()
        changed = tuple(
            path
            for number, path in enumerate(sorted(live))
            if (folder / before / f"{number}").read_bytes() != live[path].data
        )
        _point_to(folder, name)
    except OSError as error:
        raise Failed(f"cannot give {bundle.name} its files: {error.strerror or error}") from error
    for old in folder.iterdir():
        if old.name not in (name, before, _NOW):
            shutil.rmtree(old, ignore_errors=True)
    return changed


def _write_set(folder: Path, live: Files) -> str:
    """Have a set there under its name; return the name."""
    ordered = [(path, live[path]) for path in sorted(live)]
    facts = [(path, one.mode, one.owner, hashlib.sha256(one.data).hexdigest()) for path, one in ordered]
    name = hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]
    if (folder / name).is_dir():
        return name
    draft = folder / ".draft"
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(mode=0o700)
    for number, (_, one) in enumerate(ordered):
        path = draft / f"{number}"
        path.write_bytes(one.data)
        os.chown(path, one.owner, one.owner)
        path.chmod(one.mode)
    draft.chmod(0o711)
    draft.rename(folder / name)
    return name


def _point_to(folder: Path, name: str) -> None:
    draft = folder / ".now"
    draft.unlink(missing_ok=True)
    draft.symlink_to(name)
    draft.replace(folder / _NOW)

"""Where and how a release may have its secrets, whoever signed it."""

from __future__ import annotations

import re

from nebh.model.image import EntryType, TreeManifest
from nebh.model.names import is_name
from nebh.model.release import Release
from nebh.model.secret import SIGNALS, SecretUse, find_path_problem, folder_of

MOST = 64
_ENV = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


def find_uses_problem(uses: tuple[SecretUse, ...]) -> str:
    """Return what is wrong with the secrets of a release together, or ""."""
    if len(uses) > MOST:
        return f"{len(uses)} secrets, at most {MOST} are allowed"
    for what, given in (
        ("name", [one.name for one in uses]),
        ("path", [one.path for one in uses]),
        ("variable", [one.env for one in uses if one.env]),
    ):
        twice = sorted({one for one in given if given.count(one) > 1})
        if twice:
            return f"the {what} {twice[0]} stands at two secrets"
    folders = sorted({folder_of(one) for one in uses})
    for inner in folders:
        outer = next((one for one in folders if inner.startswith(f"{one}/")), "")
        if outer:
            return f"{inner} lies in {outer}: folders of secrets cannot lie in one another"
    return ""


def find_secrets_problem(release: Release) -> str:
    """Return why a release may not have its secrets the way it says, or ""."""
    for use in release.secrets:
        problem = "" if is_name(use.name) else "it is no name"
        problem = problem or find_path_problem(use.path)
        if use.env and (not _ENV.match(use.env) or use.env in release.env):
            problem = problem or f"{use.env!r} is no variable name, or stands under env too"
        if use.signal and use.signal not in SIGNALS:
            problem = problem or f"signal {use.signal!r} is not one that we send"
        if problem:
            return f"secret {use.name!r}: {problem}"
    return find_uses_problem(release.secrets) or _find_overlap(release)


def _find_overlap(release: Release) -> str:
    """Neither a volume nor a rendered file may lie in a folder of secrets, or it in a volume."""
    others = [one.path for one in release.volumes]
    for folder in sorted({folder_of(one) for one in release.secrets}):
        for path in others:
            if folder == path or folder.startswith(f"{path}/") or path.startswith(f"{folder}/"):
                return f"the secrets in {folder} and the volume at {path} lie in one another"
        for one in release.files:
            if one.path == folder or one.path.startswith(f"{folder}/") or folder.startswith(f"{one.path}/"):
                return f"the file {one.path} lies in {folder}, a folder of secrets"
    return ""


def find_folder_problem(release: Release, manifest: TreeManifest) -> str:
    """Return why an image has no place for the secrets of a release, or "". Their folder hides what the image has
    there, so it must be an empty directory."""
    folders = {folder_of(one).removeprefix("/") for one in release.secrets}
    if not folders:
        return ""
    kinds = {entry.path: entry.type for entry in manifest.entries}
    for folder in sorted(folders):
        if kinds.get(folder) is not EntryType.DIRECTORY:
            return f"the image has no directory /{folder}, where a secret is to lie"
        held = next((path for path in kinds if path.startswith(f"{folder}/")), "")
        if held:
            return f"the image has /{held}, which the secrets in /{folder} would hide"
    return ""

"""A container's secrets as files in memory: what the launcher is told of them, and the descriptor their bytes are in."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Mapping
from typing import Any

from nebh.host.secret_mounts import MemoryFile, pack
from nebh.model.secret import SecretFile

FOLDER = "secrets"
CONFIG = ".config.json"
"""The runtime's config where it holds variables that are secret: beside the files, seen by the runtime alone."""


@contextlib.contextmanager
def memory_files(
    secrets: tuple[SecretFile, ...], *, owner: int, env: bytes = b""
) -> Iterator[tuple[list[dict[str, Any]], int]]:
    """Hand out (files as JSON values, descriptor of their bytes), closed at the end. owner: host user id; env: the config
    for the runtime, b"" = none."""
    files = [MemoryFile(place=one.place, size=len(one.value), owner=owner) for one in secrets]
    values = [one.value for one in secrets]
    if env:
        files.append(MemoryFile(place=CONFIG, size=len(env), owner=0, mode=0o600))
        values.append(env)
    packed, descriptor = pack(files, values)
    try:
        yield packed, descriptor
    finally:
        os.close(descriptor)


def render_with_env(config: dict[str, Any], env: Mapping[str, str]) -> bytes:
    """Return a runtime config with more variables. Never for a disk."""
    process = config["process"]
    more = [f"{name}={value}" for name, value in sorted(env.items())]
    return json.dumps({**config, "process": {**process, "env": [*process["env"], *more]}}).encode()

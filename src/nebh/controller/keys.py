"""The controller's own key: signs timestamps and assignments, nothing else. An operator signs it into the cluster."""

from __future__ import annotations

import os
from pathlib import Path

from nebh.signing.node_keys import load_seed, save_seed
from nebh.signing.statements import Seed

KEY = "controller.key"


def key_path(state: Path) -> Path:
    """Return where the key lies."""
    return state / "keys" / KEY


def ensure_key(state: Path) -> Seed:
    """Return the key, made on the first call. Raises Broken when its file is damaged or open to others."""
    path = key_path(state)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        save_seed(path, Seed(os.urandom(32)))
    return load_seed(path)

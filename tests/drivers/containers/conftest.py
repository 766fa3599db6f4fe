"""A rig with real containers; skipped with a reason where they cannot run."""

from __future__ import annotations

import shutil

import pytest

from nebh.model.errors import NotFound
from nebh.testing.container_rig import ContainerRig, busybox


@pytest.fixture
def rig(short_folder):
    if not (shutil.which("crun") and shutil.which("conmon")):
        pytest.skip("crun and conmon are not installed")
    try:
        busybox()
    except NotFound as error:
        pytest.skip(f"{error}: {error.hint}")
    made = ContainerRig(short_folder)
    yield made
    made.close()

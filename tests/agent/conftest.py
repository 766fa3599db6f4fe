"""The controller of tests/api, here too."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_spec = importlib.util.spec_from_file_location("nebh_api_conftest", Path(__file__).parents[1] / "api" / "conftest.py")
assert _spec is not None
assert _spec.loader is not None
_module = importlib.util.module_from_spec(_spec)
import sys  # noqa: E402

sys.modules["nebh_api_conftest"] = _module
_spec.loader.exec_module(_module)
make_cloud, cloud, program = _module.make_cloud, _module.cloud, _module.program

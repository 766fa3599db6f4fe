"""Who asks. Shapes and units: `nebh.model.api`."""

from __future__ import annotations

from enum import StrEnum


class Who(StrEnum):
    """Who calls: proven by signing the controller's nonce. Everybody is also nobody."""

    NOBODY = "nobody"
    NODE = "node"
    OPERATOR = "operator"
    CI = "ci"

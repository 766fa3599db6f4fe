"""What acceptance decides upon cannot change while it decides."""

from __future__ import annotations

import dataclasses

from nebh.planning.accept_choice import Choice
from nebh.planning.accept_order import OrderFacts


def test_facts_are_frozen() -> None:
    for kind in (Choice, OrderFacts):
        assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
        assert dataclasses.is_dataclass(kind)

"""docs/api.md is what the code says; every operation says who may call it. `NEBH_UPDATE_GOLDEN=1` writes the page."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nebh.api.app import HANDLERS, access_table, make_app
from nebh.api.reference import path_of, render_reference
from nebh.controller.core import Core
from nebh.model.api import Who
from nebh.signing.statements import Seed
from nebh.state.migrate import migrate

PAGE = Path(__file__).parents[2] / "docs" / "api.md"


@pytest.fixture
def app(tmp_path):
    migrate(tmp_path / "controller.db")
    core = Core(state=tmp_path, signer=Seed(b"c" * 32), tools=None, now=lambda: 0, version="test")
    yield make_app(core)
    core.close()
    core.database.close()


def test_the_page_is_what_the_code_says(app):
    text = render_reference(app)
    if os.environ.get("NEBH_UPDATE_GOLDEN"):
        PAGE.write_text(text)
    assert PAGE.read_text() == text
    for method, path, _ in access_table():
        assert f"## {method} {path_of(path)}\n" in text


def test_every_operation_says_who_may_call_it(app):
    for method, path, who in access_table():
        print(f"{method:5} {path:45} {', '.join(one.value for one in who)}")
    rows = {f"{method} {path}": set(who) for method, path, who in access_table()}
    assert len(rows) == len(HANDLERS)
    open_to_all = {name for name, who in rows.items() if Who.NOBODY in who}
    assert open_to_all == {
        "GET /v1/health",
        "GET /v1/metadata/{name:str}",
        "GET /v1/targets/{path:path}",
        "POST /v1/nonces",
        "POST /v1/publish",
        "POST /v1/tokens",
    }
    assert {name for name, who in rows.items() if Who.NODE in who} - open_to_all == {
        "POST /v1/node/poll",
        "POST /v1/node/report",
        "GET /v1/objects/{digest:str}",
        "POST /v1/objects/batch",
        "POST /v1/objects/patches",
    }
    assert {name for name, who in rows.items() if Who.CI in who} - open_to_all == {
        "GET /v1/events",
        "GET /v1/images/{digest:str}/missing",
        "GET /v1/receipts",
        "GET /v1/services/{service:str}",
        "POST /v1/objects",
        "POST /v1/objects/deltas",
        "POST /v1/objects/missing",
        "POST /v1/services/{service:str}/deployments",
    }
    assert all(Who.OPERATOR in who for name, who in rows.items() if not name.startswith("POST /v1/node/"))

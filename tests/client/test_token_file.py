"""A token is kept for the next command, as secret as a key, and used only where and as long as it is good."""

from __future__ import annotations

import time
from pathlib import Path

from nebh.client.token_file import TokenFile

HOUR = 3_600_000


def _file(folder: Path, *, use: str = "this key at this controller") -> TokenFile:
    return TokenFile(path=folder / "token.json", use=use)


def _in(milliseconds: int) -> int:
    return int(time.time() * 1000) + milliseconds


def test_it_comes_back_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    assert _file(tmp_path).load() == ""
    _file(tmp_path).save("secret", expires_at=_in(HOUR))
    assert _file(tmp_path).load() == "secret"
    assert (tmp_path / "token.json").stat().st_mode & 0o777 == 0o600


def test_it_is_not_used_elsewhere_or_for_another_key(tmp_path: Path) -> None:
    _file(tmp_path).save("secret", expires_at=_in(HOUR))
    assert _file(tmp_path, use="another key at this controller").load() == ""


def test_it_is_not_begun_with_when_it_is_about_to_end(tmp_path: Path) -> None:
    _file(tmp_path).save("secret", expires_at=_in(10_000))
    assert _file(tmp_path).load() == ""


def test_a_damaged_file_costs_a_login_only(tmp_path: Path) -> None:
    for damage in (b"", b"[1]", b'{"token":3}', b"\xff" * 10_000):
        (tmp_path / "token.json").write_bytes(damage)
        assert _file(tmp_path).load() == ""


def test_a_folder_that_cannot_be_written_stops_nobody(tmp_path: Path) -> None:
    TokenFile(path=tmp_path / "none" / "token.json", use="x").save("secret", expires_at=_in(HOUR))


def test_the_token_of_a_locked_key_is_not_kept(tmp_path: Path) -> None:
    TokenFile(path=tmp_path / "token.json", use="x", may_keep=lambda: False).save("secret", expires_at=_in(HOUR))
    assert not list(tmp_path.iterdir())

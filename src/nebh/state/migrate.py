"""Bring a database to the version of this program. The only module that needs Alembic."""

from __future__ import annotations

from pathlib import Path

from alembic import command
from alembic.config import Config


def migrate(path: Path) -> None:
    """Run the packaged migrations on the SQLite file `path`, made when absent."""
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).with_name("migrations")).replace("%", "%%"))
    config.set_main_option("sqlalchemy.url", f"sqlite:///{path}".replace("%", "%%"))
    command.upgrade(config, "head")

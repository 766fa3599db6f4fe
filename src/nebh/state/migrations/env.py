"""Alembic's entry point: runs the versions beside it on the database that `nebh.state.migrate` names."""

from alembic import context
from sqlalchemy import create_engine, pool

from nebh.state.tables import METADATA

url = context.config.get_main_option("sqlalchemy.url")
if url is None:
    raise RuntimeError("sqlalchemy.url is not set")
engine = create_engine(url, poolclass=pool.NullPool)
with engine.connect() as connection:
    context.configure(connection=connection, target_metadata=METADATA, render_as_batch=True)
    with context.begin_transaction():
        context.run_migrations()

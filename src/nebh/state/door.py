"""The registry door's memory: tokens, which repository holds which blob, tags. Times are Unix ms."""

from __future__ import annotations

from sqlalchemy import Connection, delete, insert, select

from nebh.model.api import DoorImage, DoorToken
from nebh.state.tables import door_links, door_tags, door_tokens


def add_token(connection: Connection, token: DoorToken, *, secret: str) -> None:
    """Store a token. secret: hex SHA-256 of the part that is secret."""
    connection.execute(
        insert(door_tokens).values(
            id=token.id,
            secret=secret,
            repository=token.repository,
            push=int(token.push),
            at=token.at,
            by=token.by,
            expires_at=token.expires_at,
        )
    )


def find_token(connection: Connection, number: str) -> tuple[DoorToken, str] | None:
    """Return a token and its secret's hash."""
    row = connection.execute(select(door_tokens).where(door_tokens.c.id == number)).first()
    return None if row is None else (_token(row), str(row.secret))


def read_tokens(connection: Connection) -> tuple[DoorToken, ...]:
    """Return all tokens, oldest first."""
    return tuple(_token(row) for row in connection.execute(select(door_tokens).order_by(door_tokens.c.at)))


def drop_token(connection: Connection, number: str) -> None:
    """Remove a token; one that is not there is no error."""
    connection.execute(delete(door_tokens).where(door_tokens.c.id == number))


def drop_old_tokens(connection: Connection, *, now: int) -> None:
    """Remove tokens whose time is over."""
    connection.execute(delete(door_tokens).where(door_tokens.c.expires_at <= now))


def _token(row: object) -> DoorToken:
    return DoorToken(
        id=row.id,  # type: ignore[attr-defined]
        repository=row.repository,  # type: ignore[attr-defined]
        push=bool(row.push),  # type: ignore[attr-defined]
        at=row.at,  # type: ignore[attr-defined]
        by=row.by,  # type: ignore[attr-defined]
        expires_at=row.expires_at,  # type: ignore[attr-defined]
    )


def link(connection: Connection, *, repository: str, digest: str, media_type: str, at: int) -> None:
    """Note that a repository holds a blob or manifest (`media_type` "" for a blob)."""
    where = (door_links.c.repository == repository, door_links.c.digest == digest)
    connection.execute(delete(door_links).where(*where))
    connection.execute(insert(door_links).values(repository=repository, digest=digest, media_type=media_type, at=at))


def find_link(connection: Connection, *, repository: str, digest: str) -> str | None:
    """Return the media type under which a repository holds a digest; None = it does not."""
    query = select(door_links.c.media_type).where(door_links.c.repository == repository, door_links.c.digest == digest)
    found = connection.execute(query).scalar()
    return None if found is None else str(found)


def links(connection: Connection) -> tuple[tuple[str, str, str, int], ...]:
    """Return (repository, digest, media type, at) of everything that is held."""
    rows = connection.execute(select(door_links))
    return tuple((row.repository, row.digest, row.media_type, row.at) for row in rows)


def unlink(connection: Connection, *, repository: str, digest: str) -> None:
    """Forget that a repository holds something."""
    connection.execute(delete(door_links).where(door_links.c.repository == repository, door_links.c.digest == digest))


def put_tag(connection: Connection, *, repository: str, tag: str, digest: str, at: int, by: str) -> None:
    """Let a tag lead to a manifest."""
    drop_tag(connection, repository=repository, tag=tag)
    connection.execute(insert(door_tags).values(repository=repository, tag=tag, digest=digest, at=at, by=by))


def drop_tag(connection: Connection, *, repository: str, tag: str) -> bool:
    """Remove a tag; tells whether it was there."""
    done = connection.execute(delete(door_tags).where(door_tags.c.repository == repository, door_tags.c.tag == tag))
    return bool(done.rowcount)


def find_tag(connection: Connection, *, repository: str, tag: str) -> str | None:
    """Return the digest that a tag leads to."""
    query = select(door_tags.c.digest).where(door_tags.c.repository == repository, door_tags.c.tag == tag)
    found = connection.execute(query).scalar()
    return None if found is None else str(found)


def read_tags(connection: Connection, *, repository: str = "") -> tuple[DoorImage, ...]:
    """Return the tags of one repository or of all, newest first."""
    query = select(door_tags).order_by(door_tags.c.at.desc(), door_tags.c.tag)
    if repository:
        query = query.where(door_tags.c.repository == repository)
    return tuple(
        DoorImage(repository=row.repository, tag=row.tag, digest=row.digest, at=row.at, by=row.by)
        for row in connection.execute(query)
    )

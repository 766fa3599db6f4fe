"""Answers to operators' questions about data. The agent and the controller carry them and can neither ask nor read."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from nebh.drivers.volumes import browse
from nebh.drivers.volumes.base import telling
from nebh.executor.context import Context
from nebh.executor.trust import Trust
from nebh.executor.usage import measure_volume
from nebh.model.errors import BadInput, NebhError, NotFound, Refused
from nebh.model.event import Severity
from nebh.model.kept import VolumeRow
from nebh.model.question import MOST_NAMES, Answer, Question, Topic
from nebh.model.stored import stored_name
from nebh.planning.accept_question import QuestionFacts, check_question
from nebh.signing.seal import seal_answer
from nebh.signing.statements import peek_statement

SECONDS = 3.0
MOST_VOLUMES = 10
_REMEMBERED = 1000


class Answers:
    """See above. sign: returns the envelope of an answer by the node's key."""

    def __init__(self, context: Context, trust: Trust, sign: Callable[[Answer], bytes]) -> None:
        self._context = context
        self._trust = trust
        self._sign = sign
        self._lock = threading.Lock()
        self._answered: dict[str, None] = {}

    def answer(self, envelope: bytes) -> bytes:
        """Return a sealed, signed answer. Raises BadInput, Refused."""
        asked = peek_statement(envelope, "question", Question)
        try:
            self._check(asked, envelope)
        except Refused as error:
            self._context.event(
                "question.refused",
                f"{asked.service[:64]}: a question about its data was refused: {error}",
                severity=Severity.WARNING,
                hint=error.hint,
            )
            raise
        accepted = self._context.accepted
        empty = Answer(cluster_id=accepted.meta("cluster_id"), node_id=accepted.meta("node_id"), nonce=asked.nonce)
        try:
            found = self._find(asked, empty)
        except NebhError as error:
            found = replace(empty, error=error.message, hint=error.hint)
        return seal_answer(self._sign(found), public=asked.reply_to, info=asked.info)

    def _check(self, asked: Question, envelope: bytes) -> None:
        signer = self._trust.signer_of(envelope, "question", Question)
        accepted = self._context.accepted
        with self._lock:
            check_question(
                QuestionFacts(
                    question=asked,
                    signer=signer,
                    operator_keys=tuple(accepted.meta("operator_keys").split()),
                    cluster_id=accepted.meta("cluster_id"),
                    node_id=accepted.meta("node_id"),
                    answered=frozenset(self._answered),
                    now=self._context.clock.now_ms() // 1000,
                )
            )
            self._answered[asked.nonce] = None
            while len(self._answered) > _REMEMBERED:
                self._answered.pop(next(iter(self._answered)))

    def _find(self, asked: Question, empty: Answer) -> Answer:
        if asked.topic is Topic.USAGE:
            return self._usage(asked, empty)
        row = self._volume(asked)
        stored = stored_name(service=row.service, volume=row.name, replica=row.replica)
        after = _bytes(asked.after)
        volumes = self._context.drivers.volumes
        with telling(f"look into volume {row.name} of {row.service}"):
            newer = volumes.snapshot_path(stored, asked.newer) if asked.newer else volumes.path(stored)
            if asked.topic is Topic.DIFF:
                older = volumes.snapshot_path(stored, asked.older)
                changes, behind = browse.compare_page(older, newer, after=after, limit=MOST_NAMES, seconds=SECONDS)
                return replace(empty, changes=changes, after=behind.hex())
            files, behind = browse.list_page(
                newer, under=asked.path.strip("/"), deep=asked.deep, after=after, limit=MOST_NAMES, seconds=SECONDS
            )
        return replace(empty, files=files, after=behind.hex())

    def _volume(self, asked: Question) -> VolumeRow:
        row = self._context.volumes.volume(asked.service, asked.replica, asked.volume)
        if row is None:
            raise NotFound(f"there is no volume {asked.volume!r} of allocation {asked.replica} of {asked.service} here")
        self._context.storage()
        return row

    def _usage(self, asked: Question, empty: Answer) -> Answer:
        rows = self._context.volumes.volumes(asked.service)
        left = sorted((one for one in rows if _key(one) > asked.after), key=_key)
        if rows:
            self._context.storage()
        return replace(
            empty,
            volumes=tuple(measure_volume(self._context, one) for one in left[:MOST_VOLUMES]),
            room=self._context.drivers.volumes.room() if rows else None,
            after=_key(left[MOST_VOLUMES - 1]) if len(left) > MOST_VOLUMES else "",
        )


def _key(row: VolumeRow) -> str:
    return f"{row.service}/{row.name}/{row.replica:05}"


def _bytes(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise BadInput(f"cannot go on behind {text[:80]!r}: it is no hex") from None

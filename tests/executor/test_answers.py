"""Questions about data: only an operator is answered, only once, and only the one who asked can read it."""

from __future__ import annotations

import secrets
import time
from dataclasses import replace

import pytest

from nebh.executor.answers import Answers
from nebh.executor.usage import UsageKeeper
from nebh.model.errors import BadInput, NebhError, Refused
from nebh.model.question import Answer, Question, Topic
from nebh.model.stored import StorageRoom
from nebh.model.volume import DataRules, VolumeBound, VolumeClass, VolumeMount
from nebh.signing.seal import new_answer_key, open_answer
from nebh.signing.statements import Seed, sign_statement, verify_statement

OPERATOR, NODE, STRANGER = Seed(b"o" * 32), Seed(b"n" * 32), Seed(b"s" * 32)
DATA = VolumeBound(name="data", kind=VolumeClass.STATE, size=1 << 20)
MIB = 1 << 20


class Asker:
    def __init__(self, bench) -> None:
        self.private, self.public = new_answer_key()
        self.answers = Answers(bench.context, bench.executor.trust, lambda one: sign_statement("answer", one, NODE))

    def question(self, **fields) -> Question:
        given = {"cluster_id": "c" * 32, "node_id": "d" * 64, "service": "web", "topic": Topic.FILES, "volume": "data"}
        given |= {"nonce": secrets.token_hex(16), "reply_to": self.public, "not_after": int(time.time()) + 60}
        return Question(**{**given, **fields})

    def ask(self, *, key: Seed = OPERATOR, **fields) -> Answer:
        question = self.question(**fields)
        box = self.answers.answer(sign_statement("question", question, key))
        data = open_answer(box, private=self.private, info=question.info)
        return verify_statement(data, "answer", Answer, keys=(NODE.public,), cluster_id="c" * 32)


@pytest.fixture
def bench(new_bench):
    made = new_bench(volumes=(DATA,))
    made.accepted.set_meta("operator_keys", OPERATOR.public)
    rules = DataRules(reads=(1,), writes=1)
    program = ("/bin/sh", "-c", "append /data/rows 1;sleep 1")
    made.deploy(1, argv=program, volumes=(VolumeMount(name="data", path="/data"),), data=rules)
    return made


@pytest.fixture
def asker(bench):
    return Asker(bench)


def test_names_differences_and_sizes_are_told(bench, asker):
    assert [one.path for one in asker.ask().files] == ["rows"]
    bench.volumes.snapshot("web.data.0", "r1")
    top = bench.volumes.path("web.data.0")
    for number in range(700):
        (top / f"file-{number:04}-{'x' * 100}").touch()
    found, after, pages = [], "", 0
    while after or not pages:
        page = asker.ask(topic=Topic.DIFF, older="r1", after=after)
        found, after, pages = [*found, *(one.path for one in page.changes)], page.after, pages + 1
    assert (len(found), found) == (700, sorted(found))
    assert pages >= 3, "an answer has its bounds"
    (one,) = asker.ask(topic=Topic.USAGE, service="").volumes
    assert (one.service, one.name, one.quota) == ("web", "data", MIB)
    assert "no snapshot r9" in asker.ask(newer="r9").error
    assert "no volume 'more'" in asker.ask(volume="more").error
    assert "is no hex" in asker.ask(after="x").error


def test_whoever_is_no_operator_learns_nothing(bench, asker):
    good = asker.question()
    for wrong in (
        sign_statement("question", good, STRANGER),
        sign_statement("question", replace(good, node_id="e" * 64), OPERATOR),
        sign_statement("question", replace(good, cluster_id="f" * 32), OPERATOR),
        sign_statement("question", replace(good, not_after=int(time.time()) - 1), OPERATOR),
        sign_statement("question", replace(good, not_after=int(time.time()) + 86_400), OPERATOR),
    ):
        with pytest.raises(Refused):
            asker.answers.answer(wrong)
    with pytest.raises(BadInput):
        asker.answers.answer(sign_statement("order", good, OPERATOR))
    assert any("question.refused" in one for one in bench.events())
    box = asker.answers.answer(sign_statement("question", good, OPERATOR))
    with pytest.raises(Refused, match="answered before"):
        asker.answers.answer(sign_statement("question", good, OPERATOR))
    other, _ = new_answer_key()
    for private, info in ((other, good.info), (asker.private, b"another question")):
        with pytest.raises(NebhError):
            open_answer(box, private=private, info=info)
    data = open_answer(box, private=asker.private, info=good.info)
    told = verify_statement(data, "answer", Answer, keys=(NODE.public,))
    assert [one.path for one in told.files] == ["rows"], "the control: it is in there"


def test_what_fills_up_is_said_once_and_again_only_after_it_was_not(bench):
    keeper, top = UsageKeeper(bench.context), bench.volumes.path("web.data.0")

    def said() -> list[str]:
        keeper.look()
        return [one.partition(":")[0] for one in bench.events() if one.startswith(("volume.", "storage."))]

    assert said() == []
    (top / "ballast").write_bytes(b"x" * (MIB * 88 // 100))
    assert said() == said() == ["volume.filling"]
    (top / "ballast").write_bytes(b"x" * (MIB * 96 // 100))
    assert said() == said() == ["volume.filling", "volume.full"]
    (top / "ballast").write_bytes(b"x" * (MIB * 83 // 100))
    assert len(said()) == 2, "nearly full still"
    (top / "ballast").unlink()
    said()
    (top / "ballast").write_bytes(b"x" * (MIB * 88 // 100))
    assert said()[2:] == ["volume.filling"]
    (event,) = [one for one in bench.context.outbox.events_after(0, limit=500) if one.kind == "volume.full"]
    assert "larger `volumes.data.size`" in event.hint
    bench.volumes.shared = StorageRoom(size=100 * MIB, free=5 * MIB, growth=100 * MIB)
    assert len(said()) == 3, "it may still grow"
    bench.volumes.shared = StorageRoom(size=100 * MIB, free=5 * MIB)
    assert said()[3:] == ["storage.full"]

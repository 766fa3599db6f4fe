"""Looking into volumes: names, differences, sizes. A question is signed by the operator's key and the answer sealed for
this command, for names of files are data too: whoever relays them can neither ask nor read."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace

from nebh.cli.output import Output
from nebh.cli.session import Session, new_nonce, now_seconds
from nebh.cli.show import clock
from nebh.cli.volume_orders import nodes_named, split_volume
from nebh.cli.volumes import volumes_of
from nebh.model.errors import BadInput, Failed, NotFound
from nebh.model.kept import VolumeRow
from nebh.model.node import NodeRecord
from nebh.model.quantities import render_size
from nebh.model.question import Answer, Question, Topic
from nebh.model.stored import ChangeKind, FileKind, StoredChange, StoredFile
from nebh.signing.seal import new_answer_key, open_answer
from nebh.signing.statements import sign_statement, verify_statement
from nebh.wire import codec

GOOD_FOR = 60
_SIGNS = {ChangeKind.ADDED: "+", ChangeKind.REMOVED: "-", ChangeKind.CHANGED: "~"}
_ENDS = {FileKind.FOLDER: "/", FileKind.LINK: "@", FileKind.OTHER: "?"}


@dataclass(frozen=True, kw_only=True)
class _Place:
    """One volume of one allocation."""

    node: NodeRecord
    row: VolumeRow


def files(options: argparse.Namespace, out: Output) -> int:
    """List names in a volume or a snapshot of it."""
    what, _, snapshot = options.what.partition(":")
    session = Session(options, out)
    place = _place(session, options, what)
    wish = _wish(place, Topic.FILES, newer=snapshot, path=options.path.strip("/"), deep=options.recursive)
    found: list[StoredFile] = []
    complete = True
    for page in _pages(session, place.node, wish):
        for one in page.files:
            if len(found) == options.limit:
                complete = False
                break
            found.append(one)
            if not out.json_wanted:
                size = "" if one.kind is FileKind.FOLDER else str(one.size)
                out.say(
                    f"{one.mode:04o} {one.uid:>5} {size:>14} {clock(one.modified):>16}  "
                    + _shown(one.path + _ENDS.get(one.kind, ""))
                )
        if not complete:
            break
    if out.json_wanted:
        out.document({"files": [codec.to_plain(one) for one in found], "complete": complete})
    elif not complete:
        out.note(f"  (there are more than {options.limit}: --limit shows more of them)")
    return 0


def diff(options: argparse.Namespace, out: Output) -> int:
    """List what differs between two states of a volume."""
    session = Session(options, out)
    place = _place(session, options, options.what)
    newer = "" if options.newer == "now" else options.newer
    wish = _wish(place, Topic.DIFF, older=options.older, newer=newer)
    found: list[StoredChange] = []
    complete = True
    for page in _pages(session, place.node, wish):
        room = options.limit - len(found)
        complete = complete and len(page.changes) <= room
        for one in page.changes[:room]:
            found.append(one)
            if not out.json_wanted:
                sizes = {
                    ChangeKind.ADDED: f"{one.after}",
                    ChangeKind.REMOVED: f"{one.before}",
                    ChangeKind.CHANGED: f"{one.before} -> {one.after}",
                }[one.kind]
                out.say(f"{_SIGNS[one.kind]} {sizes:>24}  {_shown(one.path)}")
        if not complete:
            break
    if out.json_wanted:
        out.document({"changes": [codec.to_plain(one) for one in found], "complete": complete})
        return 0
    if not complete:
        out.note(f"  (more than {options.limit} differ: --limit shows more of them)")
    counts = ", ".join(f"{sum(one.kind is kind for one in found)} {kind.value}" for kind in ChangeKind)
    out.note(f"  {counts}")
    return 0


def usage(options: argparse.Namespace, out: Output) -> int:
    """Say how full volumes and their storage are."""
    session = Session(options, out)
    names = {node.name for node, _ in volumes_of(session, options.service)}
    if options.service and not names:
        raise NotFound(
            f"cannot measure the data of {options.service}: no node reports a volume of it",
            hint="`nebh volume list` shows what there is",
        )
    rows, rooms = [], {}
    for node in nodes_named(session, names):
        wish = Question(
            cluster_id="",
            node_id=node.node_id,
            service=options.service,
            topic=Topic.USAGE,
            nonce="",
            reply_to="",
            not_after=0,
        )
        for page in _pages(session, node, wish):
            rows += [(node.name, one) for one in page.volumes]
            if page.room is not None:
                rooms[node.name] = page.room
    if out.json_wanted:
        out.document(
            {
                "volumes": [{"node": name, **codec.to_plain(one)} for name, one in rows],
                "storage": [{"node": name, **codec.to_plain(one)} for name, one in rooms.items()],
            }
        )
        return 0
    out.table(
        ("SERVICE", "REPLICA", "VOLUME", "NODE", "USED", "SIZE", "FULL", "ONLY IN SNAPSHOTS"),
        [
            (
                one.service,
                one.replica,
                one.name,
                name,
                _size(one.used),
                _size(one.quota) if one.quota else "-",
                f"{100 * one.used // one.quota} %" if one.quota and one.used >= 0 else "-",
                ", ".join(f"{snapshot} {_size(held)}" for snapshot, held in one.exclusive.items()) or "-",
            )
            for name, one in rows
        ],
    )
    for name, room in rooms.items():
        if room.size:
            grows = f", may grow by {render_size(room.growth)}" if room.growth else ""
            out.say(f"storage on {name}: {render_size(room.free)} of {render_size(room.size)} free{grows}")
    return 0


def _size(size: int) -> str:
    return render_size(size) if size >= 0 else "unknown"


def _shown(path: str) -> str:
    from nebh.cli.output import harmless

    return harmless(path)


def _place(session: Session, options: argparse.Namespace, what: str) -> _Place:
    """Return the one volume that was meant. Raises NotFound, BadInput where several could be."""
    service, volume = split_volume(what)
    found = [
        (node.name, one)
        for node, one in volumes_of(session, service)
        if volume in ("", one.name)
        and options.node in ("", node.name)
        and (options.replica is None or options.replica == one.replica)
    ]
    if not found:
        raise NotFound(
            f"cannot look into {what}: no node reports such a volume", hint="`nebh volume list` shows what there is"
        )
    if len(found) > 1:
        known = ", ".join(f"{service}/{one.name} (replica {one.replica} on {name})" for name, one in found[:20])
        raise BadInput(
            f"cannot look into {what}: it has several volumes", hint=f"name one, or --replica, --node: {known}"
        )
    name, row = found[0]
    return _Place(node=nodes_named(session, {name})[0], row=row)


def _wish(
    place: _Place, topic: Topic, *, older: str = "", newer: str = "", path: str = "", deep: bool = False
) -> Question:
    return Question(
        cluster_id="",
        node_id=place.node.node_id,
        service=place.row.service,
        topic=topic,
        nonce="",
        reply_to="",
        not_after=0,
        volume=place.row.name,
        replica=place.row.replica,
        older=older,
        newer=newer,
        path=path,
        deep=deep,
    )


def _pages(session: Session, node: NodeRecord, wish: Question) -> Iterator[Answer]:
    """Ask until all is told. Raises what the node answers."""
    while True:
        page = _ask(session, node, wish)
        yield page
        if not page.after:
            return
        if page.after == wish.after:
            raise Failed(f"cannot go on: {node.name} answers the same again")
        wish = replace(wish, after=page.after)


def _ask(session: Session, node: NodeRecord, wish: Question) -> Answer:
    private, public = new_answer_key()
    question = replace(
        wish,
        cluster_id=session.folder.cluster.cluster_id,
        nonce=new_nonce(),
        reply_to=public,
        not_after=now_seconds() + GOOD_FOR,
    )
    box = session.client.ask(sign_statement("question", question, session.key))
    data = open_answer(box, private=private, info=question.info)
    answer = verify_statement(
        data, "answer", Answer, keys=(node.sign_pk,), cluster_id=session.folder.cluster.cluster_id
    )
    if (answer.nonce, answer.node_id) != (question.nonce, node.node_id):
        raise Failed(f"cannot use the answer of {node.name}: it answers another question")
    if answer.error:
        raise Failed(f"{node.name}: {answer.error}", hint=answer.hint)
    return answer

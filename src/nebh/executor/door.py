"""The executor's socket: closed schemas, bounded frames, peers known by the kernel's word."""

from __future__ import annotations

import base64
from collections.abc import Callable
from typing import Any

from nebh.client.frame_channel import FrameChannel, FrameServer, serve_frames
from nebh.executor.answers import Answers
from nebh.executor.context import Context
from nebh.executor.identity import Identity
from nebh.executor.intake import Intake
from nebh.executor.look import Look
from nebh.host import marks
from nebh.host.channels import Peer
from nebh.model.errors import BadInput, Refused
from nebh.model.event import Severity
from nebh.wire import codec

Head = dict[str, Any]
LOG_LIMIT = 1000
WAIT_LIMIT = 25_000


class Door:
    """Operations by name. `agent` ones are open to the agent and root, the others to root alone."""

    def __init__(self, context: Context, *, intake: Intake, look: Look, identity: Identity, answers: Answers) -> None:
        self._context = context
        self._intake = intake
        self._look = look
        self._identity = identity
        self._answers = answers
        self._agent: dict[str, Callable[[FrameChannel, Head, bytes], None]] = {
            "submit": self._submit,
            "poll": self._poll,
            "logs": self._logs,
            "question": self._question,
            "transport": self._transport,
        }
        self._root: dict[str, Callable[[FrameChannel, Head, bytes], None]] = {
            "status": self._status,
            "inspect": self._inspect,
            "rollback": self._rollback,
            "identity": self._identify,
            "enrol": self._enrol,
            "doctor": self._doctor,
            "debug": self._debug,
        }

    def serve(self, *, agent_uid: int, agent_gid: int) -> FrameServer:
        """Open the door."""
        return serve_frames(
            self._context.layout.executor_socket,
            mode=0o660,
            gid=agent_gid,
            handler=self._handle,
            allowed_uids=frozenset({0, agent_uid}),
        )

    def _handle(self, channel: FrameChannel, head: Head, body: bytes, peer: Peer) -> None:
        name = head.get("op", "")
        handler = self._agent.get(name)
        if handler is None:
            handler = self._root.get(name)
            if handler is not None and peer.uid != 0:
                self._context.event(
                    "door.refused",
                    f"user {peer.uid} asked the executor for {name}, which is root's alone",
                    severity=Severity.ALARM,
                    facts={"rule": "peer", "uid": str(peer.uid)},
                )
                raise Refused(f"only root on this node may ask for {name}", rule="peer")
        if handler is None:
            raise BadInput(f"cannot do {str(name)[:40]!r}: there is no such operation")
        handler(channel, head, body)

    # the agent's

    def _submit(self, channel: FrameChannel, head: Head, body: bytes) -> None:
        marks.mark("door.submit")
        kind = _take(head, {"op", "kind", "source"}, "kind")
        if kind == "assignment":
            self._intake.assignment(body)
        elif kind == "order":
            self._intake.orders.order(body)
        elif kind == "hint":
            self._intake.hint()
        else:
            raise BadInput(f"cannot take a {str(kind)[:40]!r}: assignment, order or hint")
        channel.send({"ok": True})

    def _poll(self, channel: FrameChannel, head: Head, _: bytes) -> None:
        """Answer {receipts, events, status} newer than what the agent has; wait for news for `wait_ms` at most."""
        receipt = _number(head, "receipt")
        event = _number(head, "event")
        wait = min(_number(head, "wait_ms"), WAIT_LIMIT)
        seen = self._context.news
        newest = self._context.outbox.newest()
        if newest[0] <= receipt and newest[1] <= event:
            self._context.wait_for_news(seen, seconds=wait / 1000)
        channel.send(self._look.news(receipt=receipt, event=event))

    def _logs(self, channel: FrameChannel, head: Head, _: bytes) -> None:
        """Answer {lines: [[instance, time, stream, text]], cursors: {instance: cursor}, lost}."""
        service = _take(head, {"op", "service", "instance", "cursors", "limit", "tail"}, "service")
        cursors = head.get("cursors", {})
        if not isinstance(cursors, dict) or not all(isinstance(v, str) for v in cursors.values()):
            raise BadInput("cannot read logs: cursors is not an object of strings")
        channel.send(
            self._look.logs(
                service=str(service),
                instance=str(head.get("instance", "")),
                cursors=cursors,
                limit=min(_number(head, "limit") or LOG_LIMIT, LOG_LIMIT),
                tail=_number(head, "tail"),
            )
        )

    def _question(self, channel: FrameChannel, _: Head, body: bytes) -> None:
        """Answer an operator's signed question: {box: base64}, sealed for whoever asked."""
        channel.send({"box": base64.b64encode(self._answers.answer(body)).decode()})

    def _transport(self, channel: FrameChannel, head: Head, _: bytes) -> None:
        """Sign the agent's own key for speaking to controllers; it is authority for nothing on a node."""
        public = _take(head, {"op", "public"}, "public")
        channel.send({"ok": True}, self._identity.sign_transport(str(public)))

    # root's

    def _status(self, channel: FrameChannel, _: Head, __: bytes) -> None:
        channel.send(self._look.status())

    def _inspect(self, channel: FrameChannel, head: Head, _: bytes) -> None:
        channel.send(self._look.inspect(str(head.get("service", ""))))

    def _rollback(self, channel: FrameChannel, head: Head, _: bytes) -> None:
        marks.mark("door.rollback")
        service = _take(head, {"op", "service", "to"}, "service")
        row = self._intake.roll_back(str(service), to=_number(head, "to"))
        channel.send({"ok": True, "transaction": row.id, "to": row.to_counter})

    def _identify(self, channel: FrameChannel, _: Head, __: bytes) -> None:
        channel.send(codec.to_plain(self._identity.describe()))

    def _enrol(self, channel: FrameChannel, head: Head, body: bytes) -> None:
        self._identity.enrol(
            cluster_id=str(_take(head, {"op", "cluster_id", "node_id", "name"}, "cluster_id")),
            node_id=str(head.get("node_id", "")),
            name=str(head.get("name", "")),
            root=body,
        )
        self._intake.hint()
        channel.send({"ok": True})

    def _doctor(self, channel: FrameChannel, _: Head, __: bytes) -> None:
        channel.send(self._look.doctor())

    def _debug(self, channel: FrameChannel, head: Head, _: bytes) -> None:
        name = _take(head, {"op", "instance"}, "instance")
        channel.send(self._look.debug(str(name)))


def _take(head: Head, allowed: set[str], name: str) -> object:
    unknown = sorted(head.keys() - allowed)
    if unknown:
        raise BadInput(f"cannot take this request: unknown field {unknown[0][:40]!r}")
    if name not in head:
        raise BadInput(f"cannot take this request: {name} is missing")
    return head[name]


def _number(head: Head, name: str) -> int:
    value = head.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < codec.MAX_INTEGER:
        raise BadInput(f"cannot take this request: {name} is not a whole number")
    return value

"""Helper processes: a single-threaded child, forked early, that does what its parent cannot or should not do itself.

`Worker.fork` makes one. It serves requests over a socket pair: `call` sends an operation's name, JSON values and file
descriptors, and returns what its handler returned. A helper ends with its parent: on end of file and by PDEATHSIG.

    worker = Worker.fork("networker", {"attach": attach})      # def attach(args, fds) -> Reply | JSON value
    result, fds = worker.call("attach", {"name": "nebh0800"})  # errors of the handler are raised here

Every worker also knows `run` and `spawn` (see `Worker.run`, `Worker.spawn`).
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

from nebh.host import processes
from nebh.host.namespaces import die_with_parent
from nebh.host.run import Command, Result
from nebh.host.spawn import STANDARD_HANDLERS, Reply, Spawn, encode_command, judge_outcome
from nebh.model import errors
from nebh.model.errors import Broken, Failed, NebhError, Refused

Handler = Callable[[dict[str, Any], tuple[int, ...]], Any]

_HEADER = struct.Struct(">I")
_MAX_FRAME = 64 * 1024 * 1024
_MAX_FDS = 16


class Worker:
    """The parent's side of a helper. Thread-safe; the helper does one thing at a time."""

    def __init__(self, *, name: str, pid: int, channel: socket.socket) -> None:
        self.name = name
        self.pid = pid
        self._channel = channel
        self._lock = threading.Lock()
        self._sequence = 0
        self._dead = ""

    @classmethod
    def fork(
        cls,
        name: str,
        handlers: Mapping[str, Handler],
        *,
        setup: Callable[[], None] | None = None,
        keep_fds: tuple[int, ...] = (),
    ) -> Worker:
        """Fork a helper. Call it from the main thread while there is no other: a fork keeps only the caller's thread.

        handlers: by operation; each gets the JSON object and the descriptors that came along (closed when it returns:
        duplicate what you keep) and returns a JSON value or a Reply. setup: runs in the child before it serves; if it
        raises, so does `fork`. keep_fds: inherited descriptors that stay open (all others above 2 are closed).
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        parent = os.getpid()
        pid = os.fork()
        if pid == 0:
            ours.close()
            _child(theirs, {**STANDARD_HANDLERS, **handlers}, setup=setup, keep_fds=keep_fds, parent=parent)
        theirs.close()
        worker = cls(name=name, pid=pid, channel=ours)
        try:
            worker.call("ready", timeout=30.0)
        except BaseException:
            worker.close()
            raise
        return worker

    def call(
        self,
        op: str,
        args: Mapping[str, Any] | None = None,
        *,
        fds: tuple[int, ...] = (),
        timeout: float = 60.0,
    ) -> tuple[Any, tuple[int, ...]]:
        """Do one operation; return its JSON value and the descriptors it sent (the caller's to close).

        Raises what the handler raised, as a class of nebh.model.errors; Failed when no answer came within `timeout`
        seconds (the helper may still be at it); Broken at once when the helper has died.
        """
        deadline = time.monotonic() + timeout
        if not self._lock.acquire(timeout=timeout):
            raise Failed(f"cannot {op}: the {self.name} was busy for {timeout:g} s")
        try:
            if self._dead:
                raise Broken(self._dead, hint="it is started anew together with its parent")
            self._sequence += 1
            head = {"id": self._sequence, "op": op, "args": dict(args or {})}
            try:
                self._channel.settimeout(max(0.001, deadline - time.monotonic()))
                self._send(head, fds)
                while True:
                    self._channel.settimeout(max(0.001, deadline - time.monotonic()))
                    answer, received = self._receive()
                    if answer["id"] == self._sequence:
                        break
                    _close_all(received)  # the late answer to a call that was given up
            except OSError as error:
                raise self._bury(op, error) from error
        finally:
            self._lock.release()
        if "error" in answer:
            _close_all(received)
            raise _decode_error(answer["error"])
        return answer["result"], received

    def _send(self, head: dict[str, Any], fds: tuple[int, ...]) -> None:
        try:
            _send(self._channel, head, fds)
        except TimeoutError as error:
            raise ConnectionError("it took only a part of the request") from error

    def _receive(self) -> tuple[dict[str, Any], tuple[int, ...]]:
        # a timeout in the middle of a frame would lose our place in the stream: only its first byte may time out
        first, fds = _receive_start(self._channel)
        self._channel.settimeout(30.0)
        try:
            return _receive_rest(self._channel, first), fds
        except TimeoutError as error:
            raise ConnectionError("half an answer") from error

    def _bury(self, op: str, error: OSError) -> NebhError:
        if isinstance(error, TimeoutError):
            return Failed(f"cannot {op}: the {self.name} did not answer in time")
        self._dead = f"cannot {op}: the {self.name} (process {self.pid}) has died: {error}"
        return Broken(self._dead)

    def run(self, command: Command) -> Result:
        """Run a command to its end inside the helper (in its namespaces); as `nebh.host.run.run`."""
        outcome, _ = self.call("run", encode_command(command), timeout=(command.timeout or 3600.0) + 5.0)
        return judge_outcome(command, outcome)

    def spawn(self, spawn: Spawn) -> processes.ProcessId:
        """Start a detached process that outlives helper and parent. Raises Failed when it cannot be executed."""
        value, _ = self.call("spawn", spawn.encode())
        return processes.ProcessId(pid=value["pid"], started=value["started"])

    def is_alive(self) -> bool:
        """Tell whether the helper still runs."""
        return not self._dead and processes.identify(self.pid) is not None

    def close(self) -> None:
        """End the helper: it sees end of file; after 2 s it is killed."""
        self._dead = self._dead or f"cannot use the {self.name}: it was closed"
        self._channel.close()
        deadline = time.monotonic() + 2.0
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(self.pid, os.WNOHANG)[0] == 0:
                if time.monotonic() > deadline:
                    os.kill(self.pid, signal.SIGKILL)
                    os.waitpid(self.pid, 0)
                    break
                time.sleep(0.005)


def _child(
    channel: socket.socket,
    handlers: Mapping[str, Handler],
    *,
    setup: Callable[[], None] | None,
    keep_fds: tuple[int, ...],
    parent: int,
) -> NoReturn:
    status = 1
    try:
        die_with_parent(parent=parent)
        _close_inherited({0, 1, 2, channel.fileno(), *keep_fds})
        signal.set_wakeup_fd(-1)
        # a handler, not SIG_IGN: what is ignored stays ignored in programs we execute
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        _serve(channel, handlers, setup)
    except ConnectionError:
        status = 0  # end of file: the parent has ended
    finally:
        os._exit(status)


def _serve(channel: socket.socket, handlers: Mapping[str, Handler], setup: Callable[[], None] | None) -> NoReturn:
    problem: dict[str, str] | None = None
    if setup is not None:
        try:
            setup()
        except Exception as error:
            problem = _encode_error("set up the helper", error)
    while True:
        first, fds = _receive_start(channel)
        head = _receive_rest(channel, first)
        answer: dict[str, Any] = {"id": head["id"]}
        reply = Reply(result=None)
        try:
            if problem is not None:
                answer["error"] = problem
            elif head["op"] != "ready":
                reply = _answer(handlers, head, fds)
        except Exception as error:
            answer["error"] = _encode_error(head["op"], error)
        finally:
            _close_all(fds)
        if "error" not in answer:
            answer["result"] = reply.result
        _send(channel, answer, reply.fds)
        _close_all(reply.fds)


def _answer(handlers: Mapping[str, Handler], head: dict[str, Any], fds: tuple[int, ...]) -> Reply:
    handler = handlers.get(head["op"])
    if handler is None:
        raise Broken(f"cannot {head['op']}: the helper knows no such operation")
    value = handler(head["args"], fds)
    reply = value if isinstance(value, Reply) else Reply(result=value)
    return replace(reply, result=json.loads(json.dumps(reply.result)))  # what is no JSON fails here, with its name


def _send(channel: socket.socket, head: Mapping[str, Any], fds: tuple[int, ...]) -> None:
    body = json.dumps(head, ensure_ascii=False).encode()
    frame = memoryview(_HEADER.pack(len(body)) + body)
    sent = socket.send_fds(channel, [frame], list(fds)) if fds else channel.send(frame)
    while sent < len(frame):
        sent += channel.send(frame[sent:])


def _receive_start(channel: socket.socket) -> tuple[bytes, tuple[int, ...]]:
    data, fds, flags, _ = socket.recv_fds(channel, _HEADER.size, _MAX_FDS, socket.MSG_CMSG_CLOEXEC)
    if not data:
        raise ConnectionError("end of file")
    if flags & socket.MSG_CTRUNC:
        raise ConnectionError("too many descriptors")
    return data, tuple(fds)


def _receive_rest(channel: socket.socket, start: bytes) -> dict[str, Any]:
    header = start + _receive_exactly(channel, _HEADER.size - len(start))
    (length,) = _HEADER.unpack(header)
    if length > _MAX_FRAME:
        raise ConnectionError(f"a frame of {length} bytes")
    value: dict[str, Any] = json.loads(_receive_exactly(channel, length))
    return value


def _receive_exactly(channel: socket.socket, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        data = channel.recv(min(count - len(parts), 1 << 20))
        if not data:
            raise ConnectionError("end of file")
        parts += data
    return bytes(parts)


def _encode_error(op: str, error: Exception) -> dict[str, str]:
    if isinstance(error, NebhError):
        known = next(kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__)
        rule = error.rule if isinstance(error, Refused) else ""
        return {"kind": known, "message": error.message, "hint": error.hint, "rule": rule}
    kind = "Failed" if isinstance(error, OSError) else "Broken"
    text = str(error) if isinstance(error, OSError) else f"{type(error).__name__}: {error}"
    return {"kind": kind, "message": f"cannot {op}: {text}", "hint": "", "rule": ""}


def _decode_error(value: dict[str, str]) -> NebhError:
    if value["kind"] == "Refused":
        return Refused(value["message"], rule=value["rule"], hint=value["hint"])
    kind = getattr(errors, value["kind"], None)
    if not (isinstance(kind, type) and issubclass(kind, NebhError)) or kind is errors.SpecErrors:
        return Broken(value["message"], hint=value["hint"])
    return kind(value["message"], hint=value["hint"])


def _close_all(fds: tuple[int, ...]) -> None:
    for descriptor in fds:
        with contextlib.suppress(OSError):
            os.close(descriptor)


def _close_inherited(kept: set[int]) -> None:
    for entry in tuple(Path("/proc/self/fd").iterdir()):
        if int(entry.name) not in kept:
            with contextlib.suppress(OSError):
                os.close(int(entry.name))

"""The program in every image of the tests: a web server, a line server, a worker or a check, by the name it is run as.

Runs inside containers on the standard library alone; `example_images` finds out which modules that takes.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading
import time
from _sha1 import sha1  # type: ignore[import-not-found]
from _sha256 import sha256  # type: ignore[import-not-found]
from _thread import LockType
from binascii import b2a_base64

VERSION_FILE = "/usr/lib/example/version"
WORK = {"unready": False, "dead": False, "busy": 0, "ending": False}
LOCK: LockType = threading.Lock()
HOARD: list[bytearray] = []
HELD: list[socket.socket] = []


def version() -> str:
    """Return which build of the image this is."""
    with open(VERSION_FILE, encoding="utf-8") as file:  # noqa: PTH123 - an image without pathlib
        return file.read().strip()


def words_of(argv: list[str]) -> dict[str, str]:
    """Return `--name value` pairs; a name without a value is "yes"."""
    found: dict[str, str] = {}
    for place, word in enumerate(argv):
        if word.startswith("--"):
            after = argv[place + 1] if place + 1 < len(argv) else "--"
            found[word[2:]] = "yes" if after.startswith("--") else after
    return found


def listen(port: int) -> socket.socket:
    """Return a socket that listens on every address."""
    both = socket.AF_INET6 if socket.has_ipv6 and os.access("/proc/net/if_inet6", os.R_OK) else socket.AF_INET
    server = socket.socket(both)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if both == socket.AF_INET6:
        server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("", port))
    server.listen(256)
    return server


def say(text: str) -> None:
    """Write one line to the log."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


# what requests can ask for


def reach(host: str, port: int) -> str:
    """Connect and ask who is there; say what came of it."""
    try:
        with socket.create_connection((host, port), timeout=2) as other:
            other.sendall(b"who\n")
            return f"connected {other.recv(100).decode(errors='replace').strip()}"
    except OSError as error:
        return f"failed {type(error).__name__} {error}"


def held(options: dict[str, str]) -> str:
    """Ask the database over one connection that stays open."""
    if not HELD:
        host, _, port = options["database"].rpartition(":")
        HELD.append(socket.create_connection((host, int(port)), timeout=5))
    try:
        HELD[0].sendall(b"who\n")
        return HELD[0].recv(100).decode().strip() or "ended"
    except OSError as error:
        return f"ended: {error}"


def resolve(name: str) -> str:
    """Look a name up; say the addresses or what went wrong."""
    try:
        return "addresses " + " ".join(sorted({str(one[4][0]) for one in socket.getaddrinfo(name, 80)}))
    except OSError as error:
        return f"failed {error}"


def hook() -> str:
    """Run the image's shell once."""
    code = os.waitstatus_to_exitcode(os.waitpid(os.posix_spawn("/bin/sh", ["sh", "-c", "exit 7"], {}), 0)[1])
    return f"the hook ended with {code}"


def misbehave(what: str, argument: str) -> str:
    """Do what tests want to see Nebh react to."""
    if what == "exit":
        os._exit(int(argument))
    if what == "oom":
        while True:
            HOARD.append(bytearray(os.urandom(1 << 20)))
    if what == "flood":
        threading.Thread(target=flood, args=(int(argument),), daemon=True).start()
    elif what == "say":
        say(argument)
    else:
        WORK[what] = argument == "yes"
    return f"{what} {argument}"


def flood(size: int) -> None:
    """Print `size` bytes as fast as they are taken."""
    number = 0
    while size > 0:
        line = f"flood {number:09d} {'x' * 80}"
        say(line)
        size -= len(line) + 1
        number += 1


def answer(path: str, body: bytes, options: dict[str, str]) -> tuple[int, str]:
    """Return status and text of a request."""
    words = path.partition("?")[0].strip("/").split("/")
    if words[0] == "ready":
        there = "database" not in options or reach_database(options).startswith("connected")
        return (503, "not ready") if WORK["unready"] or not there else (200, "ok")
    if words[0] == "alive":
        return (503, "dead") if WORK["dead"] else (200, "ok")
    if words[0] == "order":
        return 200, '{"total": 42}'
    if words[0] == "do":
        return 200, misbehave(words[1], words[2])
    if words[0] == "reach":
        return 200, reach(words[1], int(words[2]))
    if words[0] == "database":
        return 200, reach_database(options)
    if words[0] == "held":
        return 200, held(options)
    if words[0] == "resolve":
        return 200, resolve(words[1])
    if words[0] == "hook":
        return 200, hook()
    if words[0] == "env":
        return 200, os.environ.get(words[1], "")
    digest = f', "digest": "{sha256(body).hexdigest()}"' if body else ""
    return 200, f'{{"version": "{version()}", "host": "{socket.gethostname()}", "path": "{path}"{digest}}}'


def reach_database(options: dict[str, str]) -> str:
    """Ask the database that the command line names who it is."""
    host, _, port = options["database"].rpartition(":")
    return reach(host, int(port))


# servers


def serve_http(connection: socket.socket, options: dict[str, str]) -> None:
    """Answer requests of one connection until it ends."""
    file = connection.makefile("rb")
    while first := file.readline():
        received = time.monotonic_ns()
        headers = {}
        while line := file.readline().decode("latin-1").strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        path = first.split()[1].decode()
        body = file.read(int(headers.get("content-length", 0)))
        if headers.get("upgrade") or path.startswith("/events"):
            stream(connection, file.readline, key=headers.get("sec-websocket-key", ""))
            return
        status, text = answer(path, body, options)
        data = text.encode() + b"\n"
        closing = WORK["ending"] or headers.get("connection", "").lower() == "close"
        last = "Connection: close\r\n" if closing else ""
        head = f"HTTP/1.1 {status} .\r\nContent-Type: text/plain\r\nContent-Length: {len(data)}\r\n{last}"
        connection.sendall(f"{head}Received: {received}\r\n\r\n".encode() + data)
        if closing:
            return


def stream(connection: socket.socket, readline: object, *, key: str) -> None:
    """A connection that stays: lines come back (upgraded by a websocket's key), or an event comes every half second
    until we end."""
    if key:
        accept = b2a_base64(sha1(key.encode() + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest(), newline=False)
        head = b"HTTP/1.1 101 .\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
        connection.sendall(head + accept + b"\r\n\r\n")
        while line := readline():  # type: ignore[operator]
            connection.sendall(version().encode() + b" " + line)
        return
    connection.sendall(b"HTTP/1.1 200 .\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")
    while not WORK["ending"]:
        connection.sendall(f"data: {version()}\n\n".encode())
        time.sleep(0.5)
    connection.sendall(b"data: goodbye\n\n")


def serve_lines(connection: socket.socket, _: dict[str, str]) -> None:
    """Answer each line with who we are."""
    for _line in connection.makefile("rb"):
        connection.sendall(f"{version()}\n".encode())


def guarded(serve: object, connection: socket.socket, options: dict[str, str]) -> None:
    """Serve one connection; count it while it lasts."""
    with LOCK:
        WORK["busy"] += 1
    try:
        with connection:
            serve(connection, options)  # type: ignore[operator]
    except OSError:
        pass
    finally:
        with LOCK:
            WORK["busy"] -= 1


def end(*_: object) -> None:
    """Finish what is under way for at most two seconds, then exit."""
    if not WORK["ending"]:
        WORK["ending"] = True
        threading.Thread(target=finish).start()


def finish() -> None:
    """See `end`."""
    deadline = time.monotonic() + 2
    while WORK["busy"] and time.monotonic() < deadline:
        time.sleep(0.05)
    say("ending")
    os._exit(0)


def check(options: dict[str, str]) -> int:
    """Be a check: 0 passes."""
    if "compute" in options:
        return 0 if 6 * 7 == 42 else 1
    return 0


def main() -> None:
    """Be what the name says."""
    name = sys.argv[0].rpartition("/")[2]
    options = words_of(sys.argv[1:])
    if name.endswith("-check") or "check" in options:
        raise SystemExit(check(options))
    threading.stack_size(256 << 10)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    say(f"{name} {version()} starts")
    port = int(options.get("port") or options.get("listen", ":0").rpartition(":")[2])
    if name == "mailer":
        port = 8080
    if not port:
        while True:
            signal.pause()
    server = listen(port)
    serve = serve_lines if name == "db" else serve_http
    while True:
        connection, _ = server.accept()
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        threading.Thread(target=guarded, args=(serve, connection, options), daemon=True).start()


if __name__ == "__main__":
    main()

"""The demo's web application: every request counts in Redis and is answered with version, instance and count.

GET /        {"version", "instance", "counter"}
POST /echo   the same with {"digest": SHA-256 of the body, "bytes"}
GET /ready   200 once Redis answers, else 503
GET /health  200, or 503 once the release's behaviour says so; everything else goes on answering correctly

Version and behaviour come from VERSION and BEHAVIOUR in the environment, else from files beside this one. Behaviours:
`health-fails-after-seconds=N`, `health-fails-after-requests=N`.
"""

import hashlib
import json
import logging
import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import redis  # type: ignore[import-untyped, import-not-found, unused-ignore]
import waitress  # type: ignore[import-untyped, import-not-found, unused-ignore]

HERE = Path(__file__).parent
MAX_BODY = 1 << 20


class Counter:
    """The count in Redis, over one connection per thread, made anew whenever it breaks."""

    def __init__(self, host: str, port: int) -> None:
        self._redis = redis.Redis(
            host=host, port=port, socket_timeout=1.0, socket_connect_timeout=0.5, socket_keepalive=True
        )

    def next(self, patience: float = 3.5) -> int:
        """Add one and return the count; keep trying while Redis restarts. Raises redis.RedisError."""
        deadline = time.monotonic() + patience
        while True:
            try:
                return int(self._redis.incr("requests"))
            except (redis.ConnectionError, redis.TimeoutError, redis.BusyLoadingError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)

    def answers(self) -> bool:
        """Tell whether Redis is there."""
        try:
            return bool(self._redis.ping())
        except redis.RedisError:
            return False


class Behaviour:
    """Decides when /health begins to fail."""

    def __init__(self, text: str) -> None:
        name, _, value = text.partition("=")
        self._seconds = float(value) if name == "health-fails-after-seconds" else None
        self._requests = int(value) if name == "health-fails-after-requests" else None
        self._begin = time.monotonic()

    def is_healthy(self, served: int) -> bool:
        """Tell what /health should say."""
        if self._seconds is not None and time.monotonic() - self._begin > self._seconds:
            return False
        return self._requests is None or served <= self._requests


class Application:
    """A WSGI application that knows how many requests are under way."""

    def __init__(self, version: str, behaviour: Behaviour, counter: Counter) -> None:
        self.version = version
        self.behaviour = behaviour
        self.counter = counter
        self.instance = os.uname().nodename
        self.stopping = False
        self._lock = threading.Lock()
        self._served = 0
        self.running = 0

    def __call__(self, environ: dict[str, Any], start_response: Any) -> list[bytes]:
        with self._lock:
            self.running += 1
        try:
            status, value = self.answer(environ)
        finally:
            with self._lock:
                self.running -= 1
        data = json.dumps({"version": self.version, "instance": self.instance, **value}).encode() + b"\n"
        headers = [("Content-Type", "application/json"), ("Content-Length", str(len(data)))]
        headers += [("X-Version", self.version), ("Cache-Control", "no-store")]
        if self.stopping:
            headers.append(("Connection", "close"))
        start_response(status, headers)
        return [data]

    def answer(self, environ: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Return status line and value."""
        what = (environ["REQUEST_METHOD"], environ["PATH_INFO"])
        if what == ("GET", "/ready"):
            return ("200 OK", {"ready": True}) if self.counter.answers() else ("503 Not Ready", {"ready": False})
        if what == ("GET", "/health"):
            healthy = self.behaviour.is_healthy(self._served)
            return ("200 OK", {"healthy": True}) if healthy else ("503 Unhealthy", {"healthy": False})
        if what == ("GET", "/"):
            return self.count({})
        if what == ("POST", "/echo"):
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
            return self.count({"digest": hashlib.sha256(body).hexdigest(), "bytes": len(body)})
        return "404 Not Found", {"error": "no such path"}

    def count(self, value: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """Count a request."""
        try:
            number = self.counter.next()
        except redis.RedisError as error:
            return "503 No Database", {"error": type(error).__name__}
        with self._lock:
            self._served += 1
        return "200 OK", {"counter": number, **value}


def end_gently(application: Application, sockets: dict[int, Any]) -> None:
    """Finish what runs, send what is answered, then end. As PID 1 nothing but a handler makes SIGTERM work."""
    application.stopping = True
    deadline = time.monotonic() + 8.0
    while time.monotonic() < deadline:
        channels = [one for one in list(sockets.values()) if hasattr(one, "total_outbufs_len")]
        if application.running == 0 and not any(one.requests or one.total_outbufs_len for one in channels):
            break
        time.sleep(0.02)
    print("ended gently", flush=True)
    os._exit(0)


def setting(name: str) -> str:
    """Return a setting from the environment, else from a file."""
    file = HERE / name
    return os.environ.get(name.upper()) or (file.read_text(encoding="utf-8").strip() if file.exists() else "")


def main() -> None:
    """Serve until SIGTERM."""
    host, _, port = os.environ.get("REDIS", "db.nebh.internal:6379").rpartition(":")
    application = Application(
        setting("version") or "unknown", Behaviour(setting("behaviour")), Counter(host, int(port))
    )
    listen = f"*:{os.environ.get('PORT', '8080')}"
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)  # it reports every request that waits for a thread
    sockets: dict[int, Any] = {}
    limits = {"threads": 8, "max_request_body_size": MAX_BODY, "channel_timeout": 300, "connection_limit": 500}
    try:
        server = waitress.create_server(application, map=sockets, listen=listen, **limits)
    except OSError:  # no IPv6 here
        sockets.clear()
        server = waitress.create_server(application, map=sockets, listen=listen.replace("*", "0.0.0.0"), **limits)

    def stop(_number: int, _frame: object) -> None:
        threading.Thread(target=end_gently, args=(application, sockets), daemon=True).start()

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)
    print(f"serving {application.version} on {listen} as {application.instance}", flush=True)
    server.run()


if __name__ == "__main__":
    main()

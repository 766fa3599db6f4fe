"""Notes in a database: POST / adds one and answers its number, GET / lists them all. Knows both layouts of the table."""

import http.server
import os
import threading
from collections.abc import Callable
from typing import Any

import pg8000.native

LOCK = threading.Lock()
ADD = {
    1: "INSERT INTO notes SELECT COALESCE(MAX(number), 0) + 1, 'Ada Lovelace', :body FROM notes RETURNING number",
    2: "INSERT INTO notes (number, first, last, body)"
    " SELECT COALESCE(MAX(number), 0) + 1, 'Ada', 'Lovelace', :body FROM notes RETURNING number",
}
LIST = {
    1: "SELECT number, author, body FROM notes ORDER BY number",
    2: "SELECT number, first || ' ' || last, body FROM notes ORDER BY number",
}


def layout(connection: Any) -> int:
    """Return which layout the table has."""
    columns = "SELECT 1 FROM information_schema.columns WHERE table_name = 'notes' AND column_name = 'first'"
    rows = connection.run(columns)
    return 2 if rows else 1


class Notes(http.server.BaseHTTPRequestHandler):
    """One request, one connection."""

    def do_GET(self) -> None:
        """List."""
        self._answer(lambda connection, kind: connection.run(LIST[kind]))

    def do_POST(self) -> None:
        """Add."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode() or "hello"
        self._answer(lambda connection, kind: connection.run(ADD[kind], body=body))

    def _answer(self, act: Callable[[Any, int], Any]) -> None:
        try:
            host, port = os.environ.get("DATABASE", "db.nebh.internal"), int(os.environ.get("PORT", "5432"))
            with LOCK, pg8000.native.Connection("postgres", host=host, port=port, timeout=5) as connection:
                rows = act(connection, layout(connection))
            status, text = 200, "".join(" | ".join(map(str, row)) + "\n" for row in rows)
        except (OSError, pg8000.native.InterfaceError, pg8000.native.DatabaseError) as error:
            status, text = 503, f"the database does not answer: {error}\n"
        data = text.encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nebh's proxy logs requests."""


http.server.ThreadingHTTPServer(("", 8080), Notes).serve_forever()

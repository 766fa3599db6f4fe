"""What people read while the demo runs: lines that stay, and on a terminal one line that changes."""

from __future__ import annotations

import os
import sys
import threading
import time
from typing import TextIO

_COLOURS = {"red": "31", "green": "32", "bold": "1", "dim": "2"}


class Story:
    """Writes to standard output, or to another stream; safe to use from several threads."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._begin = time.monotonic()
        self._lock = threading.Lock()
        self._stream = sys.stdout if stream is None else stream
        self._live = self._stream.isatty() and os.environ.get("TERM") != "dumb"
        self._colourful = self._live and "NO_COLOR" not in os.environ
        self._open_line = False

    def act(self, number: int, count: int, title: str) -> None:
        """Begin an act."""
        self.say("")
        self.say(self._paint(f"act {number} of {count}: {title}", "bold"))

    def say(self, text: str) -> None:
        """Tell what happens."""
        clock = self._paint(f"{time.monotonic() - self._begin:6.1f} s  ", "dim") if text else ""
        self._write(f"{clock}{text}\n")

    def proof(self, ok: bool, text: str) -> None:
        """Tell what was measured, and whether it is as it should be."""
        mark = self._paint("proven", "green") if ok else self._paint("NOT PROVEN", "red")
        self.say(f"  {mark}: {text}")

    def progress(self, text: str) -> None:
        """Replace the line that changes; nothing where there is no terminal."""
        if self._live:
            with self._lock:
                self._stream.write(f"\r\033[K          {text}")
                self._stream.flush()
                self._open_line = True

    def clear(self) -> None:
        """Remove the line that changes."""
        self._write("")

    def _write(self, text: str) -> None:
        with self._lock:
            if self._open_line:
                self._stream.write("\r\033[K")
                self._open_line = False
            self._stream.write(text)
            self._stream.flush()

    def _paint(self, text: str, colour: str) -> str:
        return f"\033[{_COLOURS[colour]}m{text}\033[0m" if self._colourful else text

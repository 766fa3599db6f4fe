"""A prompt connection answers in order, and comes back when the other side went away."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from nebh.host.unix import PromptConnection
from nebh.model.errors import Unreachable


class Prompter:
    """Answers each command with itself; `die` closes the connection instead of an answer."""

    def __init__(self, path: Path) -> None:
        self.prompt = b"> "
        self.lines: list[str] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(5)

    def _serve(self) -> None:
        try:
            while True:
                stream, _ = self._listener.accept()
                with stream, stream.makefile("rwb") as file:
                    self._talk(file)
        except OSError:
            return

    def _talk(self, file) -> None:
        for line in file:
            text = line.decode().strip()
            if text == "prompt":
                file.write(b"\n" + self.prompt)
            else:
                self.lines.append(text)
                if text == "die":
                    return
                for command in text.split(";"):
                    file.write(b"" if command == "quiet" else command.encode() + b"\n")
                    file.write(b"\n" + self.prompt)
            file.flush()
            if text == "last":
                return


@pytest.fixture
def prompter(short_folder: Path) -> Iterator[Prompter]:
    prompter = Prompter(short_folder / "p.sock")
    yield prompter
    prompter.close()


@pytest.mark.parametrize("prompt", [b"> ", b"master> ", b"master[ReloadFailed]> "])
def test_answers_come_in_order_and_in_one_write(prompter: Prompter, short_folder: Path, prompt: bytes) -> None:
    prompter.prompt = prompt
    connection = PromptConnection(short_folder / "p.sock")
    assert connection.ask(("one", "quiet", "three")) == ("one", "", "three")
    assert prompter.lines == ["one;quiet;three"]
    assert connection.ask(()) == ()
    many = tuple(f"c{number}" for number in range(150))
    assert connection.ask(many) == many
    assert connection.connections == 1
    connection.close()


def test_it_connects_again_once(prompter: Prompter, short_folder: Path) -> None:
    connection = PromptConnection(short_folder / "p.sock")
    assert connection.ask(("last",)) == ("last",)
    assert connection.ask(("again",)) == ("again",)
    assert connection.connections == 2
    with pytest.raises(Unreachable):
        connection.ask(("die",))
    assert prompter.lines[-2:] == ["die", "die"]
    assert connection.ask(("alive",)) == ("alive",)
    connection.close()


def test_nobody_there(short_folder: Path) -> None:
    with pytest.raises(Unreachable, match=r"p\.sock"):
        PromptConnection(short_folder / "p.sock").ask(("x",))

"""The one error tree.

NebhError
├── BadInput          the person's input is wrong (exit 2)
│   └── SpecErrors    every problem of a spec file, all at once
├── Refused           a rule (N0-N16, O1-O5) says no (exit 3); carries the rule
├── Unconfirmed       nothing was refused, nothing confirmed it either (exit 4)
├── Unreachable       the other side did not answer (exit 5)
├── Conflict          somebody else was first: another operator, a running transaction (exit 6)
├── NotFound          no such service, release, node (exit 7)
├── Failed            it was tried and did not work; the old state stands (exit 8)
└── Broken            a promise of the machine or of our own code does not hold (exit 9)

A message reads "cannot <verb> <thing>: <cause>"; `hint` says what to do. Code that decides on an
error looks at its class and fields, never at its text.
"""

from __future__ import annotations

from dataclasses import dataclass


class NebhError(Exception):
    """Base of all errors that a person may see. `exit_status` is what the CLI ends with."""

    exit_status = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class BadInput(NebhError):
    """What the caller handed in is wrong."""

    exit_status = 2


class Refused(NebhError):
    """A rule says no. `rule` is its name in docs/security.md, such as `N5`; alarm: somebody may be attacking."""

    exit_status = 3

    def __init__(self, message: str, *, rule: str, hint: str = "", alarm: bool = True) -> None:
        super().__init__(message, hint=hint)
        self.rule = rule
        self.alarm = alarm


class Unconfirmed(NebhError):
    """The nodes' own receipts did not confirm the command in time."""

    exit_status = 4


class Unreachable(NebhError):
    """The controller, node or program did not answer."""

    exit_status = 5


class Conflict(NebhError):
    """Somebody else was first."""

    exit_status = 6


class NotFound(NebhError):
    """No such thing."""

    exit_status = 7


class Failed(NebhError):
    """It was tried and did not work; what ran before runs on."""

    exit_status = 8


class Broken(NebhError):
    """The machine or our own code broke a promise."""

    exit_status = 9


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One thing wrong with an input file: where (1-based line and column, 0 = unknown), which field, what."""

    file: str
    line: int
    column: int
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        text = f"{place}: {self.path}: {self.message}" if self.path else f"{place}: {self.message}"
        return f"{text} ({self.hint})" if self.hint else text


class SpecErrors(BadInput):
    """All problems of one input, ordered by line."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems

"""The fields `config:` and `files:` of a service spec."""

from __future__ import annotations

from nebh.model.config_layer import SCALARS, TYPES
from nebh.model.names import NAME_PATTERN
from nebh.spec.shape import Choice, Either, Field, Flag, Free, Listing, Section, Table, Text, Whole

_MOST = 2**53 - 1
_WORD = r"[A-Za-z0-9_][A-Za-z0-9_-]{0,63}"
KEY = Text(
    expects="a key such as db.port (letters, digits, _ and -; dots part levels)", pattern=rf"{_WORD}(\.{_WORD})*"
)
TEMPLATE = Text(
    expects="a template such as template/postgres or machine/linux", pattern=rf"(?:template|machine)/{NAME_PATTERN}"
)
STRATEGY = Text(
    expects="replace, append, prepend, delete or `by NAME`", pattern=rf"replace|append|prepend|delete|by {_WORD}"
)
SIGNALS = ("HUP", "USR1", "USR2", "TERM", "INT", "QUIT", "WINCH")

KEY_RULE = Section(
    fields=(
        Field(key="type", shape=Choice(values=TYPES), doc="Kind of value.", required=True),
        Field(key="required", shape=Flag(), doc="Some layer must give it.", default="false"),
        Field(key="default", shape=Free(), doc="Value where no layer gives one."),
        Field(key="enum", shape=Listing(item=Free(), least=1), doc="The only values allowed."),
        Field(key="pattern", shape=Text(expects="a regular expression"), doc="What the whole text must match."),
        Field(key="items", shape=Choice(values=(*SCALARS, "map")), doc="Kind of a list's items."),
        Field(key="low", shape=Whole(low=-_MOST, high=_MOST), doc="Smallest number allowed."),
        Field(key="high", shape=Whole(low=-_MOST, high=_MOST), doc="Largest number allowed."),
        Field(
            key="merge",
            shape=STRATEGY,
            doc="How a higher layer's value meets a lower one's, where the layer itself does not say.",
            default="maps merge, all else replaces",
        ),
    )
)

CONFIG = Section(
    fields=(
        Field(key="values", shape=Free(), doc="Values of this service: a mapping, as deep as needed."),
        Field(
            key="merge",
            shape=Table(key=KEY, item=STRATEGY),
            doc="By key: `replace`, `append`, `prepend`, `by NAME` (lists of maps) or `delete` what lower layers say.",
        ),
        Field(
            key="extends",
            shape=Listing(item=TEMPLATE, unique=True, instead="write a list: [template/postgres]"),
            doc="Templates below these values, the first one lowest.",
        ),
        Field(
            key="schema",
            shape=Table(key=KEY, item=Either(short=Choice(values=TYPES), long=KEY_RULE), most=2000),
            doc="What keys there are, each with its type. Once it stands, a service sees no other keys.",
        ),
    )
)

FILE = Section(
    fields=(
        Field(
            key="path",
            shape=Text(expects="an absolute path in the container", pattern=r"/[^\n]*"),
            doc="Where the program finds it.",
            required=True,
        ),
        Field(
            key="template",
            shape=Text(expects="a path", pattern=r"[^\n]+"),
            doc="File with its template (Jinja2) on this computer; relative paths start at the spec file's folder.",
        ),
        Field(key="text", shape=Text(expects="text", numbers=True, longest=65_536), doc="The template itself."),
        Field(
            key="mode",
            shape=Text(expects='permission bits such as "0444"', pattern="0?[0-7]{3}", numbers=True),
            doc="Its permission bits, in quotes.",
            default='"0444"',
        ),
        Field(
            key="on_change",
            shape=Choice(values=("restart", "reload", "nothing")),
            doc="What follows when a release changes this file's text and nothing else.",
            default="restart",
        ),
        Field(
            key="signal", shape=Choice(values=SIGNALS), doc="With `on_change: reload`: the signal that it is told by."
        ),
        Field(
            key="argv",
            shape=Listing(
                item=Text(expects="text", numbers=True), least=1, instead="write a list: [/usr/bin/app, reload]"
            ),
            doc="With `on_change: reload`: the program of the image that tells it.",
        ),
    ),
    one_of=("template", "text"),
)

"""`nebh config explain`: where every value, and every line of every rendered file, comes from."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nebh.cli.config_bundles import Prepared, fetch_bundle, render_all
from nebh.cli.config_release import facts_on
from nebh.cli.output import Output, harmless
from nebh.cli.services import policy_of
from nebh.cli.session import Session
from nebh.model.config_layer import NodeFacts, Origin
from nebh.model.errors import NotFound
from nebh.model.release import Release
from nebh.model.rendering import LineOrigin, Use
from nebh.planning.config_bundle import resolve
from nebh.planning.config_merge import Explained
from nebh.planning.config_merge import explain as explain_tree
from nebh.planning.config_values import RESERVED, show_value

if TYPE_CHECKING:
    from nebh.signing.repository import State


@dataclass(frozen=True, kw_only=True)
class _Asked:
    release: Release
    prepared: Prepared
    facts: NodeFacts


def explain(options: argparse.Namespace, out: Output) -> int:
    """Show the values of a service on a node, or the lines of a file, each with its origin."""
    asked = _ask(Session(options, out), options)
    if not out.json_wanted:
        out.note(f"{options.service} release {asked.release.counter} on {asked.facts.name}")
    return _lines(options, out, asked) if options.file else _values(options, out, asked)


def _ask(session: Session, options: argparse.Namespace) -> _Asked:
    state = session.state(wanted=None)
    policy = policy_of(state, options.service)
    release = _release(state, options.service, policy.epoch, options.release)
    return _Asked(release=release, prepared=fetch_bundle(session, release), facts=facts_on(state, policy, options.node))


def _release(state: State, service: str, epoch: int, counter: int) -> Release:
    mine = [one for one in state.trusted.releases.values() if (one.service, one.epoch) == (service, epoch)]
    found = [one for one in mine if counter in {0, one.counter}]
    if not found:
        raise NotFound(
            f"cannot find release {counter or 'any'} of {service}", hint=f"`nebh releases {service}` lists them"
        )
    return max(found, key=lambda one: one.counter)


def _values(options: argparse.Namespace, out: Output, asked: _Asked) -> int:
    rows = explain_tree(resolve(asked.prepared.bundle, asked.facts), options.key)
    if not rows:
        raise NotFound(
            f"cannot explain {options.key!r}: no layer of {options.service} on {asked.facts.name} says it",
            hint=f"`nebh config explain {options.service}` shows what there is",
        )
    if out.json_wanted:
        out.document({**_head(options, asked), "values": [_plain(one) for one in rows]})
        return 0
    for one in rows:
        value = "(deleted)" if one.value is None else show_value(one.value)
        out.say(harmless(f"{one.key} = {value}"))
        out.say(f"  from {_said(one.origin, asked.release)}")
        for other in reversed(one.overrode):
            was = "its deletion" if other.value is None else show_value(other.value)
            out.say(harmless(f"  over {was} from {_said(other.origin, asked.release)}"))
    return 0


def _lines(options: argparse.Namespace, out: Output, asked: _Asked) -> int:
    known = [path for path, _ in asked.prepared.files]
    if options.file not in known:
        raise NotFound(
            f"cannot explain {options.file}: it is no file of {options.service}", hint=f"there are: {', '.join(known)}"
        )
    (rendering,) = render_all(asked.prepared, (asked.facts,), origins=True)
    file = next(one for one in rendering.files if one.path == options.file)
    texts = file.text.split("\n")[: len(file.lines)]
    if out.json_wanted:
        rows = [{"text": text, **_line(one)} for text, one in zip(texts, file.lines, strict=True)]
        out.document({**_head(options, asked), "file": options.file, "lines": rows})
        return 0
    for number, (text, one) in enumerate(zip(texts, file.lines, strict=True), start=1):
        out.say(harmless(f"{number:4} {text}"))
        out.say(f"       {one.template}:{one.line}{_uses(one, asked.release)}")
    return 0


def _uses(line: LineOrigin, release: Release) -> str:
    values, conditions = _named(line.values, release), _named(line.conditions, release)
    said = f"; {values}" if values else ""
    return f"{said}; there because of {conditions}" if conditions else said


def _named(uses: Iterable[Use], release: Release) -> str:
    return ", ".join(f"{one.key} from {_said(Origin(layer=one.layer, version=one.version), release)}" for one in uses)


def _said(origin: Origin, release: Release) -> str:
    if origin.layer == "spec":
        return f"the spec (release {release.counter})"
    if origin.layer == RESERVED:
        return "the signed record of the node"
    return "the schema's default" if origin.layer == "default" else str(origin)


def _head(options: argparse.Namespace, asked: _Asked) -> dict[str, Any]:
    return {"service": options.service, "release": asked.release.counter, "node": asked.facts.name}


def _plain(one: Explained) -> dict[str, Any]:
    return {
        "key": one.key,
        "value": one.value,
        "layer": one.origin.layer,
        "version": one.origin.version,
        "overrode": [
            {"value": other.value, "layer": other.origin.layer, "version": other.origin.version}
            for other in one.overrode
        ],
    }


def _line(one: LineOrigin) -> dict[str, Any]:
    return {
        "template": one.template,
        "line": one.line,
        "values": [_use(use) for use in one.values],
        "conditions": [_use(use) for use in one.conditions],
    }


def _use(use: Use) -> dict[str, Any]:
    return {"key": use.key, "layer": use.layer, "version": use.version}

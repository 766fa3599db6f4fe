"""`nebh config`: read, change, compare and explain layers of configuration."""

from __future__ import annotations

import argparse
import getpass
import os
import shlex
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nebh.cli.config_release import Layers, plan_document, plan_layers, roll_all, show_plan, sign_layers
from nebh.cli.output import Output, harmless
from nebh.cli.session import Session, now_seconds
from nebh.host.run import Command, run_on_terminal
from nebh.model.config_layer import ConfigLayer, Part, check_layer
from nebh.model.errors import BadInput, NotFound, SpecErrors
from nebh.planning.config_values import (
    check_part,
    drop_value,
    find_value,
    is_key,
    put_value,
    show_value,
    split_key,
    walk_leaves,
)
from nebh.spec.layers import LayerText, parse_layer, parse_value, render_layer

if TYPE_CHECKING:
    from nebh.signing.repository import State

Change = tuple[str, LayerText]


def get(options: argparse.Namespace, out: Output) -> int:
    """Print what one layer itself says."""
    found = _version(_versions(Session(options, out).state(), options.layer), options.version)
    text = _text_of(found)
    if options.key:
        value = find_value(text.values, split_key(options.key))
        if value is None:
            raise NotFound(
                f"cannot find {options.key!r} in {options.layer}",
                hint=f"other layers may say it: `nebh config explain SERVICE {options.key}`",
            )
        if out.json_wanted:
            out.document({"layer": options.layer, "version": found.part.version, "key": options.key, "value": value})
        else:
            out.say(harmless(show_value(value)))
        return 0
    if out.json_wanted:
        out.document(_document(found))
    else:
        for line in render_layer(text).splitlines():
            out.say(harmless(line))
    return 0


def change(options: argparse.Namespace, out: Output) -> int:
    """Set, unset or delete keys of a layer."""
    pairs = [_pair(one, literal=options.text) for one in options.pairs]
    gone, deleted = [*options.unset], [*options.delete]
    for key in (*gone, *deleted):
        _check_key(key)
    if not pairs and not gone and not deleted and options.extends is None and options.group_order is None:
        raise BadInput("cannot change a layer: no key is named", hint="write KEY=VALUE, --unset KEY or --delete KEY")
    if options.group_order is not None and options.layer != "cluster":
        raise BadInput("cannot set --group-order there: it belongs to the layer `cluster`")

    def make(old: LayerText) -> LayerText:
        values, merge = old.values, dict(old.merge)
        for key in (*gone, *deleted):
            values = drop_value(values, split_key(key))
            merge.pop(key, None)
        merge.update(dict.fromkeys(deleted, "delete"))
        for key, value in pairs:
            values = put_value(values, split_key(key), value)
            if merge.get(key) == "delete":
                del merge[key]
            if options.merge:
                merge[key] = options.merge
        extends = old.extends if options.extends is None else tuple(_words(options.extends))
        order = old.group_order if options.group_order is None else tuple(_words(options.group_order))
        return LayerText(values=values, merge=merge, extends=extends, group_order=order)

    return _carry_out(options, out, {options.layer: make})


def _words(text: str) -> list[str]:
    return [word for word in text.replace(",", " ").split() if word]


def _pair(text: str, *, literal: bool) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals:
        raise BadInput(f"cannot read {text!r}: it is not KEY=VALUE", hint="such as log.level=debug")
    _check_key(key)
    return key, value if literal else parse_value(value)


def _check_key(key: str) -> None:
    if not is_key(key):
        raise BadInput(
            f"cannot use {key!r} as a key", hint="such as db.port: letters, digits, _ and -; dots part the levels"
        )


def edit(options: argparse.Namespace, out: Output) -> int:
    """Open a layer in an editor, as YAML, until it is right or left unchanged."""
    check_layer(options.layer)
    state = Session(options, out).state()
    old = _text_of(_newest(state, options.layer))
    head = f"# {options.layer}: what lies below it is overridden by what stands here. docs/config.md explains it.\n"
    with tempfile.TemporaryDirectory(prefix="nebh-config-") as folder:
        file = Path(folder) / "layer.yaml"
        file.write_text(head + render_layer(old), encoding="utf-8")
        while True:
            _open_editor(file)
            try:
                made = parse_layer(file.read_text(encoding="utf-8"), file=str(file))
                break
            except (SpecErrors, UnicodeDecodeError) as error:
                sys.stderr.write(f"{error}\n")
                if not sys.stdin.isatty() or input("Edit again? [Y/n] ").strip().lower() in {"n", "no"}:
                    raise
    if made == old:
        out.say("nothing was changed")
        return 0

    def make(now: LayerText) -> LayerText:
        if now != old:
            raise BadInput(f"{options.layer} was changed by somebody else meanwhile", hint="edit it again")
        return made

    return _carry_out(options, out, {options.layer: make})


def _open_editor(file: Path) -> None:
    words = shlex.split(os.environ.get("VISUAL") or os.environ.get("EDITOR") or "editor")
    names = ("HOME", "TERM", "USER", "XDG_CONFIG_HOME")
    env = {name: os.environ[name] for name in names if name in os.environ}
    run_on_terminal(Command(argv=(*words, str(file)), env=env))


def import_files(options: argparse.Namespace, out: Output) -> int:
    """Take values from files of other tools into layers."""
    from nebh.spec.imports import format_of, import_values

    given: dict[str, dict[str, Any]] = {}
    notes: list[str] = []
    problems: list[Any] = []
    for layer, path in _sources(options, notes):
        try:
            text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
            kind = options.format or format_of(path)
            values, said = import_values(text, kind=kind, file=path)
        except OSError as error:
            raise NotFound(f"cannot read {path}: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise BadInput(f"cannot read {path}: it is not UTF-8 text") from error
        except SpecErrors as error:
            problems += error.problems
            continue
        notes += [f"{path}: {note}" for note in said]
        given[layer] = {**given.get(layer, {}), **values}
    for layer, values in given.items():
        problems += check_part(Part(layer=layer, values=values))
    if problems:
        raise SpecErrors(tuple(problems))
    for note in notes:
        out.note(f"  note: {harmless(note)}")

    def maker(values: dict[str, Any]) -> Any:
        def make(old: LayerText) -> LayerText:
            made = old.values
            for path, value in walk_leaves(values):
                made = put_value(made, path, value)
            return replace(old, values=made)

        return make

    return _carry_out(options, out, {layer: maker(values) for layer, values in given.items()})


def _sources(options: argparse.Namespace, notes: list[str]) -> list[tuple[str, str]]:
    """Return (layer, file) of what is imported: a folder is Ansible's."""
    if len(options.files) == 1 and Path(options.files[0]).is_dir():
        if options.into:
            raise BadInput("cannot import a folder into one layer", hint="its group_vars and host_vars say which")
        return _ansible(Path(options.files[0]), notes)
    if not options.into:
        raise BadInput("cannot import: no layer is named", hint="say it: --into service/web")
    return [(check_layer(options.into), one) for one in options.files]


def _ansible(folder: Path, notes: list[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for kind, layer in (("group_vars", "group"), ("host_vars", "node")):
        for path in sorted((folder / kind).glob("*")):
            name = path.name.removesuffix(".yml").removesuffix(".yaml").removesuffix(".json")
            target = "cluster" if (kind, name) == ("group_vars", "all") else f"{layer}/{name.lower().replace('_', '-')}"
            if target not in {"cluster", f"{layer}/{name}"}:
                notes.append(f"{kind}/{name} goes to {target}")
            files = sorted(path.glob("*")) if path.is_dir() else [path]
            found += [(check_layer(target), str(one)) for one in files if one.suffix in {".yml", ".yaml", ".json"}]
    if not found:
        raise NotFound(f"cannot import {folder}: it has neither group_vars nor host_vars with .yml files")
    return found


def history(options: argparse.Namespace, out: Output) -> int:
    """List layers, or the versions of one."""
    from nebh.signing.layers import layers_in

    held = layers_in(Session(options, out).state().files)
    if not options.layer:
        rows = [(name, versions[max(versions)]) for name, versions in sorted(held.items())]
    else:
        versions = held.get(check_layer(options.layer), {})
        if not versions:
            raise NotFound(f"cannot find the layer {options.layer}", hint="`nebh config history` lists what there is")
        rows = [(options.layer, versions[number]) for number in sorted(versions, reverse=True)]
    if out.json_wanted:
        out.document({"layers": [_document(one) for _, one in rows]})
        return 0
    if not rows:
        out.say("no layers yet; `nebh config set cluster KEY=VALUE` makes the first")
        return 0
    cells = [(name, one.part.version, _when(one.signed_at), one.by, _count(one), one.note) for name, one in rows]
    out.table(("LAYER", "VERSION", "SIGNED", "BY", "KEYS", "NOTE"), cells)
    return 0


def _when(seconds: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _count(layer: ConfigLayer) -> int:
    return sum(1 for _ in walk_leaves(layer.part.values))


def diff(options: argparse.Namespace, out: Output) -> int:
    """Show what differs between two versions of a layer."""
    versions = _versions(Session(options, out).state(), options.layer)
    new = _version(versions, options.to)
    before = options.since or new.part.version - 1
    old = _version(versions, before) if before else _empty(options.layer)
    rows = _differences(_text_of(old), _text_of(new))
    if out.json_wanted:
        changes = [{"key": key, "old": was, "new": now} for key, was, now in rows]
        out.document({"layer": options.layer, "from": before, "to": new.part.version, "changes": changes})
        return 0
    out.say(f"{options.layer}: version {before or '(none)'} -> {new.part.version}")
    for key, was, now in rows:
        out.say(harmless(f"  {key}: {_shown(was)} -> {_shown(now)}"))
    return 0


def _shown(value: Any) -> str:
    return "(none)" if value is None else show_value(value)


def _differences(old: LayerText, new: LayerText) -> list[tuple[str, Any, Any]]:
    before = {".".join(path): value for path, value in walk_leaves(old.values)}
    after = {".".join(path): value for path, value in walk_leaves(new.values)}
    before |= {f"merge {key}": one for key, one in old.merge.items()}
    after |= {f"merge {key}": one for key, one in new.merge.items()}
    for name in ("extends", "group_order"):
        before[name], after[name] = list(getattr(old, name)) or None, list(getattr(new, name)) or None
    keys = sorted({*before, *after})
    return [(key, before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)]


# -- layers


def _versions(state: State, layer: str) -> dict[int, ConfigLayer]:
    from nebh.signing.layers import layers_in

    held = layers_in(state.files)
    versions = held.get(check_layer(layer), {})
    if not versions:
        known = ", ".join(sorted(held)) or "none"
        raise NotFound(f"cannot find the layer {layer}", hint=f"there are: {known}")
    return versions


def _version(versions: dict[int, ConfigLayer], number: int) -> ConfigLayer:
    found = versions.get(number or max(versions))
    if found is None:
        kept = ", ".join(str(one) for one in sorted(versions))
        raise NotFound(f"cannot find version {number} of it", hint=f"kept are: {kept}")
    return found


def _newest(state: State, layer: str) -> ConfigLayer:
    from nebh.signing.layers import newest_layers

    return newest_layers(state).get(layer) or _empty(layer)


def _empty(layer: str) -> ConfigLayer:
    return ConfigLayer(cluster_id="", signed_at=0, part=Part(layer=layer))


def _text_of(layer: ConfigLayer) -> LayerText:
    part = layer.part
    return LayerText(values=part.values, merge=part.merge, extends=part.extends, group_order=layer.group_order)


def _document(layer: ConfigLayer) -> dict[str, Any]:
    return {
        "layer": layer.part.layer,
        "version": layer.part.version,
        "signed_at": layer.signed_at,
        "by": layer.by,
        "note": layer.note,
        "extends": list(layer.part.extends),
        "group_order": list(layer.group_order),
        "merge": layer.part.merge,
        "values": layer.part.values,
    }


def _carry_out(options: argparse.Namespace, out: Output, makers: dict[str, Any]) -> int:
    """Sign new versions of layers, and the releases that they ask for; with --plan only say so."""
    session = Session(options, out)
    for layer in makers:
        check_layer(layer)

    def make(state: State, newest: Layers) -> tuple[ConfigLayer, ...]:
        made = []
        for name, maker in makers.items():
            old = newest.get(name) or _empty(name)
            text = maker(_text_of(old))
            if text != _text_of(old):
                made.append(_next_version(old, text, cluster_id=state.cluster_id, note=options.note))
        problems = [problem for one in made for problem in check_part(one.part)]
        if problems:
            raise SpecErrors(tuple(problems))
        return tuple(made)

    if options.plan:
        from nebh.signing.layers import newest_layers

        state = session.state(wanted=None)
        plan = plan_layers(session, state, make(state, newest_layers(state)))
        if out.json_wanted:
            out.document(plan_document(plan))
        else:
            show_plan(out, plan, signed=False)
        return 0
    state, plan = sign_layers(session, make, with_releases=not options.no_release)
    if not plan.layers:
        if out.json_wanted:
            out.document({**plan_document(plan), "rolled": [], "ok": True})
        else:
            out.say("nothing was changed")
        return 0
    if not out.json_wanted:
        show_plan(out, plan, signed=True)
    return roll_all(session, state, plan)


def _next_version(old: ConfigLayer, text: LayerText, *, cluster_id: str, note: str) -> ConfigLayer:
    part = Part(
        layer=old.part.layer,
        version=old.part.version + 1,
        values=text.values,
        merge=text.merge,
        extends=text.extends,
    )
    return ConfigLayer(
        cluster_id=cluster_id,
        signed_at=now_seconds(),
        part=part,
        group_order=text.group_order,
        by=getpass.getuser(),
        note=note,
    )

"""`secrets:` of a spec: which values a release gets, and where."""

from __future__ import annotations

from typing import Any

from nebh.model.names import is_name
from nebh.model.secret import FOLDER, SecretUse, SecretWish, find_path_problem, folder_of
from nebh.spec.read import Reader, Value


def parse_secrets(reader: Reader, root: Value) -> tuple[SecretWish, ...]:
    """Return the secrets under `root`; what cannot be is a problem of `reader`."""
    section = root.get("secrets")
    found: list[SecretWish] = []
    for one in section.data if section is not None else ():
        wish = _wish(one)
        _check(reader, one, wish, found, root)
        found.append(wish)
    return tuple(found)


def _wish(value: Value) -> SecretWish:
    data: dict[str, Any] = {key: item.data for key, item in value.data.items()}
    name = str(data.get("name", ""))
    use = SecretUse(
        name=name,
        path=data.get("path") or f"{FOLDER}/{name}",
        env=data.get("env", ""),
        signal=data.get("signal", ""),
    )
    return SecretWish(use=use, generate=data.get("generate", ""))


def _check(reader: Reader, value: Value, wish: SecretWish, before: list[SecretWish], root: Value) -> None:
    use = wish.use
    if use.name and not is_name(use.name):
        reader.complain(value.get("name") or value, f"{value.path}.name", f"`{use.name}` has two - in a row", "")
    problem = find_path_problem(use.path)
    if problem:
        place = value.get("path") or value
        reader.complain(place, f"{value.path}.path", f"`{use.path}`: {problem}", "such as /run/secrets/db-password")
    others = [one.use for one in before]
    for what, mine, theirs in (
        ("name", use.name, [one.name for one in others]),
        ("path", use.path, [one.path for one in others]),
        ("env", use.env, [one.env for one in others]),
    ):
        if mine and mine in theirs:
            place = value.get(what) or value
            reader.complain(place, f"{value.path}.{what}", f"another secret has the {what} `{mine}`", "")
    folder = folder_of(use)
    for other in map(folder_of, others):
        if folder.startswith(f"{other}/") or other.startswith(f"{folder}/"):
            place = value.get("path") or value
            hint = "put both into one folder, or into two beside each other"
            reader.complain(place, f"{value.path}.path", f"its folder {folder} and {other} lie in one another", hint)
    env = root.get("env")
    if use.env and env is not None and use.env in env.data:
        place = value.get("env") or value
        reader.complain(place, f"{value.path}.env", f"`{use.env}` stands under `env` too", "remove one of them")

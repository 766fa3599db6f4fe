"""Layers of configuration among the signed files: `config/<layer>/<version>.json`, the last versions of each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from nebh.model.config_layer import KEPT_VERSIONS, ConfigLayer, check_layer
from nebh.model.errors import BadInput, Broken, Conflict
from nebh.signing.repository import Draft, State
from nebh.wire import codec

LAYER_LIMIT = 4 << 20
_PATH = re.compile(r"config/([a-z0-9/-]{1,120})/([1-9][0-9]{0,8})\.json\Z")


def layer_path(layer: str, version: int) -> str:
    """Return the target path of a version of a layer."""
    return f"config/{layer}/{version}.json"


def layer_of(path: str) -> tuple[str, int] | None:
    """Return (layer, version) of a target path, None when it is not one of a layer."""
    found = _PATH.match(path)
    return (found[1], int(found[2])) if found else None


def layers_in(files: Mapping[str, bytes]) -> dict[str, dict[int, ConfigLayer]]:
    """Return every signed version of every layer, by layer and number. files: by target path. Raises Broken when what
    was signed is not what its path says."""
    found: dict[str, dict[int, ConfigLayer]] = {}
    for path, data in files.items():
        place = layer_of(path)
        if place is not None:
            one = read_layer(data, path)
            if (one.part.layer, one.part.version) != place:
                raise Broken(f"cannot use {path}: it is version {one.part.version} of {one.part.layer[:80]}")
            found.setdefault(place[0], {})[place[1]] = one
    return found


def newest_layers(state: State) -> dict[str, ConfigLayer]:
    """Return the newest signed version of each layer."""
    return {name: versions[max(versions)] for name, versions in layers_in(state.files).items()}


def read_layer(data: bytes, path: str) -> ConfigLayer:
    """Return a layer from its signed bytes. Raises BadInput."""
    return codec.decode(data, ConfigLayer, what=path, limit=LAYER_LIMIT)


def put_layers(draft: Draft, layers: Iterable[ConfigLayer]) -> None:
    """List the next version of layers, and no longer what lies more than KEPT_VERSIONS behind. Raises BadInput for
    one of another cluster or too large, Conflict for one that does not follow."""
    for one in layers:
        name, version = check_layer(one.part.layer), one.part.version
        if one.cluster_id != draft.cluster_id:
            raise BadInput(f"cannot sign the layer {name}: it is of cluster {one.cluster_id!r}")
        held = sorted(
            place[1] for path in draft.targets.targets if (place := layer_of(path)) is not None and place[0] == name
        )
        if version != (held[-1] if held else 0) + 1:
            raise Conflict(
                f"cannot sign version {version} of the layer {name}: {held[-1] if held else 'none'} is the newest",
                hint="it was changed meanwhile; run the command again",
            )
        data = codec.encode(one)
        if len(data) > LAYER_LIMIT:
            raise BadInput(f"cannot sign the layer {name}: {len(data)} bytes, at most {LAYER_LIMIT} are allowed")
        draft.put(layer_path(name, version), data)
        for old in held:
            if old <= version - KEPT_VERSIONS:
                draft.drop(layer_path(name, old))

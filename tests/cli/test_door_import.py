"""What was pushed to the registry door becomes an image of this computer, hashed again on the way."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import pytest

from nebh.cli.door import fetched, split_reference
from nebh.images.cache import ImageCache
from nebh.images.importing import import_image
from nebh.model.api import DoorTokenRequest
from nebh.model.errors import BadInput, NotFound
from nebh.model.service import ImageSource, SourceKind

pytestmark = pytest.mark.e2e


def load(name: str, file: str):
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "api" / file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


_conftest, pushing = load("nebh_api_conftest", "conftest.py"), load("nebh_api_test_door", "test_door.py")
make_cloud, cloud, door = _conftest.make_cloud, _conftest.cloud, pushing.door


def test_a_pushed_image_is_imported(door, tmp_path):
    blobs, manifest = pushing.make_image(pushing.make_layer({"app": b"#!nothing"}))
    push = pushing.caller(door, "team/web")
    for data in blobs.values():
        push.push_blob("team/web", data)
    assert push("PUT", "/v2/team/web/manifests/1.2", manifest, Content_Type=pushing.OCI)[0] == 201
    cache = ImageCache(tmp_path)
    for named in ("1.2", pushing.sha(manifest)):
        with fetched(door.as_operator(), f"team/web{'@' if ':' in named else ':'}{named}", cache) as (folder, digest):
            assert digest == pushing.sha(manifest)
            report = import_image(ImageSource(kind=SourceKind.OCI_LAYOUT, location=f"{folder}:image"), cache=cache)
        assert "app" in {entry.path for entry in report.manifest.entries}
    with pytest.raises(NotFound), fetched(door.as_operator(), "team/web:2", cache):
        pass


class Lying:
    """A client whose controller sends other bytes."""

    def __init__(self, client, lie: bytes) -> None:
        self.client, self.lie = client, lie

    def pull(self, repository: str, kind: str, reference: str):
        answer = self.client.pull(repository, kind, reference)
        if kind == "manifests":
            return answer
        answer.read(limit=1 << 20)
        return type(answer)(200, {}, iter([self.lie]))


def test_other_bytes_than_were_pushed_are_not_imported(door, tmp_path):
    token = door.as_operator().make_door_token(DoorTokenRequest(repository="lied"))
    push = pushing.Caller(door.port, token.secret)
    blobs, manifest = pushing.make_image(pushing.make_layer({"app": b"good"}))
    for data in blobs.values():
        push.push_blob("lied", data)
    push("PUT", "/v2/lied/manifests/1", manifest, Content_Type=pushing.OCI)
    with pytest.raises(BadInput), fetched(Lying(door.as_operator(), b"bad"), "lied:1", ImageCache(tmp_path)):
        pass


@pytest.mark.parametrize("text", ["web", "web/", ":1", "a:b/c"])
def test_a_reference_names_a_tag_or_a_digest(text):
    with pytest.raises(BadInput):
        split_reference(text)

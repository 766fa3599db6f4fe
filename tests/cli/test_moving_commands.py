"""Commands that move images, against a running controller."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nebh.cli.ci import read_kit, use_kit
from nebh.cli.moving import parse_rate
from nebh.model.errors import BadInput, NotFound

pytestmark = pytest.mark.e2e


def write_image(folder: Path, page: str) -> Path:
    (folder / "www").mkdir(parents=True, exist_ok=True)
    (folder / "www" / "index.html").write_text(page)
    return folder


def test_push_sends_what_is_lacking_and_fills_mirrors(rig, tmp_path):
    image = str(write_image(tmp_path / "image", "first " * 500))
    first = rig.data("image", "push", image)
    assert first["objects"] == 2
    assert rig.data("image", "push", image) == {**first, "objects": 0, "bytes": 0, "patched": 0, "sent": 0}
    write_image(tmp_path / "image", "first " * 500 + "edited")
    second = rig.data("image", "push", image, "--limit-rate", "1M")
    assert (second["objects"], second["patched"]) == (2, 2)
    assert second["sent"] < 1000
    filled = rig.data("image", "push", image, "--to", str(tmp_path / "mirror"))
    assert (filled["digest"], filled["objects"]) == (second["digest"], 2)
    assert len(list((tmp_path / "mirror" / "objects").glob("*/*"))) == 2
    status, _, err = rig.run("image", "push", image, "--limit-rate", "fast")
    assert (status, "such as 500K" in err) == (2, True)


def test_mirrors_are_signed_into_the_settings(rig):
    assert rig.data("trust", "mirrors") == {"mirrors": []}
    urls = ["http://mirror.example/nebh", "s3://store.example/bucket"]
    rig.good("trust", "mirrors", *urls, "--yes-widen")
    assert rig.data("trust", "mirrors") == {"mirrors": urls}
    assert rig.good("trust", "mirrors").split() == urls
    assert rig.run("trust", "mirrors", "ftp://x")[0] == 2
    rig.good("trust", "mirrors", "--none", "--yes-widen")
    assert "no mirrors" in rig.good("trust", "mirrors")


def test_door_tokens_are_made_listed_and_ended(rig):
    made = rig.data("image", "door-token", "team/*", "--days", "2", "--pull-only")
    assert made["secret"].startswith(made["id"] + ".")
    assert "team/*" in rig.good("image", "door-token", "--list")
    left = rig.data("image", "door-token", "--end", made["id"])["tokens"]
    assert made["id"] not in [one["id"] for one in left]
    assert rig.run("image", "door-token")[0] == 2
    assert rig.run("image", "door-token", "../x")[0] == 2
    assert rig.data("image", "door") == {"images": []}
    assert rig.run("image", "import", "door:web:1")[0] == 7
    assert rig.data("image", "collect")["blobs"] == 0


def test_a_kit_makes_a_cloud_of_its_own(rig, tmp_path):
    rig.good("deploy", rig.spec("v1", name="zoo"))
    rig.good("key", "add", "--new", str(tmp_path / "ci.key"), "--as", "ci:zoo", "--yes-widen")
    rig.good("key", "ci-kit", str(tmp_path / "ci.key"), "--out", str(tmp_path / "kit"))
    text = (tmp_path / "kit").read_text()
    (folder,) = (rig.folder / "config").iterdir()
    assert json.loads((folder / "cluster.json").read_text())["key"] not in text
    assert next(folder.glob("*.key")).read_text().strip() not in text, "the operator's key is not in the kit"
    for given in (str(tmp_path / "kit"), text):
        found = use_kit(given, base=tmp_path / "config")
        assert found.cluster.options["kind"] == "ci"
        assert Path(found.key).stat().st_mode & 0o777 == 0o600
    with pytest.raises(BadInput):
        use_kit(text, base=rig.folder / "config")
    for bad, error in (("/nothing/there", NotFound), ("{}", BadInput), ("{", BadInput)):
        with pytest.raises(error):
            read_kit(bad)
    rig.good("key", "ci-mode", "on", "--words-file", rig.words, "--yes-widen")
    rig.good("key", "ci-mode", "off", "--words-file", rig.words, "--yes-widen")


@pytest.mark.parametrize(("text", "rate"), [("", 0), ("0", 0), ("500K", 512_000), ("2M", 2 << 20)])
def test_rates_are_sizes_a_second(text, rate):
    assert parse_rate(text) == rate

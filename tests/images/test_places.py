"""Places for rendered files: added where nothing stands, refused where something is in the way."""

from __future__ import annotations

import pytest

from nebh.images.manifest import EMPTY_SHA256, encode_manifest
from nebh.images.places import add_places
from nebh.model.config import find_place_problem
from nebh.model.errors import BadInput
from nebh.model.image import EntryType, TreeEntry, TreeManifest


def folder(path: str) -> TreeEntry:
    return TreeEntry(path=path, type=EntryType.DIRECTORY, mode=0o755)


BASE = TreeManifest(
    format=1,
    entries=(
        folder("etc"),
        TreeEntry(path="etc/app.conf", type=EntryType.FILE, mode=0o644, size=3, sha256="a" * 64),
        TreeEntry(path="etc/link", type=EntryType.LINK, mode=0o777, target="/tmp"),
        folder("usr"),
    ),
)


def test_what_is_missing_is_added_in_order_and_what_is_there_stays() -> None:
    made = add_places(BASE, ["/etc/z/deep/a.conf", "/etc/app.conf", "/etc/z/b"])
    assert [one.path for one in made.entries] == [
        *("etc", "etc/app.conf", "etc/link", "etc/z", "etc/z/b", "etc/z/deep", "etc/z/deep/a.conf", "usr")
    ]
    added = next(one for one in made.entries if one.path == "etc/z/b")
    assert (added.type, added.mode, added.size, added.sha256) == (EntryType.FILE, 0o444, 0, EMPTY_SHA256)
    assert made.entries[1] == BASE.entries[1]
    assert add_places(made, ["/etc/z/b"]) is made
    assert encode_manifest(add_places(BASE, ["/etc/z/b", "/etc/z/a"])) == encode_manifest(
        add_places(BASE, ["/etc/z/a", "/etc/z/b"])
    )


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("/etc/link", "it is a link of the image"),
        ("/etc/link/x", "/etc/link is a link of the image"),
        ("/etc/app.conf/x", "/etc/app.conf is a file of the image"),
        ("/usr", "it is a directory of the image"),
    ],
)
def test_what_stands_in_the_way_is_named(path: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        add_places(BASE, [path])
    assert said in caught.value.message


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "etc/x",
        "/a//b",
        "/a/../b",
        "/a/.",
        "/proc/x",
        "/dev",
        "/sys/a",
        "/tmp/x",
        "/etc/hosts",
        "/a\nb",
        "/" + "a" * 256,
    ],
)
def test_some_paths_are_no_places(path: str) -> None:
    assert find_place_problem(path)
    assert not find_place_problem("/etc/app/app.conf")

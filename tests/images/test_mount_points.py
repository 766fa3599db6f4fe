"""Empty directories that are added to an image for what is mounted there."""

import pytest

from nebh.images.manifest import EMPTY_SHA256, encode_manifest, find_problem, refer_to
from nebh.images.mount_points import add_mount_points
from nebh.images.report import ImportReport
from nebh.model.errors import BadInput
from nebh.model.image import EntryType, TreeEntry, TreeManifest


def report(*more: TreeEntry) -> ImportReport:
    entries = [TreeEntry(path=one, type=EntryType.DIRECTORY, mode=0o755) for one in ("dev", "etc", "proc", "tmp")]
    entries += [
        TreeEntry(path=f"etc/{one}", type=EntryType.FILE, mode=0o644, sha256=EMPTY_SHA256)
        for one in ("hostname", "hosts", "resolv.conf")
    ]
    manifest = TreeManifest(format=1, entries=tuple(sorted((*entries, *more), key=lambda one: one.path)))
    data = encode_manifest(manifest)
    ref = refer_to(manifest, data=data)
    return ImportReport(digest=ref.manifest, ref=ref, manifest=manifest, origin="test")


def folder(path: str) -> TreeEntry:
    return TreeEntry(path=path, type=EntryType.DIRECTORY, mode=0o755)


def test_what_is_missing_is_added_and_the_image_is_still_one():
    before = report()
    made = add_mount_points(before, {"/run/secrets", "/var/lib/app/keys"}, what="secrets")
    added = {one.path for one in made.manifest.entries} - {one.path for one in before.manifest.entries}
    assert added == {"run", "run/secrets", "var", "var/lib", "var/lib/app", "var/lib/app/keys"}
    assert find_problem(made.manifest) == ""
    assert made.digest == made.ref.manifest == refer_to(made.manifest).manifest != before.digest
    assert made.ref.entries == len(made.manifest.entries)
    assert "/run/secrets: added, secrets are mounted there" in made.normalised


def test_an_image_that_has_them_stays_itself():
    before = report(folder("run"), folder("run/secrets"))
    assert add_mount_points(before, {"/run/secrets"}, what="secrets") is before
    assert add_mount_points(before, (), what="secrets") is before


def test_what_would_be_hidden_or_is_no_directory_is_refused():
    held = TreeEntry(path="run/secrets/old", type=EntryType.FILE, mode=0o644, sha256=EMPTY_SHA256)
    link = TreeEntry(path="run", type=EntryType.LINK, mode=0o777, target="/etc")
    with pytest.raises(BadInput, match="the image has /run/secrets/old"):
        add_mount_points(report(folder("run"), folder("run/secrets"), held), {"/run/secrets"}, what="secrets")
    with pytest.raises(BadInput, match="/run of the image is a link"):
        add_mount_points(report(link), {"/run/secrets"}, what="secrets")
    with pytest.raises(BadInput, match="an empty directory may stand at /dev"):
        add_mount_points(report(), {"/dev/secrets"}, what="secrets")

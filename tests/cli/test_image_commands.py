"""`nebh image`: from a declaration to an image and what people do with it, without any network."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from nebh.cli.main import main


@pytest.fixture
def project(tmp_path, monkeypatch):
    monkeypatch.setenv("NEBH_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "shop"
    (folder / "site").mkdir(parents=True)
    (folder / "site" / "page").write_text("one\n")
    (folder / "server").write_bytes(b"a program")
    (folder / "server").chmod(0o755)
    (folder / "image.yaml").write_text(
        "files:\n  - {from: server, to: /server}\n  - {from: site, to: /srv/site}\n"
        "directories: [/var/lib/shop]\nentrypoint: [/server]\nreduce: closure\n"
    )
    return folder


@pytest.fixture
def nebh(project, capsys):
    def run(*words: str, status: int = 0) -> dict:
        assert main(["image", *words, "--json"]) == status
        return json.loads(capsys.readouterr().out)

    run.text = capsys
    return run


def test_lock_build_verify_and_look(project, nebh):
    file = str(project / "image.yaml")
    assert nebh("build", file, status=7)["hint"].startswith("`nebh image lock` makes it")
    assert nebh("lock", file)["files"] == 2
    built = nebh("build", file)
    assert (built["files"], built["bytes"], built["lint"]) == (8, built["bytes"], [])
    assert nebh("build", file)["digest"] == built["digest"]
    assert nebh("verify", file) == {"digest": built["digest"], "same": True}
    assert [(one["name"], one["digest"]) for one in nebh("list")["images"]] == [("shop", built["digest"])]
    assert nebh("inspect", built["digest"])["digest"] == built["digest"]
    assert nebh("lint", built["digest"])["findings"] == []


def test_a_change_is_refused_refreshed_and_shown(project, nebh):
    file = str(project / "image.yaml")
    nebh("lock", file)
    old = nebh("build", file)["digest"]
    (project / "site" / "page").write_text("two\n")
    assert "has changed since the lock" in nebh("build", file, status=2)["error"]
    new = nebh("build", file, "--refresh")["digest"]
    assert nebh("diff", old[:8], "shop") == {
        "changes": [{"change": "~", "path": "/srv/site/page"}],
        "new_bytes": 4,
        "new_objects": 1,
    }
    assert "this time it is" in nebh("verify", file, "--against", old, status=8)["error"]
    gone = nebh("rm", old)
    assert (gone["digest"], gone["objects"], gone["bytes"]) == (old, 1, 4)
    assert [one["digest"] for one in nebh("list")["images"]] == [new]
    assert nebh("verify", file)["same"] is True


def test_bills_of_materials_and_provenance_name_every_source(project, nebh):
    file = str(project / "image.yaml")
    nebh("lock", file)
    digest = nebh("build", file)["digest"]
    spdx = nebh("sbom", "shop")
    assert spdx["spdxVersion"] == "SPDX-2.3"
    assert [one["name"] for one in spdx["packages"]] == ["shop", "server", "site"]
    ids = {one["SPDXID"] for one in spdx["packages"]} | {"SPDXRef-DOCUMENT"}
    assert all(one["spdxElementId"] in ids and one["relatedSpdxElement"] in ids for one in spdx["relationships"])
    cyclonedx = nebh("sbom", "shop", "--format", "cyclonedx")
    hashes = {one["name"]: one["hashes"][0]["content"] for one in cyclonedx["components"]}
    assert hashes["server"] == hashlib.sha256(b"a program").hexdigest()
    statement = nebh("provenance", digest)
    assert statement["subject"] == [{"name": "shop", "digest": {"sha256": digest}}]
    outer = statement["predicate"]["buildDefinition"]["externalParameters"]
    assert outer["declaration"]["sha256"] == hashlib.sha256((project / "image.yaml").read_bytes()).hexdigest()
    assert outer["lock"]["sha256"] == hashlib.sha256((project / "image.lock").read_bytes()).hexdigest()


def test_an_export_is_the_same_tree_for_others(project, nebh, tmp_path):
    file = str(project / "image.yaml")
    nebh("lock", file)
    digest = nebh("build", file)["digest"]
    one = nebh("export", "shop", f"oci:{tmp_path / 'one'}")["oci_digest"]
    assert nebh("export", "shop", f"oci:{tmp_path / 'two'}")["oci_digest"] == one
    assert nebh("import", f"oci:{tmp_path / 'one'}")["digest"] == digest
    assert "something is there already" in nebh("export", "shop", f"oci:{tmp_path / 'one'}", status=2)["error"]
    assert nebh("export", "shop", "tarball", status=2)["hint"] == "write oci:FOLDER or docker-archive:FILE"
    if shutil.which("skopeo") is None:
        pytest.skip("skopeo is not installed")
    config = subprocess.run(
        ["skopeo", "--insecure-policy", "inspect", "--config", f"oci:{tmp_path / 'one'}:shop"],
        capture_output=True,
        check=True,
        timeout=60,
    )
    assert json.loads(config.stdout)["config"]["Entrypoint"] == ["/server"]
    nebh("export", "shop", f"docker-archive:{tmp_path / 'saved.tar'}")
    with tarfile.open(tmp_path / "saved.tar") as tar:
        assert "manifest.json" in tar.getnames()
    assert nebh("import", f"docker-archive:{tmp_path / 'saved.tar'}")["digest"] == digest


def test_an_image_on_top_of_another_is_verified_and_outlives_it(project, nebh):
    nebh("lock", str(project / "image.yaml"))
    base = nebh("build", str(project / "image.yaml"))["digest"]
    top = project / "top.yaml"
    top.write_text(f"files: [{{image: {base}}}]\nentrypoint: [/server]\ndrop: [/srv/site]\n")
    nebh("lock", str(top))
    built = nebh("build", str(top))["digest"]
    assert nebh("verify", str(top)) == {"digest": built, "same": True}
    components = nebh("sbom", "top", "--format", "cyclonedx")["components"]
    assert [(one["type"], one["hashes"][0]["content"]) for one in components] == [("container", base)]
    assert {"change": "-", "path": "/srv/site/page"} in nebh("diff", base, "top")["changes"]
    nebh("rm", base)
    assert nebh("inspect", built)["digest"] == built
    assert "was not imported on this machine" in nebh("verify", str(top), status=7)["error"]


def test_a_declaration_is_wrong_in_words(project, nebh):
    file = project / "image.yaml"
    file.write_text("packages: nginx\ncolour: red\n")
    said = nebh("lock", str(file), status=2)["error"].splitlines()
    assert [line.partition(": ")[0] for line in said] == [f"{file}:1:11", f"{file}:2:1"]
    assert "cannot read" in nebh("lock", str(Path(file).with_name("none.yaml")), status=7)["error"]


def test_a_service_spec_may_name_a_declaration(project, nebh):
    from nebh.cli.deploy import import_spec_image, read_spec
    from nebh.cli.output import Output
    from nebh.cli.session import Session
    from nebh.images.cache import ImageCache

    nebh("lock", str(project / "image.yaml"))
    digest = nebh("build", str(project / "image.yaml"))["digest"]
    spec = project / "shop.yaml"
    spec.write_text(
        "name: shop\nimage: {build: image.yaml}\nargv: [/server]\nports: {http: 8080}\nlimits: {memory: 16M}\n"
    )
    session = Session(argparse.Namespace(), Output(quiet=True))
    report = import_spec_image(read_spec(str(spec)), ImageCache(project.parent / "cache"), session)
    assert report.digest == digest


def age(folder, *, days):
    """Let everything below a folder be some days older."""
    for path in folder.rglob("*"):
        seen = path.stat()
        os.utime(path, (seen.st_atime, seen.st_mtime - days * 86_400))


def archived(project, name, text):
    """Write an archive of one file and return it: archives are sources that are kept unpacked."""
    (project / "page").write_text(text)
    with tarfile.open(project / name, "w") as archive:
        archive.add(project / "page", arcname="page")
    return f"files:\n  - {{tar: {name}, to: /srv}}\nentrypoint: [/srv/page]\n"


def test_sources_that_no_build_used_for_a_month_go_by_themselves(project, nebh):
    cache, file = project.parent / "cache", project / "image.yaml"
    file.write_text(archived(project, "old.tar", "old\n"))
    nebh("lock", str(file))
    old = nebh("build", str(file))["digest"]
    (old_layer,) = (cache / "layers").glob("tar-*")
    age(cache, days=31)
    nebh("build", str(file))  # used again: it stays
    assert old_layer.exists()
    age(cache, days=31)
    file.write_text(archived(project, "new.tar", "new\n"))
    nebh("lock", str(file))
    nebh("build", str(file))
    assert not old_layer.exists()
    assert nebh("rm", old)["objects"] == 1  # the image had kept the content
    assert nebh("verify", str(file))["same"] is True


def test_prune_removes_what_only_old_sources_hold_and_keeps_images(project, nebh):
    file = project / "image.yaml"
    file.write_text(archived(project, "one.tar", "one\n") + "drop: [/srv/page]\ndirectories: [/kept]\n")
    nebh("lock", str(file))
    nebh("build", str(file))
    assert nebh("prune")["layers"] == 0
    age(project.parent / "cache", days=31)
    gone = nebh("prune")
    assert (gone["layers"], gone["contents"], gone["bytes"]) == (1, 1, 4)
    assert nebh("verify", str(file))["same"] is True
    assert "is not a duration" in nebh("prune", "--older-than", "soon", status=2)["error"]

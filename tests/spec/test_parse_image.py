from __future__ import annotations

import pytest

from nebh.model.build import FileKind, Reduction
from nebh.model.errors import SpecErrors
from nebh.spec.image import parse_image


def problems(text: str) -> list[str]:
    with pytest.raises(SpecErrors) as caught:
        parse_image(text, file="image.yaml", base="/srv/app")
    return [str(one) for one in caught.value.problems]


def test_three_lines_are_an_image() -> None:
    found = parse_image(
        "packages: [python3-minimal]\nfiles: [{from: app, to: /app}]\nentrypoint: [/usr/bin/python3, /app/main.py]\n",
        file="image.yaml",
        base="/srv/app",
    )
    assert found.packages == ("python3-minimal",)
    assert [(one.kind, one.source, one.to) for one in found.files] == [(FileKind.PATH, "/srv/app/app", "/app")]
    assert found.reduce is Reduction.STANDARD
    assert found.architecture == "amd64"


def test_a_build_has_bounds_and_outputs() -> None:
    found = parse_image(
        """
build:
  packages: [gcc, libc6-dev]
  files: [{from: src, to: /src}]
  run: ["gcc -static -o /out/server /src/server.c"]
  outputs: [{from: /out/server, to: /server}]
  memory: 256M
  timeout: 90s
entrypoint: [/server]
reduce: closure
""",
        file="image.yaml",
    )
    assert found.build is not None
    assert (found.build.memory, found.build.timeout, found.build.cpu) == (256 << 20, 90_000, 1000)
    assert [(one.source, one.to) for one in found.build.outputs] == [("/out/server", "/server")]


def test_whole_images_and_npm_keep_their_names() -> None:
    digest = "ab" * 32
    found = parse_image(
        f"""
npm: {{lock: app/package-lock.json, to: /app/}}
files:
  - {{rpm: a.rpm}}
  - {{oci: ./base:1.2}}
  - {{docker-archive: saved.tar}}
  - {{registry: "docker.io/library/redis:7@sha256:{digest}"}}
  - {{image: {digest}}}
""",
        file="image.yaml",
        base="/srv/app",
    )
    assert [(one.written, one.source) for one in found.files] == [
        ("a.rpm", "/srv/app/a.rpm"),
        ("oci:./base:1.2", "/srv/app/base:1.2"),
        ("docker-archive:saved.tar", "/srv/app/saved.tar"),
        (f"registry:docker.io/library/redis:7@sha256:{digest}", f"docker.io/library/redis:7@sha256:{digest}"),
        (f"image:{digest}", digest),
    ]
    assert found.npm is not None
    assert (found.npm.lock, found.npm.to) == ("/srv/app/app/package-lock.json", "/app")


def test_every_problem_is_told_at_once_with_its_place() -> None:
    found = problems(
        """packages: nginx
files:
  - {from: app}
  - {tar: a.tar, deb: b.deb, to: /x}
  - {from: x, to: /a/../b}
entrypoint: [python3]
reduce: all
colour: red
"""
    )
    assert [tuple(one.split(": ")[0:2]) for one in found] == [
        ("image.yaml:1:11", "packages"),
        ("image.yaml:3:5", "files[0].to"),
        ("image.yaml:4:5", "files[1]"),
        ("image.yaml:4:34", "files[1].to"),
        ("image.yaml:5:19", "files[2].to"),
        ("image.yaml:6:14", "entrypoint[0]"),
        ("image.yaml:7:9", "reduce"),
        ("image.yaml:8:1", "colour"),
    ]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("reduce: closure\npackages: [nginx]\n", "closure needs an `entrypoint` or `keep`"),
        ("keep: [/etc/**]\n", "nothing is in this image"),
        ("packages: ['nginx; rm -rf /']\n", "packages[0]"),
        ("packages: ['--option']\n", "packages[0]"),
        ("python: {requirements: ['x @ https://example.org/x.whl']}\n", "names a place"),
        ("python: {requirements: ['--index-url=http://x']}\n", "python.requirements[0]"),
        ("files: [{from: x, to: ../x}]\n", "files[0].to"),
        ("files: [{from: x, to: /x, strip: 1}]\n", "only a tar's names are stripped"),
        ("files: [{deb: x.deb, to: /x}]\n", "a package has its places itself"),
        ("files: [{rpm: x.rpm, to: /x}]\n", "a package has its places itself"),
        ("files: [{oci: ./x, to: /x}]\n", "an image has its places itself"),
        ("files: [{image: web}]\n", "files[0].image"),
        ("files: [{registry: redis}]\n", "files[0].registry"),
        ("npm: {lock: package-lock.json}\n", "npm.to"),
        ("build: {run: [make]}\n", "build.outputs"),
        ("debian: {mirror: 'ftp://x'}\npackages: [nginx]\n", "debian.mirror"),
        ("", "the file is empty"),
    ],
)
def test_what_cannot_be_meant_is_said(text: str, said: str) -> None:
    assert any(said in one for one in problems(text))

"""Every declared image of examples/images runs as a service of Nebh and answers in its own protocol."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from nebh.cli.images import read_declaration
from nebh.images.declared.lock import write_lock
from nebh.testing.built_images import ASKED, builder_of, lock_of

pytestmark = [pytest.mark.root, pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(1500)]
EXAMPLES = Path(__file__).parents[2] / "examples" / "images"


def prepare(name, cloud, disk_folder, shorten) -> Path:
    """Locked and built where there is a network, as on an operator's computer; deployed where there is none."""
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap is not installed")
    folder = disk_folder / "images" / name
    shutil.copytree(EXAMPLES / name, folder, dirs_exist_ok=True)
    declared = read_declaration(folder / "image.yaml")
    builder = builder_of(cloud.folder / "cache")
    lock = lock_of(declared, builder)
    write_lock(folder / "image.lock", lock)
    builder.build(declared, lock)
    spec = folder / "service.yaml"
    spec.write_text(shorten(spec.read_text()) + "update: {bake: 1s, drain: 1s}\n")
    return spec


@pytest.mark.parametrize("name", sorted(ASKED))
def test_an_example_runs_as_a_service_and_answers(name, cloud, disk_folder, dial, shorten, eventually):
    spec = prepare(name, cloud, disk_folder, shorten)
    cloud.nebh("deploy", "--yes-widen", str(spec), timeout=900.0)
    _, data, wanted = ASKED[name]
    tcp = re.search(r"tcp: (1\d+)", spec.read_text())
    if tcp is None:
        assert eventually(
            lambda: wanted.decode().split("1")[0] in cloud.get(host=f"{name}.example.org")[1], what="an answer"
        )
        return
    with dial(int(tcp[1])) as one:
        one.sendall(data)
        got = b""
        while wanted not in got and (more := one.recv(65536)):
            got += more
    assert wanted in got


def numbers(cloud, name: str) -> dict[str, int]:
    lines = (line.split() for line in cloud.get(host=f"{name}.example.org")[1].splitlines())
    return {words[0]: int(words[1]) for words in lines if len(words) == 2 and words[1].isdigit()}


@pytest.mark.parametrize(("name", "part"), [("node", 0.75), ("java", 0.5)])
def test_a_runtime_sizes_itself_by_the_limits_of_its_service(name, part, cloud, disk_folder, shorten, eventually):
    spec = prepare(name, cloud, disk_folder, shorten)
    text = re.sub(r"limits: .*", "limits: {memory: %s, cpu: %s}", spec.read_text())
    for memory, cores in ((192, 1), (384, 2)):
        spec.write_text(text % (f"{memory}M", cores))
        cloud.nebh("deploy", "--yes-widen", str(spec), timeout=900.0)
        wanted = int(memory * (1 << 20) * part)
        found = eventually(lambda: numbers(cloud, name), what="an answer")
        assert wanted * 0.96 <= found["heap"] <= wanted
        assert found.get("cores", cores) == cores

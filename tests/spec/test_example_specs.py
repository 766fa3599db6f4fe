"""The commented examples are right as they stand, and show what they promise."""

from pathlib import Path

import pytest

from nebh.model.image import ImageRef
from nebh.model.service import ServiceSpec, SourceKind
from nebh.planning.bounds import find_bounds_problem
from nebh.planning.claims import claims_conflict
from nebh.planning.release import make_policy, make_release
from nebh.spec.parse import parse_spec

FOLDER = Path(__file__).parents[2] / "examples"
FILES = sorted(FOLDER.glob("*.yaml"))


def load(path: Path) -> ServiceSpec:
    return parse_spec(path.read_text(), file=path.name, base=str(path.parent))


def test_there_are_ten() -> None:
    assert len(FILES) == 10


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_parses_is_commented_and_makes_a_release_that_nodes_take(path: Path) -> None:
    spec = load(path)
    assert spec.image.kind is SourceKind.DIRECTORY
    assert spec.image.location == str(FOLDER / "images" / spec.name)
    assert sum("#" in line for line in path.read_text().splitlines()) >= 3
    policy = make_policy(spec, previous=None, cluster_id="c", now=1)
    image = ImageRef(manifest="a" * 64, bytes=1, entries=1)
    assert find_bounds_problem(make_release(spec, policy=policy, image=image, counter=1, now=1), policy) == ""


def test_all_of_them_fit_into_one_cluster() -> None:
    specs = [load(path) for path in FILES]
    names = {spec.name for spec in specs}
    assert len(names) == 10
    assert {one.service for spec in specs for one in spec.connects} | {n for spec in specs for n in spec.needs} <= names
    policies = [make_policy(spec, previous=None, cluster_id="c", now=1) for spec in specs]
    assert claims_conflict(policies) == ()

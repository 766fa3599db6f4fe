"""What Node and Java are told of their container; that they obey is held by tests/images and tests/e2e."""

from __future__ import annotations

import json

import pytest

from nebh.drivers.containers.oci_config import render_config
from nebh.model.release import Release
from nebh.model.service import Limits
from nebh.testing.container_rig import sample_policy, sample_release
from nebh.testing.docs import SAMPLE_FACTS

MIB = 1 << 20


def env_of(limits: Limits, release: Release) -> dict[str, str]:
    rendered = json.loads(render_config(sample_policy(limits=limits), release, SAMPLE_FACTS))
    return dict(word.split("=", 1) for word in rendered["process"]["env"])


@pytest.mark.parametrize(
    ("memory", "cpu", "node", "java"),
    [
        (128, 500, "--max-old-space-size=48 --v8-pool-size=1", "-XX:ActiveProcessorCount=1"),
        (512, 2500, "--max-old-space-size=336 --v8-pool-size=3", "-XX:ActiveProcessorCount=3"),
        (8192, 16_000, "--max-old-space-size=6096 --v8-pool-size=4", "-XX:ActiveProcessorCount=16"),
        (32, 0, "--max-old-space-size=8", ""),
        (1, 0, "--max-old-space-size=1", ""),
    ],
)
def test_sizes_follow_the_limits(memory, cpu, node, java):
    env = env_of(Limits(memory=memory * MIB, cpu=cpu), sample_release("/bin/app"))
    assert env["NODE_OPTIONS"] == node
    assert env["JDK_JAVA_OPTIONS"] == f"-XX:MaxRAM={memory * MIB} -XX:MaxRAMPercentage=50 {java}".strip()


def test_what_the_release_says_is_not_changed():
    said = {"NODE_OPTIONS": "", "JDK_JAVA_OPTIONS": "-Xmx32m"}
    env = env_of(Limits(memory=128 * MIB), sample_release("/bin/app", env=said))
    assert {name: env[name] for name in said} == said


def test_limits_of_today_count_for_a_release_of_yesterday():
    """A rollback starts an old release within the policy that holds now."""
    release = sample_release("/bin/app")
    before, after = (env_of(Limits(memory=size * MIB), release)["JDK_JAVA_OPTIONS"] for size in (512, 128))
    assert "-XX:MaxRAM=536870912 " in before
    assert "-XX:MaxRAM=134217728 " in after

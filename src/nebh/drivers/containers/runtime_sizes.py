"""What runtimes that size themselves by the computer they see are told instead: their container's limits. Pure."""

from __future__ import annotations

from typing import Final

from nebh.model.service import Limits

_MIB: Final = 1 << 20
_V8_YOUNG: Final = 48 * _MIB  # V8 adds its young generation to what --max-old-space-size says
_V8_WORKERS: Final = 4  # how many it starts by itself


def render_sizes(limits: Limits) -> dict[str, str]:
    """Return the variables that Node and Java read when they start.

    Node: three quarters of the memory are for its heap, young and old; below 96 MiB its old generation has a quarter.
    Java: half, since its code, classes, threads and buffers lie beside the heap. Without a processor limit nothing is
    said of processors; a part of a core counts as one.
    """
    cores = -(-limits.cpu // 1000)
    old = max(limits.memory * 3 // 4 - _V8_YOUNG, limits.memory // 4, _MIB) // _MIB
    node = [f"--max-old-space-size={old}"]
    java = [f"-XX:MaxRAM={limits.memory}", "-XX:MaxRAMPercentage=50"]
    if cores:
        node.append(f"--v8-pool-size={min(cores, _V8_WORKERS)}")
        java.append(f"-XX:ActiveProcessorCount={cores}")
    return {"NODE_OPTIONS": " ".join(node), "JDK_JAVA_OPTIONS": " ".join(java)}

"""Project quotas: what can be said of them on a kernel without any (tests/guest/test_lvm.py has one with them)."""

from __future__ import annotations

import struct
from pathlib import Path

from nebh.host.project_quota import encode_limit, enforces_projects


def test_a_limit_is_encoded_as_the_kernel_reads_it():
    data = encode_limit(0x01020304, 1025)
    assert len(data) == 112
    assert struct.unpack_from("=bbHI", data) == (1, 2, 8, 0x01020304)
    assert struct.unpack_from("=Q", data, 8) == (3,)
    assert not any(data[16:])
    assert struct.unpack_from("=Q", encode_limit(1, 0), 8) == (0,)


def test_a_file_system_without_them_is_told(tmp_path):
    assert enforces_projects(tmp_path) in (True, False)
    assert not enforces_projects(Path("/proc"))

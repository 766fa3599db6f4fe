"""Who has a port."""

from __future__ import annotations

import os
import socket

from nebh.host.channels import listening_tcp, open_tcp
from nebh.host.listeners import Listener, listener_of


def test_our_own_listener_is_found_and_named() -> None:
    for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
        try:
            listener = socket.create_server((address, 0), family=family)
        except OSError:
            continue  # no IPv6 here
        with listener:
            port = listener.getsockname()[1]
            found = listener_of(port)
            assert found is not None
            assert (found.port, found.pid) == (port, os.getpid())
            assert str(found).endswith(f"(process {os.getpid()})")
        assert listener_of(port) is None


def test_a_stranger_has_no_name() -> None:
    assert str(Listener(port=1)) == "another process"


def test_what_is_accepted_over_tcp_sends_small_pieces_at_once() -> None:
    with (
        listening_tcp("127.0.0.1", 0) as door,
        open_tcp(host="127.0.0.1", port=door.getsockname()[1], timeout=20) as caller,
    ):
        accepted, _ = door.accept()
        with accepted:
            for one in (caller, accepted):
                assert one.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)

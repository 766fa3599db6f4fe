"""Mount points that helpers share with the process that forked them."""

from __future__ import annotations

from pathlib import Path

from nebh.host.namespaces import MS_BIND, MS_PRIVATE, MS_SHARED, mount


def share_mount_point(folder: Path) -> None:
    """Let what is mounted below `folder` from now on reach the mount namespaces that are made of this process's later
    on (`private_mounts` in helpers), and nobody else's.

    To be called once this process has mounts of its own (`private_mounts`) and before it forks: containers are started
    from a helper's namespace and have to see volumes that were mounted after it was forked. Raises OSError.
    """
    folder.mkdir(mode=0o711, parents=True, exist_ok=True)
    if not folder.is_mount():
        mount(str(folder), folder, flags=MS_BIND)
        mount("none", folder, flags=MS_PRIVATE)  # not the host's group: what we mount stays ours
    mount("none", folder, flags=MS_SHARED)

"""Where a cloud keeps its files: everything below two folders, so that several clouds fit on one machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

DEFAULT_STATE = Path("/var/lib/nebh")
DEFAULT_RUN = Path("/run/nebh")


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Paths below `state` (survives a reboot) and `run` (does not)."""

    state: Path = DEFAULT_STATE
    run: Path = DEFAULT_RUN

    @property
    def node_config(self) -> Path:
        """LocalConfig as JSON."""
        return self.state / "node.json"

    @property
    def executor(self) -> Path:
        """The executor's own folder, root's alone."""
        return self.state / "executor"

    @property
    def journal(self) -> Path:
        """The executor's database."""
        return self.executor / "journal.db"

    @property
    def pinned_root(self) -> Path:
        """The root metadata this node was enrolled with."""
        return self.executor / "root.json"

    @property
    def node_key(self) -> Path:
        """The node's Ed25519 key."""
        return self.executor / "keys" / "sign.key"

    @property
    def seal_key(self) -> Path:
        """The node's X25519 key."""
        return self.executor / "keys" / "seal.key"

    def trust(self, source: str) -> Path:
        """python-tuf's folder for one source of metadata."""
        return self.executor / "trust" / source

    @property
    def objects(self) -> Path:
        """Object store, manifests beside it."""
        return self.state / "objects"

    @property
    def manifests(self) -> Path:
        """Tree manifests by digest."""
        return self.state / "manifests"

    @property
    def trees(self) -> Path:
        """Materialised root file systems by manifest digest."""
        return self.state / "trees"

    @property
    def volumes(self) -> Path:
        """Data of services: volumes and their snapshots."""
        return self.state / "volumes"

    @property
    def bundles(self) -> Path:
        """OCI bundles by instance."""
        return self.state / "bundles"

    @property
    def configs(self) -> Path:
        """Bundles that files are rendered from, by digest."""
        return self.state / "configs"

    @property
    def logs(self) -> Path:
        """Logs by instance."""
        return self.state / "logs"

    @property
    def agent(self) -> Path:
        """The agent's folder."""
        return self.state / "agent"

    @property
    def controller(self) -> Path:
        """The controller's folder."""
        return self.state / "controller"

    @property
    def ingress(self) -> Path:
        """HAProxy's files."""
        return self.state / "ingress"

    @property
    def dns(self) -> Path:
        """dnsmasq's files."""
        return self.state / "dns"

    @property
    def executor_socket(self) -> Path:
        """The executor's door."""
        return self.run / "executor.sock"

    @property
    def agent_socket(self) -> Path:
        """The agent's door for the executor, in a folder of the agent's user."""
        return self.run / "agent" / "agent.sock"

    @property
    def controller_socket(self) -> Path:
        """The controller's door, in a folder of the controller's user."""
        return self.run / "controller" / "controller.sock"

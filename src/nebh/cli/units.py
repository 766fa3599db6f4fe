"""systemd units as text: pure, held by golden files and by a score."""

from __future__ import annotations

from dataclasses import dataclass

from nebh.host.seccomp import GROUPS

PARENT = "nebh.slice/nebh-containers.service"
UNITS = (
    "nebh.slice",
    "nebh-containers.service",
    "nebh-executor.service",
    "nebh-agent.service",
    "nebh-controller.service",
)


@dataclass(frozen=True, kw_only=True)
class UnitFacts:
    """state, run: folders (run below /run). commands: argv by program name; env: for all of them. user, controller:
    whom agent and controller run as."""

    state: str
    run: str
    commands: dict[str, tuple[str, ...]]
    env: dict[str, str]
    agent_user: str
    controller_user: str


def render_units(facts: UnitFacts) -> dict[str, str]:
    """Return every unit by its file name."""
    return {
        "nebh.slice": _SLICE,
        "nebh-containers.service": _HOLDER,
        "nebh-executor.service": _executor(facts),
        "nebh-agent.service": _confined(
            facts,
            "nebh-agent",
            user=facts.agent_user,
            text="Nebh agent: the network half of this node",
            after="network-online.target nebh-executor.service nebh-controller.service",
            memory="256M",
        ),
        "nebh-controller.service": _confined(
            facts,
            "nebh-controller",
            user=facts.controller_user,
            text="Nebh controller: stores, schedules, relays",
            after="network-online.target",
            memory="1G",
        ),
    }


_SLICE = """\
[Unit]
Description=Nebh: its programs and the containers
Documentation=man:systemd.slice(5)

[Slice]
CPUAccounting=yes
MemoryAccounting=yes
TasksAccounting=yes
"""

# It has no process: in version 2 none may be in a folder whose subfolders have limits, so systemd could not put one
# there a second time, and a restart would fail. What runs beside a main process gets a folder `.control` for a moment.
_HOLDER = """\
[Unit]
Description=Nebh: holds the control groups of containers, proxy and resolver, which outlive every program of Nebh

[Service]
Type=oneshot
RemainAfterExit=yes
Slice=nebh.slice
Delegate=yes
KillMode=process
OOMPolicy=continue
ExecStartPost=/bin/true
ExecStop=/bin/true
User=root
NoNewPrivileges=yes
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""

# Nothing that is made of seccomp: a filter would be inherited by every container. The executor is isolated by
# namespaces. No PrivateNetwork=: it begins in the host's network, leaves a worker there, and then cuts itself off.
# Its start ends every transaction that was under way, however long a slow machine takes: ended for being slow it would
# begin anew for ever.
_EXECUTOR = """\
[Unit]
Description=Nebh executor: verifies, decides, acts
Wants=network.target nebh-containers.service
Requires=nebh-containers.service
After=network.target nebh-containers.service local-fs.target apparmor.service nftables.service

[Service]
Type=notify
NotifyAccess=main
Slice=nebh.slice
ExecStart={command}
{environment}
Restart=always
RestartSec=1
TimeoutStartSec=900
TimeoutStopSec=30
KillMode=process
RuntimeDirectory={runtime}
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes
ReadWritePaths={state} /run /sys/fs/cgroup
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=no
ProtectProc=default
NoNewPrivileges=yes
KeyringMode=private
CapabilityBoundingSet={capabilities}
LimitNOFILE=524288
LimitMEMLOCK=infinity
TasksMax=infinity

[Install]
WantedBy=multi-user.target
"""
# MAC_ADMIN loads the profile of containers.
_CAPABILITIES = (
    "CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL CAP_MAC_ADMIN CAP_NET_ADMIN CAP_NET_BIND_SERVICE "
    "CAP_NET_RAW CAP_SETFCAP CAP_SETGID CAP_SETPCAP CAP_SETUID CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_SYS_PTRACE CAP_SYS_RESOURCE"
)

_CONFINED = """\
[Unit]
Description={text}
Wants=network-online.target
After={after}

[Service]
Type=exec
Slice=nebh.slice
ExecStart={command}
{environment}
User={user}
Group={user}
Restart=always
RestartSec=2
TimeoutStopSec=15
RuntimeDirectory={runtime}
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes
ReadWritePaths={state}
UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=yes
ProtectProc=invisible
ProcSubset=pid
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
DevicePolicy=closed
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
ProtectClock=yes
ProtectHostname=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6
LockPersonality=yes
MemoryDenyWriteExecute=yes
RemoveIPC=yes
KeyringMode=private
SystemCallArchitectures=native
SystemCallFilter=~{groups}
SystemCallErrorNumber=EPERM
MemoryMax={memory}
TasksMax=256

[Install]
WantedBy=multi-user.target
"""


def _executor(facts: UnitFacts) -> str:
    return _EXECUTOR.format(
        command=_join(facts.commands["nebh-executor"]),
        environment=_environment(facts.env),
        runtime=_below_run(facts.run),
        state=facts.state,
        capabilities=_CAPABILITIES,
    )


def _confined(facts: UnitFacts, name: str, *, user: str, text: str, after: str, memory: str) -> str:
    short = name.removeprefix("nebh-")
    return _CONFINED.format(
        text=text,
        after=after,
        command=_join(facts.commands[name]),
        environment=_environment(facts.env),
        user=user,
        runtime=f"{_below_run(facts.run)}/{short}",
        state=f"{facts.state}/{short}",
        groups=" ".join(GROUPS),
        memory=memory,
    )


def _below_run(run: str) -> str:
    return run.removeprefix("/run/")


def _join(argv: tuple[str, ...]) -> str:
    return " ".join(_quote(word) for word in argv)


def _quote(word: str) -> str:
    # systemd expands % and $ everywhere, and splits at blanks
    text = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if not text or any(letter in " \t;'\"\\" for letter in text) else text


def _environment(env: dict[str, str]) -> str:
    return "\n".join(f'Environment="{name}={value.replace("%", "%%")}"' for name, value in sorted(env.items()))

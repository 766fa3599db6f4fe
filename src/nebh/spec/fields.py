"""Every field of a service spec, declared once: the parser reads it, the schema and the reference page show it."""

from __future__ import annotations

from nebh.model.names import NAME_PATTERN
from nebh.spec.backup_fields import BACKUP
from nebh.spec.config_fields import CONFIG, FILE
from nebh.spec.data_fields import DATA, HOOKS, ON_FAILURE_DATA, VOLUMES
from nebh.spec.rehearse import REHEARSE
from nebh.spec.secret_fields import SECRETS
from nebh.spec.shape import Choice, Cores, Duration, Either, Field, Flag, Listing, Section, Size, Table, Text, Whole
from nebh.spec.tls_fields import TLS

DAY = 86_400_000
MIB = 1 << 20
MOST = 2**53 - 1
SIGNALS = ("TERM", "INT", "QUIT", "HUP", "USR1", "USR2", "KILL")

NAME = Text(expects="a name (1-32 of a-z, 0-9 and single -, starting with a letter)", pattern=NAME_PATTERN, longest=32)
ANY = Text(expects="text", numbers=True, longest=32_768)
WORD = Text(expects="text", numbers=True)
ABSOLUTE = Text(expects="an absolute path", pattern=r"/[^\n]*")
PATH = Text(expects="a path", pattern=r"[^\n]+")
PORT = Whole(low=1, high=65535)
PORT_REF = Text(expects="the name of a port, or its number", pattern=rf"{NAME_PATTERN}|[1-9]\d{{0,4}}", numbers=True)
ARGV = Listing(item=ANY, least=1, instead="write a list, one word per item: [/usr/bin/app, --flag]")
HOST = Text(
    expects="a host name in lower case such as www.example.org",
    pattern=r"(?=.{1,253}\Z)[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*",
)
URL_PATH = Text(
    expects="a path such as /api (starts with /, no ? or #, other characters as %XX)",
    pattern=r"/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*",
    longest=1024,
)
ASK_PATH = Text(
    expects="a path such as /ready?full=1 (starts with /, other characters as %XX)",
    pattern=r"/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*",
    longest=1024,
)

_HTTP = Section(
    fields=(
        Field(key="port", shape=PORT_REF, doc="Port to ask; may be left out where the service has exactly one."),
        Field(key="path", shape=ASK_PATH, doc="What to GET.", default="/"),
        Field(key="host", shape=HOST, doc="`Host` header to send.", default="(the instance's address)"),
        Field(
            key="statuses",
            shape=Listing(item=Whole(low=100, high=599), least=1, unique=True, instead="write a list: [200, 204]"),
            doc="Answers that pass.",
            default="[200]",
        ),
        Field(key="contains", shape=ANY, doc="Text that must stand in the first 64 KiB of the body."),
    )
)
_TCP = Section(
    fields=(Field(key="port", shape=PORT_REF, doc="Port to connect to; may be left out where there is exactly one."),)
)
_LOOKS = (
    Field(key="http", shape=_HTTP, doc="Passes when a GET is answered as expected."),
    Field(key="tcp", shape=_TCP, doc="Passes when the port accepts a connection."),
    Field(key="exec", shape=ARGV, doc="Passes when this program of the image ends with status 0."),
    Field(key="interval", shape=Duration(low=100, high=3_600_000), doc="Time between two looks.", default="1s"),
    Field(key="timeout", shape=Duration(low=10, high=60_000), doc="A look that takes longer failed.", default="1s"),
    Field(key="failures", shape=Whole(low=1, high=100), doc="Failures in a row that count.", default="3"),
)
CHECK = Section(fields=_LOOKS, one_of=("http", "tcp", "exec"))
NAMED_CHECK = Section(
    fields=(Field(key="name", shape=NAME, doc="Shown when it fails.", default="check-N"), *_LOOKS),
    one_of=("http", "tcp", "exec"),
)

REFERENCE = Text(
    expects="a reference with registry host and digest: docker.io/library/redis@sha256:<64 hex digits>",
    pattern=r"[a-z0-9.-]+(?::\d+)?(?:/[a-z0-9._-]+)+(?::[\w.-]{1,128})?(?:@sha256:[0-9a-f]{64})?",
)
IMAGE = Section(
    fields=(
        Field(key="dir", shape=PATH, doc="A directory that is the root file system."),
        Field(key="tar", shape=PATH, doc="A root file system as .tar, .tar.gz, .tar.xz or .tar.zst."),
        Field(key="oci", shape=PATH, doc="An OCI image layout, with `:tag` where it holds several images."),
        Field(key="docker-archive", shape=PATH, doc="What `docker save` wrote."),
        Field(
            key="registry",
            shape=REFERENCE,
            doc="An image of an OCI registry; pin it with `@sha256:`.",
        ),
        Field(
            key="door",
            shape=Text(
                expects="what was pushed to the controller's registry door: web:1.2, or web@sha256:<64 hex digits>",
                pattern=r"[a-z0-9._-]+(?:/[a-z0-9._-]+)*(?::[\w][\w.-]{0,127}|@sha256:[0-9a-f]{64})",
            ),
            doc="An image that was pushed to the controller's registry door.",
        ),
        Field(
            key="manifest",
            shape=Text(expects="a tree manifest's digest (64 hex digits)", pattern="[0-9a-f]{64}"),
            doc="A tree manifest that the cluster has already.",
        ),
        Field(key="build", shape=PATH, doc="An image declaration (`image.yaml`) with its lock beside it."),
    ),
    one_of=("dir", "tar", "oci", "docker-archive", "registry", "door", "manifest", "build"),
    instead="say what kind it is: `image: {dir: ./rootfs}`",
)

ROUTE = Section(
    fields=(
        Field(key="host", shape=HOST, doc="Public host name; left out: any."),
        Field(key="path", shape=URL_PATH, doc="Path prefix.", default="/"),
        Field(key="port", shape=PORT_REF, doc="Port of the service; may be left out where there is exactly one."),
        Field(key="tcp", shape=PORT, doc="Port of the node that leads here as plain TCP, in place of host and path."),
        Field(
            key="tls",
            shape=TLS,
            doc="Serve this host with HTTPS. `acme` alone: with a certificate of Let's Encrypt, got and renewed by the node.",
        ),
    )
)

LIMITS = Section(
    fields=(
        Field(
            key="memory",
            shape=Size(low=4 * MIB, high=MOST),
            doc="Memory of one instance; above it the kernel ends the instance.",
            required=True,
            hint="every service needs a limit: start with `limits: {memory: 64M}`, then look at `nebh status`",
        ),
        Field(key="cpu", shape=Cores(), doc="Most processor cores used.", default="no cap"),
        Field(key="pids", shape=Whole(low=1, high=65_536), doc="Most processes and threads.", default="256"),
        Field(key="disk", shape=Size(low=0, high=MOST), doc="Writable data.", default="0"),
        Field(key="log", shape=Size(low=MIB, high=MOST), doc="All log files of an instance together.", default="40M"),
        Field(key="shm", shape=Size(low=0, high=MOST), doc="Size of /dev/shm.", default="8M"),
        Field(key="tmp", shape=Size(low=0, high=MOST), doc="Size of /tmp.", default="16M"),
        Field(key="image_bytes", shape=Size(low=1, high=MOST), doc="Largest image allowed.", default="4G"),
        Field(key="image_entries", shape=Whole(low=1, high=MOST), doc="Most paths in the image.", default="200000"),
    )
)

HEALTH = Section(
    fields=(
        Field(key="startup", shape=CHECK, doc="Must pass once before the other checks count."),
        Field(
            key="readiness",
            shape=CHECK,
            doc="Traffic comes only while it passes. Left out: the first port accepts connections.",
        ),
        Field(key="liveness", shape=CHECK, doc="The instance is restarted when it fails `failures` times in a row."),
        Field(
            key="startup_timeout",
            shape=Duration(low=100, high=DAY),
            doc="A new instance that is not ready by then failed.",
            default="1m",
        ),
    )
)

STOP = Section(
    fields=(
        Field(key="signal", shape=Choice(values=SIGNALS), doc="How it is asked to end.", default="TERM"),
        Field(key="grace", shape=Duration(low=0, high=3_600_000), doc="Then, after this time, KILL.", default="10s"),
    )
)

UPDATE = Section(
    fields=(
        Field(
            key="bake",
            shape=Duration(low=0, high=DAY),
            doc="How long a new release is watched, serving, before it is committed.",
            default="10s",
        ),
        Field(
            key="checks",
            shape=Listing(item=NAMED_CHECK, most=16, instead="write a list of checks: `- http: {path: /selftest}`"),
            doc="What must hold while it bakes, besides readiness.",
        ),
        Field(
            key="overlap",
            shape=Flag(),
            doc="Old and new run side by side during an update; false for hosts with memory for one only.",
            default="true",
        ),
        Field(
            key="on_failure",
            shape=Choice(values=("rollback", "hold")),
            doc="When it fails before its commit: go back, or stay and call a person.",
            default="rollback",
        ),
        Field(
            key="drain",
            shape=Duration(low=0, high=3_600_000),
            doc="How long requests of the old instance may take to finish.",
            default="30s",
        ),
        Field(
            key="max_error_percent",
            shape=Whole(low=0, high=100),
            doc="More 5xx answers at the proxy than this, while it bakes, is a failure.",
            default="100",
        ),
        Field(
            key="together",
            shape=NAME,
            doc="Services with the same word here move together where one change of config renews all of them.",
        ),
    )
)

REPLICAS = Either(
    short=Whole(low=0, high=1000),
    long=Section(
        fields=(
            Field(key="count", shape=Whole(low=0, high=1000), doc="How many allocations are wished.", default="1"),
            Field(key="min", shape=Whole(low=0, high=1000), doc="Fewest that `nebh scale` may choose.", default="1"),
            Field(key="max", shape=Whole(low=1, high=1000), doc="Most that `nebh scale` may choose.", default="count"),
        )
    ),
)

PLACEMENT = Section(
    fields=(
        Field(key="groups", shape=Listing(item=NAME, unique=True), doc="Groups of nodes that may run it."),
        Field(
            key="nodes", shape=Listing(item=NAME, unique=True), doc="Nodes that may run it; none at all: every node."
        ),
        Field(
            key="mode",
            shape=Choice(values=("spread", "pinned")),
            doc="spread: the controller may move it. pinned: it stays.",
            default="spread",
        ),
        Field(key="max_per_node", shape=Whole(low=1, high=1000), doc="Most allocations on one node.", default="8"),
    )
)

POLICY = Section(
    fields=(
        Field(key="placement", shape=PLACEMENT, doc="Where it may run."),
        Field(
            key="lint_exceptions",
            shape=Listing(
                item=Text(
                    expects="`rule:path`, such as shell:/bin/sh",
                    pattern="(?:shell|package-manager|compiler|diagnostic|setuid|file-capability|world-writable"
                    "|not-world-readable):/.+",
                ),
                unique=True,
            ),
            doc="Findings of `nebh image lint` that are allowed, as `rule:path`; the path may be a glob.",
        ),
        Field(
            key="checks_required",
            shape=Flag(),
            doc="A release without ports must declare `health.readiness` or `update.checks`.",
            default="true",
        ),
        Field(
            key="pins",
            shape=Listing(item=Whole(low=1, high=MOST), unique=True),
            doc="Releases that are kept and may always be gone back to.",
        ),
        Field(key="min_release", shape=Whole(low=0, high=MOST), doc="No older release may run.", default="0"),
        Field(
            key="rollback_window",
            shape=Duration(low=0, high=365 * DAY),
            doc="How long after a commit one may go back behind it.",
            default="7d",
        ),
        Field(
            key="on_failure_data",
            shape=ON_FAILURE_DATA,
            doc="What an automatic rollback does with the data once users have written to the new release. auto: keep it "
            "where the old release reads it, else hold. hold: the new release stays and a person is called.",
            default="auto",
        ),
        Field(key="cgroup_view", shape=Flag(), doc="Show the container its own cgroup, read-only.", default="false"),
        Field(key="tmp_exec", shape=Flag(), doc="Programs in /tmp may be run.", default="false"),
    )
)

SPEC = Section(
    fields=(
        Field(key="name", shape=NAME, doc="Name of the service; other services reach it by it.", required=True),
        Field(
            key="image",
            shape=IMAGE,
            doc="What the root file system is made of. Relative paths start at the spec file's folder.",
            required=True,
            hint="say what to run: `image: {dir: ./rootfs}`",
        ),
        Field(
            key="argv",
            shape=ARGV,
            doc="The program and its arguments; no shell reads them.",
            required=True,
            hint="write a list: `argv: [/usr/bin/app, --flag]`",
        ),
        Field(
            key="env",
            shape=Table(key=Text(expects="a variable name", pattern=r"[A-Za-z_][A-Za-z0-9_]*"), item=ANY),
            doc="Environment variables. Never secrets.",
        ),
        Field(key="user", shape=Whole(low=1, high=65_533), doc="Numeric user inside the container.", default="10001"),
        Field(
            key="ports",
            shape=Table(key=NAME, item=PORT, most=64),
            doc="TCP ports it listens on, each with a name.",
        ),
        Field(
            key="routes",
            shape=Listing(item=ROUTE, instead="write a list: `- {host: www.example.org, port: http}`"),
            doc="Public names and ports that lead to it. Nothing is published unless it stands here.",
        ),
        Field(
            key="connects",
            shape=Listing(
                item=Text(expects="`service:port`, such as db:5432", pattern=rf"{NAME_PATTERN}:[1-9]\d{{0,4}}"),
                unique=True,
                instead="write a list: [db:5432]",
            ),
            doc="Services of this cluster that it may open connections to.",
        ),
        Field(
            key="egress",
            shape=Listing(item=WORD, unique=True, instead='write a list: ["dns", "198.51.100.0/24:443"]'),
            doc="What it may reach outside: `dns`, or `network:port`, with `/udp` where it is not TCP.",
        ),
        Field(
            key="needs",
            shape=Listing(item=NAME, unique=True, instead="write a list: [db]"),
            doc="Services that start before it after a reboot.",
        ),
        Field(
            key="limits",
            shape=LIMITS,
            doc="What one instance may use.",
            required=True,
            hint="a memory limit is required: `limits: {memory: 64M}`",
        ),
        Field(key="volumes", shape=VOLUMES, doc="Data that it owns on its node, each volume with a name."),
        Field(key="data", shape=DATA, doc="Which versions of its data this release reads and writes."),
        Field(key="backup", shape=BACKUP, doc="Copies of its volumes elsewhere, encrypted: see docs/data.md."),
        Field(key="rehearse", shape=REHEARSE, doc="When a release is tried on a copy of the data, by the node itself."),
        Field(key="hooks", shape=HOOKS, doc="Programs of the image that an update runs at named points."),
        Field(key="secrets", shape=SECRETS, doc="Values that only its nodes can read, each a file of the container."),
        Field(key="health", shape=HEALTH, doc="How one sees that an instance works."),
        Field(key="stop", shape=STOP, doc="How an instance ends."),
        Field(key="update", shape=UPDATE, doc="How a node moves from one release to the next."),
        Field(
            key="retention",
            shape=Whole(low=1, high=100),
            doc="Releases kept on every node, ready to start without any network.",
            default="3",
        ),
        Field(key="replicas", shape=REPLICAS, doc="How many allocations: a number, or bounds.", default="1"),
        Field(key="config", shape=CONFIG, doc="Values that files are rendered from, and what they must be."),
        Field(
            key="files",
            shape=Listing(item=FILE, most=64, instead="write a list: `- {path: /etc/app.conf, template: app.conf.j2}`"),
            doc="Files that every node renders from signed values, and the container sees read-only.",
        ),
        Field(key="policy", shape=POLICY, doc="Bounds that only an operator signs."),
    )
)

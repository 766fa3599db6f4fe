"""Every field of an image declaration (`image.yaml`), declared once: parser, schema and reference page read it."""

from __future__ import annotations

from nebh.spec.fields import ARGV, MIB, MOST, PATH, REFERENCE, WORD
from nebh.spec.shape import Choice, Cores, Duration, Field, Listing, Section, Size, Table, Text, Whole

PACKAGE = Text(
    expects="a Debian package such as nginx, or nginx=1.22.1-9",
    pattern=r"[a-z0-9][a-z0-9+.-]+(?:=[A-Za-z0-9.+:~-]+)?",
    longest=200,
)
URL = Text(expects="a URL such as http://deb.debian.org/debian", pattern=r"(?:https?|file)://[^\s#?]+")
WORDS = Text(expects="a name of small letters, digits and -", pattern=r"[a-z0-9][a-z0-9/-]*", longest=64)
GLOB = Text(expects="an absolute path, * and ** allowed", pattern=r"/[^\n]*", longest=1024)
INSIDE = Text(
    expects="an absolute path inside the image, without . and ..",
    pattern=r"/|(?:/(?!\.{1,2}(?:/|\Z))[^/\n\x00]+)+/?",
    longest=1024,
)
REQUIREMENT = Text(expects="a requirement as pip takes it: flask==3.0.3", pattern=r"[A-Za-z0-9][^\n]*", longest=400)

FILE = Section(
    fields=(
        Field(key="from", shape=PATH, doc="A file or directory, relative to the declaration."),
        Field(key="tar", shape=PATH, doc="A .tar, .tar.gz, .tar.xz or .tar.zst that is unpacked."),
        Field(key="deb", shape=PATH, doc="A .deb file that is unpacked; nothing in it is run."),
        Field(key="rpm", shape=PATH, doc="An .rpm file that is unpacked; nothing in it is run."),
        Field(key="oci", shape=PATH, doc="An OCI image layout, with `:tag` where it holds several images."),
        Field(key="docker-archive", shape=PATH, doc="What `docker save` wrote."),
        Field(key="registry", shape=REFERENCE, doc="An image of an OCI registry; the lock pins what it holds."),
        Field(
            key="image",
            shape=Text(expects="an image's digest (64 hex digits)", pattern="[0-9a-f]{64}"),
            doc="An image on this computer, built or imported.",
        ),
        Field(key="to", shape=INSIDE, doc="Where it goes in the image.", default="/"),
        Field(key="strip", shape=Whole(low=0, high=16), doc="Leading folders that a tar's names lose.", default="0"),
    ),
    one_of=("from", "tar", "deb", "rpm", "oci", "docker-archive", "registry", "image"),
    instead="write `- {from: app, to: /app}`",
)
FILES = Listing(item=FILE, instead="write a list: `- {from: app, to: /app}`")
PACKAGES = Listing(item=PACKAGE, unique=True, instead="write a list: [python3-minimal]")

BUILD = Section(
    fields=(
        Field(key="packages", shape=PACKAGES, doc="Debian packages that only the build needs."),
        Field(key="files", shape=FILES, doc="Sources that only the build needs."),
        Field(
            key="run",
            shape=Listing(item=WORD, least=1, instead="write a list of shell lines"),
            doc="Shell lines, run in order in a sandbox without network; the first that fails ends the build.",
            required=True,
            hint="a build without commands builds nothing",
        ),
        Field(
            key="outputs",
            shape=Listing(
                item=Section(
                    fields=(
                        Field(key="from", shape=INSIDE, doc="A file or folder in the sandbox.", required=True),
                        Field(key="to", shape=INSIDE, doc="Where it goes in the image.", required=True),
                    )
                ),
                least=1,
                instead="write `- {from: /out/server, to: /server}`",
            ),
            doc="All that leaves the sandbox.",
            required=True,
            hint="name what the commands make: `- {from: /out/server, to: /server}`",
        ),
        Field(
            key="env",
            shape=Table(key=Text(expects="a variable's name", pattern="[A-Za-z_][A-Za-z0-9_]*"), item=WORD),
            doc="Environment of the commands.",
        ),
        Field(key="memory", shape=Size(low=16 * MIB, high=MOST), doc="Memory of the whole sandbox.", default="1G"),
        Field(key="disk", shape=Size(low=MIB, high=MOST), doc="What the commands may write.", default="2G"),
        Field(key="cpu", shape=Cores(), doc="Processor cores.", default="1"),
        Field(key="timeout", shape=Duration(low=1000, high=86_400_000), doc="For all commands.", default="10m"),
    )
)

DECLARATION = Section(
    fields=(
        Field(key="packages", shape=PACKAGES, doc="Debian packages; what they depend on comes with them."),
        Field(
            key="debian",
            shape=Section(
                fields=(
                    Field(key="suite", shape=WORDS, doc="Debian's release.", default="bookworm"),
                    Field(key="components", shape=Listing(item=WORDS, least=1, unique=True), doc="", default="[main]"),
                    Field(key="mirror", shape=URL, doc="Packages.", default="http://deb.debian.org/debian"),
                    Field(
                        key="security",
                        shape=Text(expects='a URL, or "" for none', pattern=r"(?:(?:https?|file)://[^\s#?]+)?"),
                        doc='Security updates; `""` for a mirror that has none.',
                        default="http://deb.debian.org/debian-security",
                    ),
                    Field(key="keyring", shape=PATH, doc="Keys that may sign the lists.", default="Debian's own"),
                )
            ),
            doc="Where Debian packages come from.",
        ),
        Field(
            key="python",
            shape=Section(
                fields=(
                    Field(
                        key="requirements",
                        shape=Listing(item=REQUIREMENT, unique=True, instead="write a list: [flask==3.0.3]"),
                        doc="Python packages, as wheels.",
                    ),
                    Field(
                        key="path",
                        shape=Listing(item=INSIDE, unique=True),
                        doc="Folders of the image that Python searches, besides its own and the script's.",
                    ),
                )
            ),
            doc="What Python needs; every wheel is pinned by hash in the lock.",
        ),
        Field(
            key="npm",
            shape=Section(
                fields=(
                    Field(key="lock", shape=PATH, doc="package-lock.json, version 2 or 3.", required=True),
                    Field(key="to", shape=INSIDE, doc="The folder that gets node_modules.", required=True),
                )
            ),
            doc="npm packages as package-lock.json pins them; no script of a package is run.",
        ),
        Field(
            key="files",
            shape=FILES,
            doc="The project's own files and archives, which are kept whole; packages and images, which are reduced.",
        ),
        Field(key="build", shape=BUILD, doc="Commands that make files from sources."),
        Field(key="directories", shape=Listing(item=INSIDE, unique=True), doc="Empty folders to make."),
        Field(key="keep", shape=Listing(item=GLOB, unique=True), doc="Paths that no reduction takes away."),
        Field(key="drop", shape=Listing(item=GLOB, unique=True), doc="Paths that are left away."),
        Field(key="entrypoint", shape=ARGV, doc="What a service of this image starts; `closure` begins here."),
        Field(
            key="reduce",
            shape=Choice(values=("none", "standard", "closure")),
            doc="standard: no documentation, locales, package database, shells, tools. closure: besides, nothing of "
            "packages that the entrypoint and `keep` do not reach.",
            default="standard",
        ),
        Field(
            key="architecture", shape=Choice(values=("amd64", "arm64")), doc="Whose programs they are.", default="amd64"
        ),
        Field(key="user", shape=Whole(low=1, high=65_533), doc="User id with a name in /etc/passwd.", default="10001"),
    )
)

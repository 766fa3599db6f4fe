#!/bin/sh
# Install the Debian packages of the named lists, as root: packages.sh base|runtime|test|guest...
# Quick when everything is there: apt is asked for nothing then. packages.sh --names ...: only say what the lists hold.
set -eu

base="
python3-venv      # the interpreter, and the private environment the programs live in
ca-certificates   # fetching the pinned Python packages, images from registries
"
runtime="
crun              # runs containers
conmon            # holds a container's output and exit status while our programs restart
haproxy           # the ingress
dnsmasq-base      # names inside (the program alone; no service of the distribution)
nftables          # nft: our own table
iproute2          # ip, ip netns, tc
skopeo            # images from OCI registries
zstd              # image archives
xz-utils          # image archives
openssh-client    # doors of other machines: --at root@host, ssh-agent
procps            # sysctl
bubblewrap        # build commands of images run in its sandbox
util-linux        # mount, setpriv, nsenter, unshare, flock
e2fsprogs         # volumes of a fixed size
btrfs-progs       # volumes: a pool of our own, with snapshots
restic            # backups of volumes
"
test="
mmdebstrap        # root filesystems from Debian packages: demo, image tests, fresh machines
openssh-server    # doors are tested against a real sshd
systemd           # systemd-analyze: the units are verified and scored
xfsprogs          # volumes on XFS, whose files can share blocks
docker-registry   # images are fetched from a real registry
podman            # images are pushed to the registry door by a real client
iptables          # iptables-nft: another program's table beside ours
busybox-static    # a container's whole userland in one file
gcc               # programs that try to break out of a container
libc6-dev         # the same: what they are linked with
apparmor          # the profile of containers is one that its parser takes
jq                # the README's examples
curl              # the README's examples
git               # the README starts with a clone
"
guest="
qemu-system-x86   # the guest: a whole Debian with its own kernel and systemd
"

names() { printf '%s\n' "$1" | sed -e 's/#.*//' -e '/^ *$/d' | tr -d ' '; }

missing() {
    for name in $wanted; do
        case "$(dpkg-query -W -f='${db:Status-Abbrev}' "$name" 2>/dev/null)" in
            ?i*) ;;
            *) echo "$name" ;;
        esac
    done
}

only_names=
[ "${1:-}" != --names ] || { only_names=yes; shift; }
wanted=""
for list in "$@"; do
    case "$list" in
        base) wanted="$wanted $(names "$base")" ;;
        runtime) wanted="$wanted $(names "$runtime")" ;;
        test) wanted="$wanted $(names "$test")" ;;
        guest) wanted="$wanted $(names "$guest")" ;;
        *) echo "cannot install packages: no list is called $list (base, runtime, test, guest)" >&2; exit 2 ;;
    esac
done
[ -z "$only_names" ] || { echo "$wanted"; exit 0; }

need=$(missing)
[ -n "$need" ] || exit 0
need=$(echo "$need" | tr '\n' ' ')
if [ "$(id -u)" != 0 ]; then
    echo "cannot install packages: this needs root" >&2
    echo "  hint: sudo apt-get install --no-install-recommends $need" >&2
    exit 1
fi
if ! command -v apt-get >/dev/null; then
    echo "cannot install packages: there is no apt-get here" >&2
    echo "  hint: install what gives you: $need" >&2
    exit 1
fi

# We want the programs, not the services the distribution starts with them: a second proxy or sshd could take a port.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
    trap 'rm -f $policy' EXIT
    trap 'exit 1' HUP INT TERM
    printf '#!/bin/sh\nexit 101\n' > $policy
    chmod 755 $policy
fi
echo "Installing Debian packages: $need"
export DEBIAN_FRONTEND=noninteractive
log=$(mktemp)
# shellcheck disable=SC2086  # a list of names
if ! { apt-get -qq -o Acquire::Retries=3 update &&
    apt-get -qq -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 install -y --no-install-recommends $need; } >"$log" 2>&1; then
    cat "$log" >&2
    rm -f "$log"
    echo "cannot install packages: apt-get says why above" >&2
    exit 1
fi
rm -f "$log"
case " $need " in
    *" haproxy "*) command -v systemctl >/dev/null && systemctl -q disable haproxy.service 2>/dev/null || true ;;
esac

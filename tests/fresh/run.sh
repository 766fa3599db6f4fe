#!/usr/bin/env bash
# A fresh Debian 12 with nothing but make, git and ca-certificates, a clone of this checkout, and the words typed there:
#
#   tests/fresh/run.sh test              tests/fresh/run.sh demo test              tests/fresh/run.sh check
#
# Each word is one `make WORD`, in order, in the same fresh system. As root; needs mmdebstrap. What was committed is
# what is tested. The system has its own mount and PID namespaces, and with slirp4netns (Debian: slirp4netns) its own
# network namespace with a way out. Without it, it shares ours: apt and pip must reach their archives during set-up,
# and any other way out would change the network of this machine.
#
#   FRESH_DIR    where systems are unpacked and cached (default: build/fresh)
#   FRESH_KEEP=1 leave the system there afterwards
#   FRESH_ENTER  chroot (default) or pivot: how its root becomes the root
set -euo pipefail

house=$(cd "$(dirname "$0")/../.." && pwd)
dir=${FRESH_DIR:-$house/build/fresh}
enter=${FRESH_ENTER:-chroot}
suite=bookworm
image=$dir/debian-$suite.tar
words=("$@")
((${#words[@]})) || { sed -n '2,/^set/p' "$0" | sed -e '/^set/d' -e 's/^# \{0,1\}//'; exit 2; }
[ "$(id -u)" = 0 ] || { echo "cannot make a fresh system: this needs root" >&2; exit 1; }
command -v mmdebstrap >/dev/null || { echo "cannot make a fresh system: mmdebstrap is not installed" >&2; exit 1; }
mkdir -p "$dir"

# -- how this machine reaches its archives, whatever that is: sources, keys, apt settings, certificates, pip settings

# shellcheck source=tests/fresh/archives.sh
. "$house/tests/fresh/archives.sh"

hand_over_apt() { # ROOT
    local file
    mkdir -p "$1/etc/apt/apt.conf.d" "$1/etc/apt/keyrings" "$1/etc/apt/auth.conf.d"
    if [ -n "$(apt_sources)" ]; then
        rm -f "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*
        for file in $(apt_sources); do cp "$file" "$1${file}"; done
    fi
    for file in $(apt_settings); do cp "$file" "$1$file"; done
    cp -a /etc/apt/keyrings/. "$1/etc/apt/keyrings/"
    cp -a /etc/apt/auth.conf.d/. "$1/etc/apt/auth.conf.d/" 2>/dev/null || true
    cp -n /usr/share/keyrings/* "$1/usr/share/keyrings/" 2>/dev/null || true
}

hand_over_certificates() { # ROOT
    mkdir -p "$1/usr/local/share/ca-certificates" "$1/etc/ssl/certs"
    cp -r /usr/local/share/ca-certificates/. "$1/usr/local/share/ca-certificates/"
    cp -L /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/ca-certificates.crt"
}

pip_files() { ls /etc/pip.conf ~/.config/pip/pip.conf ~/.pip/pip.conf 2>/dev/null || true; }

hand_over_pip() { # ROOT
    local file
    for file in $(pip_files); do
        case "$file" in /etc/*) install -D -m 644 "$file" "$1$file" ;; *) install -D -m 644 "$file" "$1/root${file#"$HOME"}" ;; esac
    done
}

local_folders() { # the index and link folders that pip's settings name, to be bound at the same paths
    { cat $(pip_files) /dev/null; env | grep '^PIP_' || true; } | grep -oE '(file://)?/[^ ,"]+' \
        | while read -r path; do
            # The pages of an index may link to files beside its folder.
            case "$path" in file:///*/*) path=$(dirname "${path#file://}") ;; file://*) path=${path#file://} ;; esac
            [ ! -d "$path" ] || echo "$path"
        done | sort -u
}

kept_environment() { # what says how to reach archives
    env | grep -iE '^(PIP_[A-Z_]*|SSL_CERT_(FILE|DIR)|(CURL|REQUESTS)_CA_BUNDLE|(https?|no|all)_proxy)=' || true
}

# -- the system

if [ ! -e "$image" ]; then
    echo "== making the image of a fresh system (kept in $image)"
    debian "${image%.tar}.new.tar" make,git,ca-certificates
    mv "${image%.tar}.new.tar" "$image"
fi

root=$(mktemp -d "$dir/root-XXXXXX")
cleanup() { # mounts went with their namespace
    [ -z "${slirp:-}" ] || kill "$slirp" 2>/dev/null || true
    [ -n "${FRESH_KEEP:-}" ] && { echo "== kept: $root"; return; }
    rm -rf --one-file-system "$root"
}
trap cleanup EXIT
trap 'exit 130' INT TERM
echo "== unpacking"
tar -C "$root" -xf "$image"
hand_over_apt "$root"
hand_over_certificates "$root"
hand_over_pip "$root"
cp -L /etc/resolv.conf "$root/etc/resolv.conf"
printf '127.0.0.1 localhost\n::1 localhost\n127.0.1.1 fresh\n' > "$root/etc/hosts"
git -c safe.directory='*' clone -q --no-hardlinks "$house" "$root/root/nebh"
mkdir -p "$root/run" "$root/.old"
for path in $(local_folders); do mkdir -p "$root$path"; done
data=$house/../shared/data
[ ! -d "$data" ] || mkdir -p "$root/root/shared/data"

# -- the namespaces

cat > "$root/.inside" <<INSIDE
set -euo pipefail
root='$root'
network=\$1
while [ "\$network" = own ] && [ ! -e "\$root/.connected" ]; do sleep 0.1; done
mount --bind "\$root" "\$root"
mount -t proc proc "\$root/proc"
if [ "\$network" = own ]; then mount -t sysfs sysfs "\$root/sys"; else mount --rbind /sys "\$root/sys"; fi
[ "\$network" != own ] || mount --rbind /sys/fs/cgroup "\$root/sys/fs/cgroup"
mount --rbind /dev "\$root/dev"
mount -t tmpfs -o mode=755 tmpfs "\$root/run"
mkdir -p "\$root/run/lock"
mount -t tmpfs -o mode=1777 tmpfs "\$root/tmp"
$(for path in $(local_folders); do printf "mount --bind -o ro '%s' '%s'\n" "$path" "$root$path"; done)
[ ! -d '$data' ] || mount --bind -o ro '$data' "\$root/root/shared/data"
cd "\$root"
if [ '$enter' = pivot ]; then
    pivot_root . .old
    umount -l /.old
    exec bash /.typed
fi
exec chroot . bash /.typed
INSIDE

{
    echo 'set -u; cd /root/nebh; failed=0'
    for word in "${words[@]}"; do
        for target in $word; do
            echo "echo; echo '== make $target'; start=\$SECONDS"
            echo "make $target; status=\$?; echo \"== make $target: status \$status after \$((SECONDS - start)) s\""
            echo '[ $status = 0 ] || failed=1'
        done
    done
    echo '[ ! -e build/demo.json ] || cat build/demo.json'
    echo 'exit $failed'
} > "$root/.typed"

mapfile -t environment < <(kept_environment)
inside=(env -i HOME=/root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin TERM=dumb LANG=C.UTF-8
    "${environment[@]}" bash "$root/.inside")
if command -v slirp4netns >/dev/null; then
    unshare --mount --propagation private --pid --fork --kill-child --net "${inside[@]}" own &
    machine=$!
    for _ in $(seq 50); do first=$(cat "/proc/$machine/task/$machine/children" 2>/dev/null) && [ -n "$first" ] && break; sleep 0.1; done
    slirp4netns --configure --mtu=1500 --disable-host-loopback "${first% }" tap0 > "$dir/slirp.log" 2>&1 &
    slirp=$!
    sleep 1
    touch "$root/.connected"
    sed -i '1i nameserver 10.0.2.3' "$root/etc/resolv.conf"
    status=0
    wait "$machine" || status=$?
    exit "$status"
fi
echo "== slirp4netns is not installed: the fresh system shares this machine's network"
unshare --mount --propagation private --pid --fork --kill-child "${inside[@]}" shared

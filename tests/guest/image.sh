#!/usr/bin/env bash
# The disk of the guest: image.sh FOLDER makes FOLDER/{disk.ext4,vmlinuz,initrd.img,key,key.pub}. As root; needs mmdebstrap.
#
# A Debian 12 with systemd, Debian's cloud kernel and sshd, what Nebh needs of Debian, and /opt/nebh/venv made by
# packaging/tree.sh: installing Python packages takes minutes in an emulated machine. Nebh's own code is not in it: that
# comes by `make install` in the running guest. FOLDER is complete once it has disk.ext4.
set -euo pipefail

folder=$1
house=$(cd "$(dirname "$0")/../.." && pwd)
suite=bookworm
# shellcheck source=tests/fresh/archives.sh
. "$house/tests/fresh/archives.sh"

commas() { tr -s ' \n' ',' | sed -e 's/^,//' -e 's/,$//'; }

system=systemd-sysv,udev,kmod,linux-image-cloud-amd64,initramfs-tools,zstd,openssh-server,apparmor,lvm2,thin-provisioning-tools,xfsprogs
readme=make,git,curl,jq,busybox-static
runtime=$("$house/packaging/packages.sh" --names base runtime | commas)

mkdir -p "$folder"
work=$(mktemp -d "$folder/work-XXXXXX")
trap 'rm -rf --one-file-system "$work"' EXIT
trap 'exit 130' INT TERM
root=$work/root
[ -e "$folder/key" ] || ssh-keygen -q -t ed25519 -N '' -C guest -f "$folder/key"

# -- what pip will want, fetched the way this machine fetches it
mkdir -p "$work/nebh/src" "$work/wheels"
cp -r "$house/packaging" "$house/requirements" "$work/nebh/"
for python in "${PYTHON:-}" /usr/bin/python3; do
    [ -n "$python" ] && "$python" -m pip --version >/dev/null 2>&1 && break
done
"$python" -m pip download -qq --disable-pip-version-check --no-input --require-hashes --no-deps --only-binary=:all: \
    --python-version 3.11 --dest "$work/wheels" -r "$house/requirements/runtime.txt"

# -- what a provider's image would have set up
mkdir -p "$work/etc/systemd/network" "$work/etc/systemd/journald.conf.d" "$work/etc/ssh/sshd_config.d"
printf '[Match]\nName=eth0\n[Network]\nAddress=10.0.2.15/24\nGateway=10.0.2.2\nIPv6AcceptRA=no\nLinkLocalAddressing=no\n' \
    > "$work/etc/systemd/network/50-eth0.network"
printf '[Journal]\nStorage=persistent\n' > "$work/etc/systemd/journald.conf.d/guest.conf"
printf 'UsePAM no\nUseDNS no\nPermitRootLogin prohibit-password\n' > "$work/etc/ssh/sshd_config.d/guest.conf"
printf '/dev/vda / ext4 errors=remount-ro 0 1\n' > "$work/etc/fstab"
echo guest > "$work/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 guest\n' > "$work/etc/hosts"

cat > "$work/set-up" <<'INSIDE'
set -eu
export DEBIAN_FRONTEND=noninteractive
systemctl -q enable systemd-networkd.service
systemctl -q disable haproxy.service nftables.service 2>/dev/null || true
systemctl -q mask serial-getty@ttyS0.service getty@tty1.service apt-daily.timer apt-daily-upgrade.timer \
    systemd-networkd-wait-online.service e2scrub_all.timer fstrim.timer dpkg-db-backup.timer
mkdir -p /var/log/journal /root/.ssh
chmod 700 /root/.ssh
PIP_NO_INDEX=1 PIP_FIND_LINKS=/var/lib/wheels /var/lib/set-up/packaging/tree.sh /opt/nebh runtime
rm -rf /var/lib/wheels /var/lib/set-up
INSIDE

debian "$root" "$system,$readme,$runtime" \
    --customize-hook="cp -r $work/etc/. \"\$1/etc/\"" \
    --customize-hook="cp -r $work/nebh \"\$1/var/lib/set-up\" && cp -r $work/wheels \"\$1/var/lib/wheels\"" \
    --customize-hook="chroot \"\$1\" sh -c \"\$(cat $work/set-up)\"" \
    --customize-hook="install -m 600 $folder/key.pub \"\$1/root/.ssh/authorized_keys\""

cp "$root"/boot/vmlinuz-* "$folder/vmlinuz"
cp "$root"/boot/initrd.img-* "$folder/initrd.img"
rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/{doc,man,locale}/*
truncate -s 3G "$work/disk.ext4"
mke2fs -q -t ext4 -d "$root" "$work/disk.ext4"
mv "$work/disk.ext4" "$folder/disk.ext4"

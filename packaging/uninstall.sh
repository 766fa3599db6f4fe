#!/bin/sh
# Take away what install.sh made, and say what stays. A cloud's state is never touched: `nebh down --purge` does that.
set -eu
prefix=${PREFIX:-/opt/nebh}
links=${LINKS:-/usr/local/bin}
state=/var/lib/nebh

[ "$(id -u)" = 0 ] || { echo "cannot remove Nebh: this needs root" >&2; echo "  hint: sudo make uninstall" >&2; exit 1; }
for program in nebh nebh-controller nebh-agent nebh-executor; do
    [ "$(readlink "$links/$program" 2>/dev/null)" != "$prefix/bin/$program" ] || rm -f "$links/$program"
done
rm -f /usr/share/bash-completion/completions/nebh
[ ! -e "$prefix/bin/nebh-executor" ] || rm -rf "$prefix"
echo "Removed: $prefix, its links in $links, shell completion."
if [ -e $state ]; then
    echo "Stays: $state and the users nebh-*, who own parts of it. \`nebh down --purge\` before uninstalling removes it."
else
    for user in nebh-controller nebh-agent nebh-ingress nebh-dns nebh-render; do
        ! getent passwd $user >/dev/null || userdel $user
        ! getent group $user >/dev/null || groupdel $user
    done
    echo "Removed: the users nebh-*."
fi
echo "Stays: the Debian packages, which others may use (packaging/packages.sh lists them with their reasons)."

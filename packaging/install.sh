#!/bin/sh
# Install Nebh on this machine, as root. Safe to repeat; an upgrade is the same command. Programs that run keep
# their code until they are started again.
set -eu
umask 022
here=$(cd "$(dirname "$0")" && pwd)
prefix=${PREFIX:-/opt/nebh}
links=${LINKS:-/usr/local/bin}
completions=/usr/share/bash-completion/completions

[ "$(id -u)" = 0 ] || { echo "cannot install Nebh: this needs root" >&2; echo "  hint: sudo make install" >&2; exit 1; }
"$here/packages.sh" base runtime
"$here/users.sh"
"$here/tree.sh" "$prefix" runtime
mkdir -p "$links"
for program in nebh nebh-controller nebh-agent nebh-executor; do
    ln -sfn "$prefix/bin/$program" "$links/$program"
done
if text=$("$prefix/bin/nebh" completion bash 2>/dev/null) && [ -n "$text" ]; then
    mkdir -p "$completions"
    printf '%s\n' "$text" > "$completions/nebh"
fi
echo "Nebh is installed in $prefix; \`nebh up\` makes this machine a cloud."

#!/bin/sh
# Build a program tree: tree.sh PREFIX runtime|dev
#
#   PREFIX/venv -> venv-<hash of the pins>      rebuilt only when the pins or the interpreter change
#   PREFIX/src  -> src-<hash of the sources>    a copy: root never runs what an ordinary user may write
#   PREFIX/bin/{nebh,nebh-controller,nebh-agent,nebh-executor}
#
# Both links are replaced in one step, so what runs from the old folder runs on.
set -eu
umask 022
prefix=$1
kind=$2
here=$(cd "$(dirname "$0")/.." && pwd)
python=${PYTHON:-/usr/bin/python3}
pins=$here/requirements/$kind.txt

mkdir -p "$prefix"
exec 9>"$prefix/.lock"
flock 9

if ! "$python" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "cannot build the program tree: $python is not Python 3.11 or newer with its venv module" >&2
    echo "  hint: sudo apt-get install python3-venv" >&2
    exit 1
fi

swap() { ln -sfn "$2" "$prefix/.$1.new" && mv -T "$prefix/.$1.new" "$prefix/$1"; }

# -- the environment
key=$({ "$python" -VV; cat "$pins"; } | sha256sum | cut -c1-12)
venv=$prefix/venv-$key
if [ ! -e "$venv/.complete" ]; then
    echo "Installing pinned Python packages into $venv"
    rm -rf "$venv"
    "$python" -m venv "$venv"
    "$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input --retries 5 \
        --no-compile --require-hashes -r "$pins"
    # Every start of this Python would load its hook.
    "$venv/bin/python" -m pip uninstall -qq --yes --disable-pip-version-check setuptools >/dev/null 2>&1 || true
    # pip compiles on one core; some packages carry files for other versions of Python, which do not compile.
    "$venv/bin/python" -m compileall -q -j 0 "$venv/lib" >/dev/null 2>&1 || true
    "$venv/bin/python" -c 'import site, sys; print(sys.argv[1], file=open(site.getsitepackages()[0] + "/nebh.pth", "w"))' \
        "$prefix/src"
    touch "$venv/.complete"
fi
swap venv "venv-$key"

# -- the sources
key=$(cd "$here/src" && find . -name __pycache__ -prune -o -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum \
    | sha256sum | cut -c1-12)
src=$prefix/src-$key
if [ ! -e "$src/.complete" ]; then
    rm -rf "$src"
    mkdir "$src"
    tar -C "$here/src" --exclude=__pycache__ --exclude='*.egg-info' -cf - . \
        | tar -C "$src" --no-same-owner --no-same-permissions -xf -
    chmod -R u=rwX,go=rX "$src"
    swap src "src-$key"
    "$prefix/venv/bin/python" -m compileall -q "$src" >/dev/null || true  # a test of its own says what does not compile
    touch "$src/.complete"
fi
swap src "src-$key"
touch "$src"
# Programs of an older tree may still run and import: what is older than a day goes.
find "$prefix" -mindepth 1 -maxdepth 1 -name 'src-*' ! -name "src-$key" -mtime +0 -exec rm -rf {} +

# -- what `nebh up root@HOST` takes along
rm -rf "$prefix/share.new"
mkdir -p "$prefix/share.new"
tar -C "$here" --exclude=__pycache__ --exclude='*.egg-info' -cf - src packaging requirements \
    | tar -C "$prefix/share.new" --no-same-owner --no-same-permissions -xf -
chmod -R u=rwX,go=rX "$prefix/share.new"
rm -rf "$prefix/share"
mv "$prefix/share.new" "$prefix/share"

# -- the programs
mkdir -p "$prefix/bin"
for program in nebh nebh-controller nebh-agent nebh-executor; do
    file=$prefix/bin/$program
    # -I: neither the caller's environment nor the current folder decides which code runs.
    start="-m nebh.programs.${program#nebh-}"
    # The command line starts often: finding a module to run by -m loads more than most commands need.
    [ "$program" != nebh ] || start='-c "from nebh.programs.nebh import main; main()"'
    printf '#!/bin/sh\nexec %s/venv/bin/python -I %s "$@"\n' "$prefix" "$start" > "$file.new"
    chmod 755 "$file.new"
    mv "$file.new" "$file"
done

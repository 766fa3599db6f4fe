#!/bin/sh
# A storage of one's own in its simplest form: folders and cp. folder_storage.sh ROOT VERB WORDS...
set -eu
umask 022
root=$1 verb=$2
shift 2
mkdir -p "$root/live" "$root/kept" "$root/about"

refuse() { echo "$2" >&2; exit "$1"; }
need() { [ -d "$root/live/$1" ] || refuse 3 "no volume $1"; }
stamp() { date +%s%N | cut -c1-13; }

keep() { # FROM VOLUME SNAPSHOT HOW: what comes under its name is whole
    mkdir -p "$root/kept/$2" "$root/about/$2"
    echo "$(stamp) $4" > "$root/about/$2/$3"
}

finish() { # VOLUME: end a restore that was cut short
    [ -e "$root/about/$1/.restored.new" ] || return 0
    name=$(cat "$root/about/$1/.restored.new")
    if [ -d "$root/stage/$1" ] && [ ! -d "$root/stage/$1.part" ]; then
        [ ! -d "$root/live/$1" ] || { keep - "$1" "$name" discarded; mv "$root/live/$1" "$root/kept/$1/$name"; }
        mv "$root/stage/$1" "$root/live/$1"
    fi
    if [ -d "$root/kept/$1/$name" ]; then
        mv "$root/about/$1/.restored.new" "$root/about/$1/.restored"
    fi
    sync -f "$root"
}

case "$verb" in
    open) for one in "$root"/about/*; do [ ! -d "$one" ] || finish "${one##*/}"; done ;;
    list)
        for one in "$root"/live/*; do
            [ -d "$one" ] || continue
            name=${one##*/}
            echo "volume $name $(cat "$root/about/$name/.quota")"
            (cd "$root/about/$name" && for snapshot in *; do
                [ ! -d "$root/kept/$name/$snapshot" ] || echo "$(cat "$snapshot") $snapshot"
            done) | sort -n | while read -r at how snapshot; do echo "snapshot $name $snapshot $at $how"; done
        done ;;
    make) # VOLUME QUOTA UID GID
        mkdir -p "$root/about/$1"
        echo "$2" > "$root/about/$1/.quota"
        [ -d "$root/live/$1" ] || {
            rm -rf "$root/live/.$1"
            mkdir -m 700 "$root/live/.$1"
            chown "$3:$4" "$root/live/.$1"
            mv "$root/live/.$1" "$root/live/$1"
        } ;;
    remove) rm -rf "$root/live/$1" "$root/kept/$1" "$root/about/$1" "$root/stage/$1" "$root/stage/$1.part" ;;
    snapshot) # VOLUME SNAPSHOT
        need "$1"
        [ ! -d "$root/kept/$1/$2" ] || exit 0
        keep - "$1" "$2" kept
        rm -rf "$root/kept/$1/.$2"
        cp -a "$root/live/$1" "$root/kept/$1/.$2"
        sync -f "$root"
        mv "$root/kept/$1/.$2" "$root/kept/$1/$2" ;;
    restore) # VOLUME SNAPSHOT KEEP
        finish "$1"
        need "$1"
        [ "$(cat "$root/about/$1/.restored" 2>/dev/null)" != "$3" ] || exit 0
        [ ! -d "$root/kept/$1/$3" ] || refuse 4 "there is a snapshot $3"
        [ -d "$root/kept/$1/$2" ] || refuse 3 "no snapshot $2"
        mkdir -p "$root/stage"
        rm -rf "$root/stage/$1" "$root/stage/$1.part"
        cp -a "$root/kept/$1/$2" "$root/stage/$1.part"
        echo "$3" > "$root/about/$1/.restored.new"
        sync -f "$root"
        mv "$root/stage/$1.part" "$root/stage/$1"
        finish "$1" ;;
    delete) rm -rf "$root/kept/$1/$2" "$root/about/$1/$2" ;;
    clone) # VOLUME SNAPSHOT TO QUOTA
        need "$1"
        if [ -d "$root/live/$3" ]; then
            [ "$(cat "$root/about/$3/.cloned" 2>/dev/null)" = "$1@$2" ] || refuse 4 "there is a volume $3"
            exit 0
        fi
        mkdir -p "$root/about/$3"
        echo "$4" > "$root/about/$3/.quota"
        echo "$1@$2" > "$root/about/$3/.cloned"
        rm -rf "$root/live/.$3"
        if [ -n "$2" ]; then cp -a "$root/kept/$1/$2" "$root/live/.$3"; else cp -a "$root/live/$1" "$root/live/.$3"; fi
        mv "$root/live/.$3" "$root/live/$3" ;;
    resize) echo "$2" > "$root/about/$1/.quota" ;;
    browse) echo "$root/kept/$1/$2" ;;
    *) refuse 2 "no such verb: $verb" ;;
esac

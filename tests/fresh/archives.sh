# How this machine reaches Debian's archive, whatever that is; to be sourced. Needs $suite.

apt_sources() { grep -lsw "$suite" /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources} || true; }

apt_settings() { grep -ls 'Acquire::' /etc/apt/apt.conf /etc/apt/apt.conf.d/* || true; }

debian() { # OUTPUT PACKAGES [more words for mmdebstrap]: a minimal system with these packages, comma-separated
    local output=$1 packages=$2 settings
    shift 2
    settings=$(mktemp)
    # shellcheck disable=SC2046  # a list of files
    cat $(apt_settings) /dev/null > "$settings"
    # shellcheck disable=SC2046  # as above
    mmdebstrap --quiet --variant=minbase --include="$packages" --aptopt="$settings" "$@" "$suite" "$output" $(apt_sources) \
        || { rm -f "$settings"; return 1; }
    rm -f "$settings"
}

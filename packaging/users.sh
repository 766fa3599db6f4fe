#!/bin/sh
# Create the system users the programs run as, as root. Each is a user so that none can read what another keeps.
set -eu
create() {
    getent group "$1" >/dev/null || groupadd --system "$1"
    getent passwd "$1" >/dev/null || useradd --system --gid "$1" --home-dir /nonexistent --no-create-home \
        --shell /usr/sbin/nologin --comment "$2" "$1"
}
create nebh-controller "Nebh controller"
create nebh-agent "Nebh agent"
create nebh-ingress "Nebh HAProxy"
create nebh-dns "Nebh dnsmasq"
create nebh-render "Nebh renderer"

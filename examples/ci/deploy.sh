#!/bin/sh
# What every CI system here runs after a commit: build, sign with the service's CI key, deploy. The exit status is the
# nodes' own word: 0 only when their signed receipts say that the release is committed.
#
#   NEBH_CI_KIT  the kit that `nebh key ci-kit` wrote: a file's name, or its text
#   SPEC         the service spec, web.yaml by default
#   BUILD        a command that makes the files the spec names, none by default
set -eu

: "${NEBH_CI_KIT:?set it to what \`nebh key ci-kit\` wrote}"
spec=${SPEC:-web.yaml}

# A folder of this job's own: nothing is left on the runner but the cache of objects, which makes the next push small.
NEBH_CONFIG=$(mktemp -d)
export NEBH_CONFIG
trap 'rm -rf "$NEBH_CONFIG"' EXIT

[ -z "${BUILD:-}" ] || sh -eu -c "$BUILD"
nebh spec check "$spec"
nebh deploy "$spec"

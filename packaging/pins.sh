#!/bin/sh
# Choose versions anew: requirements/*.in -> requirements/*.txt with the hash of every file (pip-tools, Python 3.11).
set -eu
cd "$(dirname "$0")/../requirements"
for kind in runtime dev; do
    # No index, no folder: where packages come from is a matter of the machine, what they are is a matter of the hash.
    pip-compile --quiet --upgrade --generate-hashes --allow-unsafe --strip-extras --no-header --no-annotate \
        --no-emit-index-url --no-emit-find-links --no-emit-trusted-host --output-file "$kind.txt" "$kind.in"
done

#!/bin/sh
# Make the lock files anew from the *.in files: hashes, every supported Python and platform, no address of an index.
set -eu
cd "$(dirname "$0")"
compile() { uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-emit-index-url "$@"; }
compile bootstrap.in -o bootstrap.txt
tandem="../pyproject.toml --extra azure --extra s3 --extra serving --extra dagster"
# shellcheck disable=SC2086 - several words
compile -c bootstrap.txt $tandem main.in -o main.txt
compile -c main.txt serving.in -o serving.txt
compile -c main.txt -c serving.txt serving-test.in -o serving-test.txt
# shellcheck disable=SC2086
compile -c main.txt -c serving-test.txt $tandem dev.in -o dev.txt

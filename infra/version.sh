#!/bin/sh
# The package's version and, in a checkout, the commit: what a deployment shows as its version.
version=$(sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
commit=$(git rev-parse --short=10 HEAD 2>/dev/null) || commit=${CRASH_COMMIT:-}
echo "${version}${commit:++$commit}"

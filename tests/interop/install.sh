#!/usr/bin/env bash
# Installs the other IPFS programs that the tests in tests/it/interop talk to: kubo and Helia, in the versions that
# go.mod and package-lock.json here name. Into the build folder, nothing beside it; what is there already stays.
# Some 5 minutes cold on two cores. Needs Go (1.21 or newer; it gets the version that go.mod asks for) and npm.
# DUNLIN_KUBO (an `ipfs`) and DUNLIN_HELIA (a folder with node_modules) name ones that are installed elsewhere.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
into=${CARGO_TARGET_DIR:-../../target}/interop
mkdir -p "$into"
into=$(cd "$into" && pwd)

need() {
  command -v "$1" >/dev/null || { echo "$1 is missing: $2" >&2; exit 1; }
}

if [ -z "${DUNLIN_KUBO:-}" ]; then
  version=$(sed -n 's/.*github.com\/ipfs\/kubo v//p' go.mod)
  if [ "$("$into/ipfs" version --number 2>/dev/null)" != "$version" ]; then
    need go "kubo is built with it; see https://go.dev/dl"
    echo "building kubo $version" >&2
    go build -mod=readonly -o "$into/ipfs" github.com/ipfs/kubo/cmd/ipfs
  fi
fi

if [ -z "${DUNLIN_HELIA:-}" ]; then
  if ! cmp -s package-lock.json "$into/helia/installed"; then
    need npm "Helia is installed with it; Debian's package is npm"
    echo "installing Helia" >&2
    rm -rf "$into/helia"
    mkdir -p "$into/helia"
    cp package.json package-lock.json "$into/helia/"
    cd "$into/helia"
    # No install scripts but that of `node`, which puts the program itself in its place.
    npm ci --no-audit --no-fund --ignore-scripts --legacy-peer-deps --loglevel=error >&2
    npm rebuild node >&2
    node_modules/.bin/node --version >/dev/null
    cp package-lock.json installed
  fi
fi

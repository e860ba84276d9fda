#!/usr/bin/env bash
# What the simulated swarm promises, against its bounds (docs/swarm.md): exit code 1 if one is missed.
#   benches/swarm_sim.sh [NAME...]      default: all of `dunlin lab check`, some twenty minutes of one core
# SEEDS (3) and JOBS (the number of cores) go to `dunlin lab check`; DUNLIN names another binary.
# HUGE=1 simulates 10,000 peers too, which takes 2 GiB of memory and up to twenty minutes.
set -euo pipefail
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
if [ -z "${DUNLIN:-}" ]; then
  (cd "$TOP" && cargo build --locked --release --bin dunlin >&2)
  DUNLIN=$(cd "$TOP" && cargo metadata --format-version 1 --no-deps |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/release/dunlin
fi
"$DUNLIN" lab check --seeds "${SEEDS:-3}" --jobs "${JOBS:-$(nproc)}" "$@"

# timed NAME SECONDS: a flash crowd of so many must be simulated within so long.
timed() {
  local start=$SECONDS
  sed "s/1000/$1/" "$TOP/config/scenarios/flash-crowd.toml" >"$SCENARIO"
  "$DUNLIN" lab swarm --scenario "$SCENARIO" | head -4
  echo "$1 peers, 1,024 chunks: simulated in $((SECONDS - start)) s (bound $2 s)"
  [ $((SECONDS - start)) -le "$2" ]
}
SCENARIO=$(mktemp --suffix=.toml)
trap 'rm -f "$SCENARIO"' EXIT
timed 1000 60
if [ "${HUGE:-0}" = 1 ]; then timed 10000 1200; fi

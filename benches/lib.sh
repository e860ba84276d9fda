# What the bench scripts share: the folder of the peers' scripts, and a release build of dunlin. Sourced.
set -euo pipefail
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

if [ -z "${PEERS_SCRIPTS:-}" ] || [ ! -f "$PEERS_SCRIPTS/lib.sh" ]; then
  echo "PEERS_SCRIPTS must name the folder with one_to_one.sh, import.sh, latency.sh and contestants/" >&2
  echo "(now: ${PEERS_SCRIPTS:-not set}); docs/benchmarks.md says what they do" >&2
  exit 2
fi
[ "$(id -u)" = 0 ] || { echo "the peers' scripts make network namespaces, which only root can" >&2; exit 2; }

# The binary as it is published: DUNLIN names another one.
if [ -z "${DUNLIN:-}" ]; then
  (cd "$TOP" && cargo build --locked --profile dist --bin dunlin >&2)
  DUNLIN=$(cd "$TOP" && cargo metadata --format-version 1 --no-deps |
    sed -n 's/.*"target_directory":"\([^"]*\)".*/\1/p')/dist/dunlin
fi
export DUNLIN

# machine: what the figures were measured on, as one line.
machine() {
  printf '%s cores, %s, Linux %s, %s, %s\n' "$(nproc)" \
    "$(sed -n 's/^model name[^:]*: //p' /proc/cpuinfo | head -1)" "$(uname -r)" \
    "$("$DUNLIN" --version)" "$(date -u +%F)"
}
# table TITLE COMMAND...: one run of a peers' script, under a heading.
table() {
  local title=$1
  shift
  printf '\n### %s\n\n' "$title"
  "$@"
}

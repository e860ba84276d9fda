#!/usr/bin/env bash
# The tables of docs/benchmarks.md: dunlin beside other programs, in one run, one sender and one receiver.
#   PEERS_SCRIPTS=DIR benches/one_to_one.sh [big] [small] [import] [latency]      default: all
# RUNS (3), SIZE_MIB (1024) and COUNT (10) go to the peers' scripts; DUNLIN names another binary.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
[ $# -gt 0 ] || set -- big small import latency
machine
for what in "$@"; do
  case $what in
    big) table "${SIZE_MIB:-1024} MiB, one file" env INPUT=big \
      bash "$PEERS_SCRIPTS/one_to_one.sh" plain dunlin dunlin-daemon sendme kubo rqbit ;;
    small) table "10,000 files of 4 KiB in 100 folders" env INPUT=small \
      bash "$PEERS_SCRIPTS/one_to_one.sh" plain dunlin sendme rqbit ;;
    import) table "making it shareable" \
      bash "$PEERS_SCRIPTS/import.sh" floor-sha256 dunlin kubo sendme ;;
    latency) table "a 4 KiB file from a known peer" \
      bash "$PEERS_SCRIPTS/latency.sh" dunlin dunlin-daemon sendme kubo-api ;;
    *) echo "unknown table $what: big, small, import or latency" >&2; exit 2 ;;
  esac
done

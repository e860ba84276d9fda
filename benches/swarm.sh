#!/usr/bin/env bash
# A seed and N leechers on shaped links against the bound D, and the simulator's prediction beside it.
#   PEERS_SCRIPTS=DIR benches/swarm.sh [CONTESTANT...]      default: dunlin alone; lt, rqbit, kubo ... beside it
# NS ("1 2 4 8"), SIZE_MIB (64), SEED_UP, LEECH_UP, DOWN (32, 16, 64 Mbit/s), DELAY (ms), LOSS and RUNS (3) go to
# the peers' script; MOST is the bound on dunlin's time / D (1.12, with DELAY 1.15, with LOSS 1.30); DUNLIN names
# another binary. Exit code 1 if dunlin misses the bound or, without LOSS, is not within 10 % of the prediction.
. "$(dirname "${BASH_SOURCE[0]}")/lib.sh"
: "${NS:=1 2 4 8}" "${SIZE_MIB:=64}" "${SEED_UP:=32}" "${LEECH_UP:=16}" "${DOWN:=64}"
export SIZE_MIB SEED_UP LEECH_UP DOWN
most=1.12
[ -z "${DELAY:-}" ] || most=1.15
[ -z "${LOSS:-}" ] || most=1.30
most=${MOST:-$most}
[ $# -gt 0 ] || set -- dunlin
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT

# predicted N: the simulated seconds. Headers (Ethernet to TLS) take 4.7 % of the link; the shaper holds 50 ms, a
# socket 128 KiB.
predicted() {
  awk -v n="$1" -v mib="$SIZE_MIB" -v us="$SEED_UP" -v ui="$LEECH_UP" -v d="$DOWN" -v delay="${DELAY:-0.1}" 'BEGIN {
    k = 125000 * 0.953
    printf "size = \"%dMi\"\nqueue_ms = 50\nsend_buffer = \"128Ki\"\n", mib
    form = "[[group]]\nrole = \"%s\"\ncount = %d\nup = %d\ndown = %d\ndelay_ms = %s\n"
    printf form, "seed", 1, us * k, d * k, delay
    printf form, "leecher", n, ui * k, d * k, delay
  }' >"$scratch/$1.toml"
  "$DUNLIN" lab swarm --scenario "$scratch/$1.toml" --json | sed -n 's/.*"seconds":\([0-9.]*\).*/\1/p'
}

machine
bad=0
for n in $NS; do
  NS=$n table "a seed and $n leechers" bash "$PEERS_SCRIPTS/swarm.sh" "$@" | tee "$scratch/rows"
  row=$(grep '^| dunlin |' "$scratch/rows" || true)
  [ -n "$row" ] || continue
  seconds=$(predicted "$n")
  awk -F'|' -v p="$seconds" -v most="$most" -v loss="${LOSS:-}" '{
    d = $4; split($5, t, " "); measured = t[1]
    printf "simulated: %.2f s, %.2f of D; measured over simulated: %.2f\n", p, p / d, measured / p
    missed = measured <= 0 || measured / d > most
    if (missed) printf "MISSED: time / D is %.2f, bound %s\n", measured / d, most
    off = measured / p > 1.1 || measured / p < 0.9
    if (loss == "" && off) printf "MISSED: the simulator is not within 10 %%\n"
    exit missed || (loss == "" && off)
  }' <<<"$row" || bad=1
done
exit "$bad"

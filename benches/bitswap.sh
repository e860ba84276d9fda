#!/usr/bin/env bash
# Bitswap between dunlin and kubo, beside kubo with kubo, in one run: seconds, and copies of the file sent.
#   DUNLIN_KUBO=/path/to/ipfs benches/bitswap.sh            RUNS (3), SIZE_MIB (256), RATE (100 Mbit/s), DUNLIN
# Needs root (namespaces), iproute2, python3, curl. Hosts: a bridge, three seeds (shaped in the second table), a receiver.
set -euo pipefail
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
: "${DUNLIN_KUBO:?names the ipfs program}" "${RUNS:=3}" "${SIZE_MIB:=256}" "${RATE:=100}"
: "${DUNLIN:=$TOP/target/release/dunlin}"
export IPFS_TELEMETRY=off
WORK=$(mktemp -d "${TMPDIR:-/tmp}/bitswap-bench-XXXXXX") NS=bb$$
PIDS=()
stop() { for p in "${PIDS[@]}"; do kill "$p" 2>/dev/null && wait "$p" 2>/dev/null; done; PIDS=(); true; }
finish() { stop; for n in h s1 s2 s3 r; do ip netns del "$NS$n" 2>/dev/null || true; done; rm -rf "$WORK"; }
trap finish EXIT

# --- hosts --------------------------------------------------------------------------------------
ip netns add "${NS}h"; ip -n "${NS}h" link add br0 type bridge; ip -n "${NS}h" link set br0 up
i=0
for n in r s1 s2 s3; do
  i=$((i + 1)); ip netns add "$NS$n"; ip -n "$NS$n" link set lo up
  ip -n "${NS}h" link add "p$i" type veth peer name v0 netns "$NS$n"
  ip -n "${NS}h" link set "p$i" master br0; ip -n "${NS}h" link set "p$i" up
  ip -n "$NS$n" addr add "10.78.0.$i/24" dev v0; ip -n "$NS$n" link set v0 up
done
host() { case $1 in r) echo 1 ;; s*) echo $((${1#s} + 1)) ;; esac }
ip_of() { echo "10.78.0.$(host "$1")"; }
# In place of the (sub)shell, so that its process can be stopped.
in_ns_exec() { local n=$1; shift; exec nsenter --net="/run/netns/$NS$n" "$@"; }
in_ns() { local n=$1; shift; nsenter --net="/run/netns/$NS$n" "$@"; }
shape() { for n in s1 s2 s3; do tc -n "$NS$n" qdisc replace dev v0 root tbf rate "${RATE}mbit" burst 64k latency 50ms; done; }

# --- programs -----------------------------------------------------------------------------------
kubo() { local d=$1; shift; IPFS_PATH=$WORK/$d "$DUNLIN_KUBO" "$@"; }
kubo_up() { # DIR HOST
  rm -rf "${WORK:?}/$1"; kubo "$1" init --empty-repo --profile=test >/dev/null 2>&1
  python3 - "$WORK/$1/config" "$(ip_of "$2")" <<'P'
import json, sys
c = json.load(open(sys.argv[1]))
c["Addresses"].update(Swarm=["/ip4/%s/tcp/4001" % sys.argv[2]], API="/ip4/127.0.0.1/tcp/5001", Gateway=[])
c["Routing"]["Type"] = "none"; c["Provide"]["Enabled"] = False
c["Swarm"]["RelayClient"] = {"Enabled": False}; c["Swarm"]["RelayService"] = {"Enabled": False}
c["AutoNAT"] = {"ServiceMode": "disabled"}
json.dump(c, open(sys.argv[1], "w"))
P
  (IPFS_PATH=$WORK/$1 in_ns_exec "$2" "$DUNLIN_KUBO" daemon --migrate=false >"$WORK/$1.log" 2>&1) & PIDS+=($!)
  until grep -qs "Daemon is ready" "$WORK/$1.log"; do kill -0 "${PIDS[-1]}"; sleep 0.05; done
}
kubo_in() { local d=$1 h=$2; shift 2; IPFS_PATH=$WORK/$d in_ns "$h" "$DUNLIN_KUBO" "$@"; }
kubo_addr() { echo "/ip4/$(ip_of "$2")/tcp/4001/p2p/$(sed -n 's/.*"PeerID": "\([^"]*\)".*/\1/p' "$WORK/$1/config")"; }
kubo_sent() { in_ns "$2" curl -sf -X POST http://127.0.0.1:5001/api/v0/bitswap/stat | sed 's/.*"DataSent":\([0-9]*\).*/\1/'; }
now() { date +%s.%N; }
since() { awk -v a="$1" -v b="$(now)" 'BEGIN { printf "%.2f\n", b - a }'; }
median() { sort -n | awk '{ v[NR] = $1 } END { print (NR % 2) ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

get_by_kubo() { # ADDR CID: a fresh kubo on the receiver
  kubo_up kr r; kubo_in kr r swarm connect "$1" >/dev/null
  local t; t=$(now); kubo_in kr r get --progress=false -o "$WORK/out" "$2" >/dev/null 2>&1; since "$t"
  kill "${PIDS[-1]}"; wait "${PIDS[-1]}" 2>/dev/null || true; unset 'PIDS[-1]'
  cmp -s "$WORK/file" "$WORK/out" || { echo "kubo got something else" >&2; exit 1; }; rm -rf "$WORK/out"
}
get_by_dunlin() { # CID ADDR...
  local cid=$1 t; shift
  t=$(now)
  in_ns r "$DUNLIN" --data-dir "$WORK/dr" --quiet get "$cid" -o "$WORK/out" --no-bootstrap --no-mdns \
    --listen /ip4/0.0.0.0/tcp/0 $(printf -- '--peer %s ' "$@") >/dev/null
  since "$t"
  cmp -s "$WORK/file" "$WORK/out" || { echo "dunlin got something else" >&2; exit 1; }; rm -rf "$WORK/out" "$WORK/dr"
}

head -c $((SIZE_MIB << 20)) /dev/urandom >"$WORK/file"
printf '%s cores, Linux %s, %s, %s\n' "$(nproc)" "$(uname -r)" "$("$DUNLIN" --version)" "$("$DUNLIN_KUBO" --version)"
for s in s1 s2 s3; do kubo_up "k$s" "$s"; CID=$(kubo_in "k$s" "$s" add -Q --cid-version=1 --progress=false "$WORK/file"); done

printf '\n### %s MiB, one to one, s (median of %s)\n\n| from | to kubo | to dunlin |\n|---|---|---|\n' "$SIZE_MIB" "$RUNS"
A=$(kubo_addr ks1 s1)
for _ in $(seq "$RUNS"); do get_by_kubo "$A" "$CID" >>"$WORK/kk"; get_by_dunlin "$CID" "$A" >>"$WORK/kd"; done
(in_ns_exec s2 "$DUNLIN" --data-dir "$WORK/ds" --json share "$WORK/file" --no-bootstrap --no-mdns \
  --listen /ip4/0.0.0.0/tcp/4201 >"$WORK/ds.json" 2>"$WORK/ds.log") & PIDS+=($!)
until [ -s "$WORK/ds.json" ]; do sleep 0.05; done
DA=/ip4/$(ip_of s2)/tcp/4201/p2p/$(sed 's/.*\/p2p\/\([A-Za-z0-9]*\).*/\1/' "$WORK/ds.json" | head -1)
DC=$(sed 's/.*"cid":"\([^"]*\)".*/\1/' "$WORK/ds.json" | head -1)
for _ in $(seq "$RUNS"); do get_by_kubo "$DA" "$DC" >>"$WORK/dk"; done
printf '| kubo | %s | %s |\n| dunlin | %s | |\n' "$(median <"$WORK/kk")" "$(median <"$WORK/kd")" "$(median <"$WORK/dk")"

printf '\n### to dunlin, from seeds of %s Mbit/s each\n\n| seeds | s | copies sent |\n|---|---|---|\n' "$RATE"
shape
sum_sent() { local n=0 s; for s in s1 s2 s3; do n=$((n + $(kubo_sent "k$s" "$s"))); done; echo $n; }
for seeds in "s1" "s1 s2 s3"; do
  rm -f "$WORK/t" "$WORK/c"
  addrs=(); for s in $seeds; do addrs+=("$(kubo_addr "k$s" "$s")"); done
  for _ in $(seq "$RUNS"); do
    before=$(sum_sent); get_by_dunlin "$CID" "${addrs[@]}" >>"$WORK/t"; sleep 1
    awk -v a="$before" -v b="$(sum_sent)" -v n=$((SIZE_MIB << 20)) 'BEGIN { printf "%.4f\n", (b - a) / n }' >>"$WORK/c"
  done
  printf '| %s | %s | %s |\n' "$(wc -w <<<"$seeds")" "$(median <"$WORK/t")" "$(median <"$WORK/c")"
done

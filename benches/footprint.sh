#!/usr/bin/env bash
# Memory and start-up of dunlin alone, as a table: peak anonymous memory of share, get and add, idle
# memory, time until a daemon listens and of `dunlin id`.
#   [DUNLIN=BINARY] [SIZE_MIB=4096] [FILES=100000] benches/footprint.sh
set -euo pipefail
TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
: "${SIZE_MIB:=4096}" "${FILES:=100000}" "${IDLE:=20}"
if [ -z "${DUNLIN:-}" ]; then
  (cd "$TOP" && cargo build --locked --release --bin dunlin >&2)
  DUNLIN=$TOP/target/release/dunlin
fi
work=$(mktemp -d)
pids=()
cleanup() {
  for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
  wait 2>/dev/null || true
  rm -rf "$work"
}
trap cleanup EXIT
node=(--listen /ip4/127.0.0.1/tcp/0 --no-bootstrap)

# field JSONFILE NAME: the first string of that name (an array gives its first).
field() { sed -n "s/.*\"$2\":\[\{0,1\}\"\([^\"]*\)\".*/\1/p" "$1" | head -1; }
# until_line FILE: waits for a line that ends.
until_line() { until [ "$(wc -l <"$1")" -ge 1 ]; do sleep 0.002; done; }
# anon PID: anonymous memory now, MiB. peak PID OUT: its highest value until the process ends.
anon() { awk '/^RssAnon/{printf "%.1f\n", $2/1024}' "/proc/$1/status" 2>/dev/null; }
peak() {
  local top=0 now
  while now=$(anon "$1") && [ -n "$now" ]; do
    top=$(awk -v a="$top" -v b="$now" 'BEGIN{print (b>a)?b:a}')
    echo "$top" >"$2"
    sleep 0.02
  done
}
seconds() { awk -v a="$1" -v b="$EPOCHREALTIME" 'BEGIN{printf "%.3f", b-a}'; }
row() { echo "| $1 | $2 | $3 |"; }

echo "| what | measured | bound |"
echo "|---|---|---|"

t=$EPOCHREALTIME
"$DUNLIN" id -q --data-dir "$work/id" >/dev/null
t=$(seconds "$t")
row "\`dunlin id\`, fresh data directory" "$t s" "0.050 s"

t=$EPOCHREALTIME
"$DUNLIN" daemon --json --data-dir "$work/idle" "${node[@]}" >"$work/idle.json" 2>"$work/idle.err" &
idle=$!
pids+=("$idle")
until_line "$work/idle.json"
t=$(seconds "$t")
row "a daemon listens after" "$t s" "0.300 s"
sleep "$IDLE"
row "idle, resident, after $IDLE s" "$(awk '/^VmRSS/{printf "%.1f", $2/1024}' "/proc/$idle/status") MiB" "25 MiB"
kill "$idle"

head -c "$((SIZE_MIB * 1048576))" /dev/urandom >"$work/big"
"$DUNLIN" share --json --data-dir "$work/a" "${node[@]}" "$work/big" >"$work/a.json" 2>"$work/a.err" &
share=$!
pids+=("$share")
peak "$share" "$work/share.peak" &
until_line "$work/a.json"
"$DUNLIN" get "$(field "$work/a.json" link)" -q -o "$work/copy" --data-dir "$work/b" "${node[@]}" \
  --peer "$(field "$work/a.json" listen)" >"$work/b.out" 2>"$work/b.err" &
get=$!
peak "$get" "$work/get.peak" &
wait "$get"
cmp "$work/big" "$work/copy"
kill "$share"
row "\`share\` of $SIZE_MIB MiB, peak anonymous" "$(cat "$work/share.peak") MiB" "64, better 32 MiB"
row "\`get\` of $SIZE_MIB MiB, peak anonymous" "$(cat "$work/get.peak") MiB" "64, better 32 MiB"
rm "$work/big" "$work/copy"

mkdir "$work/small"
(cd "$work/small" && for d in $(seq 0 $((FILES / 1000 - 1))); do
  mkdir "$d"
  for f in $(seq 0 999); do echo "$d $f" >"$d/$f"; done
done)
"$DUNLIN" add -q --data-dir "$work/c" "$work/small" >"$work/c.out" 2>"$work/c.err" &
add=$!
peak "$add" "$work/add.peak" &
wait "$add"
row "\`add\` of $FILES small files, peak anonymous" "$(cat "$work/add.peak") MiB" "150 MiB"

#!/bin/sh
# Shares a file from one node and fetches it with another, both on this machine, and compares the two.
#   ./demo.sh [FILE]        without FILE: 64 MiB of random bytes
# Builds in debug mode, as the tests do; DEMO_PROFILE=release ./demo.sh shows the real speed.
set -eu
cd "$(dirname "$0")"

profile=${DEMO_PROFILE:-dev}
cargo build --locked --profile "$profile"
case $profile in dev) folder=debug ;; *) folder=$profile ;; esac
dunlin=${CARGO_TARGET_DIR:-target}/$folder/dunlin

work=$(mktemp -d)
sharer=
clean_up() {
    if [ -n "$sharer" ]; then kill "$sharer" 2>"$work/kill" || true; wait "$sharer" || true; fi
    rm -rf "$work"
}
trap clean_up EXIT
trap 'exit 130' INT TERM

file=${1:-}
if [ -z "$file" ]; then
    file=$work/random.bin
    head -c 67108864 /dev/urandom >"$file"
fi

echo "== node A shares $file"
"$dunlin" share --json --data-dir "$work/a" --listen /ip4/127.0.0.1/tcp/0 --no-bootstrap "$file" >"$work/line" &
sharer=$!
until grep -q '"link"' "$work/line"; do
    kill -0 "$sharer" || { echo "node A has ended"; exit 1; }
    sleep 0.1
done
link=$(sed -n 's/.*"link":"\([^"]*\)".*/\1/p' "$work/line")
peer=$(sed -n 's/.*"listen":\["\([^"]*\)".*/\1/p' "$work/line")
echo "$link"

echo "== node B fetches it"
"$dunlin" get "$link" -o "$work/fetched" --data-dir "$work/b" \
    --listen /ip4/127.0.0.1/tcp/0 --no-bootstrap --peer "$peer"

echo "== compare"
if [ -d "$file" ]; then diff -r "$file" "$work/fetched"; else cmp "$file" "$work/fetched"; fi
echo "the same, byte for byte"

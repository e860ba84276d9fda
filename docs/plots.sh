#!/usr/bin/env bash
# Draws the plots of docs/swarm.md anew, some minutes: DUNLIN=target/release/dunlin docs/plots.sh
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/img"
: "${DUNLIN:=dunlin}"
draw() { "$DUNLIN" lab "${@:2}" --out "$1.svg" >/dev/null; }
draw slots check uniform
draw course swarm --scenario uniform
draw fairness fairness
draw churn churn
draw ring ring
draw ring-churn ring --churn

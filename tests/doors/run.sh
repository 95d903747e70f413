#!/usr/bin/env bash
# From an installed package to a certificate through each door, as a user would type it: at most three commands each.
# Usage: tests/doors/run.sh [HYBRID_RS [PYTHON]]; PYTHON needs torch, scikit-learn, pandas, onnx and onnxruntime.
set -euo pipefail
hrs=${1:-hybrid-rs} python=${2:-python3}
work=$(mktemp -d)
server=
trap '[ -z "$server" ] || kill "$server"; rm -rf "$work"' EXIT
cp "$(dirname "$0")"/*.py "$work"
cd "$work"
"$python" make_inputs.py
certificate() { # the run certifies an input
  $hrs certify "$1" --tau 0.1 --max-budget 1 --epsilon 0 --format csv | tail -n +2 | awk -F, '$4 > 0 { n++ } END { exit !n }'
  printf '%s: certified\n' "$1"
}

$hrs sample --model own_models:torch_module --data memes.jsonl --sigma 0.1 --samples 200 --out torch-run >log
certificate torch-run

$hrs sample --model own_models:pipeline --data people.csv --label-column rich --sigma 0.1 --samples 200 --out table-run >log
certificate table-run

$hrs sample --model small.onnx --threshold 0.4 --data memes.jsonl --sigma 0.1 --samples 200 --out onnx-run >log
certificate onnx-run

$hrs sample --model own_models:reads --data texts.csv --samples 200 --out text-run >log
certificate text-run

"$python" service.py port &
server=$!
for _ in $(seq 200); do [ -s port ] && break; sleep 0.05; done
$hrs sample --model "http://127.0.0.1:$(cat port)/classify" --wire json --data memes.jsonl --sigma 0.1 --samples 50 --out wire-run >log
certificate wire-run

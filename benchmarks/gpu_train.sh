#!/usr/bin/env bash
# Trains fast memories beside one file of weights on one GPU, within eight minutes in all.
#
#   benchmarks/gpu_train.sh WEIGHTS.gguf [OPTIONS ...]
#
# Each further argument is one run: options of `hope train fast-memory` in quotes, such as
# "--layers 0 12 24 --shape n_heads=4 taps=5" or "--begin FILE --learning-rate 0.001". Runs share
# the GPU side by side; without any, one run begins with the package's fast memory. For each of
# them OUT (default: runs/gpu) gets run-N.safetensors, of at most 16 MiB, and run-N.jsonl, its log.
# MINUTES (default: 6) is the time of training; reading the model and the last test come on top.
# PYTHON and DEVICE choose the interpreter and the device.
set -euo pipefail
cd "$(dirname "$0")/.."
weights=${1:?"usage: benchmarks/gpu_train.sh WEIGHTS.gguf [OPTIONS ...]"}
shift
out=${OUT:-runs/gpu}
python=${PYTHON:-python3}
shipped=hope_runtime/checkpoints/fast_memories/smollm2-135m-instruct.safetensors
[ $# -gt 0 ] || set -- "--begin $shipped"
mkdir -p "$out"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export PYTHONPATH="$PWD:$PWD/protos:$PWD/clients/python${PYTHONPATH:+:$PYTHONPATH}"

# One run alone converts the file of weights; the others find it converted.
"$python" -c 'import sys; from hope_runtime.checkpoints import load_base_model as load; load(sys.argv[1])' "$weights"

train() { # NUMBER OPTIONS
    # shellcheck disable=SC2086 # the options are several words
    "$python" -c 'import sys; from hope_lab.train.cli import main; sys.exit(main())' \
        fast-memory --model "$weights" --device "${DEVICE:-cuda}" --threads 2 \
        --minutes "${MINUTES:-6}" --seed "$1" --out "$work/$1" $2 >"$work/$1.txt" 2>&1 || {
        echo "run $1 failed:" >&2
        tail -n 20 "$work/$1.txt" >&2
        return 1
    }
    local file="$work/$1/fast_memory.safetensors"
    [ "$(stat -c %s "$file")" -le $((16 * 1024 * 1024)) ] || {
        echo "run $1: its file is larger than 16 MiB; choose a smaller --shape" >&2
        return 1
    }
    cp "$file" "$out/run-$1.safetensors"
    cp "$work/$1/log.jsonl" "$out/run-$1.jsonl"
    echo "run $1: $2"
    sed 's/^/    /' "$work/$1.txt"
}

number=0
jobs=()
for options in "$@"; do
    train "$number" "$options" &
    jobs+=($!)
    number=$((number + 1))
done
failed=0
for job in "${jobs[@]}"; do
    wait "$job" || failed=1
done
exit "$failed"

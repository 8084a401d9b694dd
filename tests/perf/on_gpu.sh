#!/bin/sh
# Everything that waits for a GPU, in one go: tests, attention, precision, the profiler at full size.
# Usage: tests/perf/on_gpu.sh OUT [PYTHON]. Reports go to OUT; a part that fails does not stop the rest.
# About 25 minutes on an H100: each part has a time limit of its own.
set -u
out=${1:?usage: tests/perf/on_gpu.sh OUT [PYTHON]}
python=${2:-python3}
failed=""
mkdir -p "$out"

part() { # name, seconds, command
  name=$1 seconds=$2
  shift 2
  echo "== $name"
  timeout "$seconds" "$@" >"$out/$name.txt" 2>&1 || failed="$failed $name"
  tail -n 5 "$out/$name.txt"
}

profile() { # name, decoding, precision, KV precision
  part "bench_$1" 400 "$python" -m sim_stream bench --preset openviga --random-weights \
    --device cuda --decoding "$2" --precision "$3" --kv-precision "$4" \
    --paces 4,free --frames 24 --warm-up 4 --no-html --out "$out/bench_$1"
}

part tests 600 "$python" -m pytest -q -m gpu
part attention 120 "$python" -m tests.perf.attention --preset openviga --slots 4133 \
  --windows 1,16,64,256 --rounds 100 --out "$out/attention.json"
part precision 120 "$python" -m tests.perf.precision --device cuda --out "$out/precision.json"
profile raster_bf16 raster bf16 auto
profile jacobi64_bf16 jacobi:64 bf16 auto
profile raster_fp8 raster fp8 auto
profile jacobi64_fp8 jacobi:64 fp8 auto
profile jacobi16_int4 jacobi:16 int4 auto

[ -z "$failed" ] || { echo "failed:$failed" && exit 1; }

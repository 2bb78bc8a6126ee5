#!/usr/bin/env bash
# One command for a GPU machine, no network needed: builds for this chip only, runs the gpu tests, then the GPU
# benchmarks. Usage: [OUT=gpu_out] bash tests/gpu/check.sh
# Leaves in $OUT: env.txt build.log tests.xml bench.json. Fails where no GPU answers, unless REQUIRE_GPU=0.
# PY: python with scikit-build-core, pybind11, cmake, ninja, numpy, ml_dtypes, pytest and CuPy or torch.
# Limits in seconds, 10 minutes in all: BUILD_S=240 TEST_S=150 BENCH_S=200.
set -uo pipefail
cd "$(dirname "$0")/../.."
PY=${PY:-python3}
OUT=$(realpath -m "${OUT:-gpu_out}"); mkdir -p "$OUT"
export PYTHONUNBUFFERED=1 CMAKE_BUILD_PARALLEL_LEVEL=${JOBS:-$(nproc)}
site=$(mktemp -d); trap 'rm -rf "$site"' EXIT
{ uname -r; nvidia-smi; nvcc --version | tail -1; "$PY" --version
  "$PY" -m pip list 2>/dev/null | grep -iE '^(numpy|ml.dtypes|cupy|torch|pybind11|scikit|cmake|ninja|pytest)'
} > "$OUT/env.txt" 2>&1
capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d .)
arch=${ARCH:-${capability:-90}}
timeout "${BUILD_S:-240}" "$PY" -m pip install -v --no-index --no-deps --no-build-isolation --no-cache-dir \
    --target "$site" -C cmake.define.TALLYSTICK_CUDA=ON -C "cmake.define.CMAKE_CUDA_ARCHITECTURES=$arch-real" \
    -C "build-dir=$site/build" . > "$OUT/build.log" 2>&1 ||
    { echo "build failed"; grep -nE 'error|Error' "$OUT/build.log" | head -20; exit 1; }
echo "built for sm_$arch in $SECONDS s"
export PYTHONPATH=$site
rc=0
files=$(grep -lE 'mark\.gpu' tests/test_*.py)  # others may import packages that a GPU machine has no need of
timeout "${TEST_S:-150}" "$PY" -m pytest $files -m gpu -q -p no:cacheprovider --junitxml="$OUT/tests.xml" || rc=$?
timeout "${BENCH_S:-200}" "$PY" benchmarks/gpu_bench.py "$OUT/bench.json" || rc=1
if [ "${REQUIRE_GPU:-1}" = 1 ] && ! grep -q '"gpu":' "$OUT/bench.json"; then  # pytest is content with skipped tests
    echo "no GPU answered"; rc=1
fi
echo "total $SECONDS s, exit code $rc"
exit $rc

#!/usr/bin/env bash
# Builds the CUDA module for the CPU (TALLYSTICK_CUDA=EMULATE) with sanitizers and runs the gpu tests on it.
# Usage: PY=.venv/bin/python bash tests/gpu/emulate.sh address,undefined|thread|"" [pytest arguments]
#   address,undefined   every test marked gpu
#   thread              a few kernels: each CUDA thread is a thread in TSan's eyes, which takes its time
set -euo pipefail
cd "$(dirname "$0")/../.."
PY=${PY:-python3}
sanitize=${1-}; shift || true
name=emulate-${sanitize:-plain}
build=$PWD/build/$name
mkdir -p build
cmake=$(dirname "$PY")/cmake; [ -x "$cmake" ] || cmake=cmake
ninja=$(dirname "$PY")/ninja; [ -x "$ninja" ] || ninja=$(command -v ninja)
"$cmake" -S . -B "$build" -G Ninja -DCMAKE_MAKE_PROGRAM="$ninja" -DPython_EXECUTABLE="$(command -v "$PY")" \
    -Dpybind11_DIR="$("$PY" -m pybind11 --cmakedir)" -DCMAKE_INSTALL_PREFIX="$build/site" \
    -DTALLYSTICK_CUDA=EMULATE -DTALLYSTICK_VERIFY=ON -DTALLYSTICK_SANITIZE="$sanitize" -DCMAKE_CXX_FLAGS_RELEASE=-O1 > "$build.log" 2>&1 ||
    { cat "$build.log"; exit 1; }
"$cmake" --build "$build" >> "$build.log" 2>&1 || { tail -50 "$build.log"; exit 1; }
rm -rf "$build/site" && mkdir -p "$build/site"
cp -r python/tallystick "$build/site/" && find "$build/site" -name '*.so' -delete
"$cmake" --install "$build" >> "$build.log"
export PYTHONPATH=$build/site
"$PY" - "$build/site" <<'P'  # an editable install in this environment would win over PYTHONPATH
import importlib.util, sys
origin = importlib.util.find_spec("tallystick").origin
if sys.argv[1] not in origin:
    sys.exit(f"{origin} would be tested, not the emulated build: use an environment without tallystick")
P
preload="" run=()
arguments=("$@")
case $sanitize in
    *address*)
        preload="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" ;;
    thread)
        preload=$(g++ -print-file-name=libtsan.so)
        run=(setarch -R)  # TSan of gcc 12 fails where the kernel randomises addresses by more bits than it expects
        [ ${#arguments[@]} -gt 0 ] || arguments=(tests/test_cuda.py tests/test_cuda_distances.py tests/test_cuda_mixed.py -k tsan) ;;
esac
[ ${#arguments[@]} -gt 0 ] || arguments=($(grep -lE 'mark\.gpu' tests/test_*.py))
LD_PRELOAD=$preload ASAN_OPTIONS=detect_leaks=0 TSAN_OPTIONS=halt_on_error=1 PYTHONMALLOC=malloc \
    TALLYSTICK_REQUIRE_GPU=1 "${run[@]}" "$PY" -m pytest -q -s -p no:cacheprovider -m gpu "${arguments[@]}"

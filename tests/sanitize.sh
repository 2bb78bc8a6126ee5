#!/usr/bin/env bash
# Builds _core with ASan and UBSan into a folder of its own and runs the native tests on it.
# Usage: PY=.venv/bin/python bash tests/sanitize.sh [pytest arguments]
set -euo pipefail
cd "$(dirname "$0")/.."
PY=${PY:-python3}
build=build/sanitize
cmake=$(dirname "$PY")/cmake; [ -x "$cmake" ] || cmake=cmake
ninja=$(dirname "$PY")/ninja; [ -x "$ninja" ] || ninja=$(command -v ninja)
"$cmake" -S . -B $build -G Ninja -DCMAKE_MAKE_PROGRAM="$ninja" -DPython_EXECUTABLE="$(command -v "$PY")" \
    -Dpybind11_DIR="$("$PY" -m pybind11 --cmakedir)" -DCMAKE_INSTALL_PREFIX=$PWD/$build/site \
    -DTALLYSTICK_CUDA=OFF -DTALLYSTICK_VERIFY=ON -DTALLYSTICK_SANITIZE=address,undefined > $build.log 2>&1 ||
    { cat $build.log; exit 1; }
"$cmake" --build $build >> $build.log 2>&1 || { tail -50 $build.log; exit 1; }
rm -rf $build/site && mkdir -p $build/site
cp -r python/tallystick $build/site/ && find $build/site -name '*.so' -delete
"$cmake" --install $build >> $build.log
arguments=("$@")
[ ${#arguments[@]} -gt 0 ] || arguments=(tests/test_aggregate_core.py tests/test_combine_core.py tests/test_mixed_core.py tests/test_merkle.py tests/test_arrays.py tests/test_frame.py tests/test_update.py)
PYTHONPATH=$build/site "$PY" - <<'E'  # an editable install in this environment would win over PYTHONPATH
import importlib.util, sys
origin = importlib.util.find_spec("tallystick").origin
if "build/sanitize/site" not in origin:
    sys.exit(f"{origin} would be tested, not the sanitized build: use an environment without tallystick")
E
LD_PRELOAD="$(g++ -print-file-name=libasan.so) $(g++ -print-file-name=libubsan.so)" \
    ASAN_OPTIONS=detect_leaks=0 PYTHONMALLOC=malloc PYTHONPATH=$build/site \
    "$PY" -m pytest -q -s -p no:cacheprovider -m "not slow" "${arguments[@]}"

#!/usr/bin/env bash
# Compiles every .cu file for real GPUs without one: warnings, register spills and local memory are errors.
# Prints registers per kernel for the first target. Usage: [PY=python] [ARCHS="90 80"] bash cuda/gate.sh
# nvcc: the system's, else the one that `pip install nvidia-cuda-nvcc ...` put beside $PY (.ci/run lists the wheels).
set -euo pipefail
cd "$(dirname "$0")/.."
PY=${PY:-python3}
archs=${ARCHS:-90 75 80 100 120}
nvcc=$(command -v nvcc || true)
if [ -z "$nvcc" ]; then
    nvcc=$("$PY" -c 'import nvidia, pathlib
print(next(str(p) for f in nvidia.__path__ for p in pathlib.Path(f).glob("cu*/bin/nvcc")))') || {
        echo "no nvcc: neither on PATH nor from PyPI beside $PY"; exit 1; }
fi
out=build/gate
mkdir -p $out
compile() {  # compile ARCH FILE: the log is shown where it fails
    local object=$out/$(basename "$2").$1
    "$nvcc" -std=c++20 -O3 -fmad=false --expt-relaxed-constexpr -Icsrc -gencode "arch=compute_$1,code=sm_$1" \
        -Werror all-warnings -Xcompiler=-Wall,-Wextra,-Werror \
        -Xptxas -v,-warn-spills,-warn-lmem-usage,-Werror -c "$2" -o "$object.o" > "$object.log" 2>&1 || {
        echo "sm_$1 $2: refused"; grep -vE 'ptxas info|bytes stack frame, 0 bytes' "$object.log"; return 1; }
    ! grep -E '[1-9][0-9]* bytes (stack frame|spill)' "$object.log"
}
export -f compile; export nvcc out
first=${archs%% *}
for arch in $archs; do for file in cuda/*.cu; do echo "$arch $file"; done; done |
    xargs -P "${JOBS:-$(nproc)}" -L 1 bash -c 'compile "$@"' gate
for file in cuda/*.cu; do
    echo "$file, sm_$first: registers by kernel"
    sed -nE "s/.*Compiling entry function '([^']+)'.*/\1/p; s/.*Used ([0-9]+) registers.*/    \1/p" \
        "$out/$(basename "$file").$first.log" | c++filt | sed -E "s/\(anonymous namespace\):://g; s/tallystick::(cuda::)?//g" |
        awk '/^    /{print $1, name; next} {sub(/^void /, ""); sub(/\(.*/, ""); name = $0}' |
        sort -k2 | awk '{n = $1; sub(/^[0-9]+ /, ""); printf "  %4d  %s\n", n, $0}'
done
echo "gate passed: $(ls cuda/*.cu | wc -l) files for sm_${archs// /, sm_}"

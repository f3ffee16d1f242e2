#!/usr/bin/env bash
# The CPU kernels under AddressSanitizer with UndefinedBehaviorSanitizer, with every instruction
# set of this CPU, and under ThreadSanitizer with the widest, over random shapes, layouts,
# parameters and threads. CLAHE-gamma-median must give the same bytes everywhere;
# Squeeze-and-Excitation what plain loops in double give, within rounding.
#
#     scripts/sanitize.sh [CASES [SEED]]       (default: 300 0; more find more, so does a new seed)
#
# Needs g++ or clang++ ($CXX) with its sanitizers; no torch, no Python.
set -euo pipefail
cd "$(dirname "$0")/.."
cases=${1:-300} seed=${2:-0}
compiler=${CXX:-g++}
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

# As in setup.py: a file's name ends with the instruction set that it is built for.
flags_of() {
    local avx2="-mavx2 -mfma -mf16c"
    local avx512="$avx2 -mavx512f -mavx512bw -mavx512dq -mavx512vl"
    case $1 in
        *avx512_vbmi.cpp) echo "$avx512 -mavx512vbmi -mavx512vnni" ;;
        *avx512.cpp) echo "$avx512" ;;
        *avx2.cpp) echo "$avx2" ;;
    esac
}

# The kernels are all of csrc that knows nothing of torch, CUDA or Python.
kernels=(csrc/isa.cpp)
for source in csrc/{clahe_gamma_median,squeeze_excite}/*.cpp; do
    case $source in
        */cpu.cpp | */cuda*.cpp) ;;
        *) kernels+=("$source") ;;
    esac
done

fuzz() { # PROGRAM SANITIZER ISA; no ISA: the widest
    local run="$1, $2, ${3:-widest}" result
    if ! result=$(PERFKIT_CPU_ISA=$3 "$out/$2/$1" "$cases" "$seed" 2>"$out/log"); then
        if grep -q "is not available here" "$out/log"; then
            echo "$run: not available here"
            return
        fi
        cat "$out/log"
        echo "$run: FAILED $result"
        exit 1
    fi
    echo "$run: $result"
    if [ "$result" != "${first:=$result}" ]; then
        echo "$run: FAILED: the results differ from those above"
        exit 1
    fi
}

programs=(tests/support/fuzz_{kernels,squeeze_excite}.cpp)
for sanitizer in address,undefined thread; do
    folder=$out/$sanitizer
    mkdir "$folder"
    common="-std=c++20 -O1 -g -ffp-contract=off -fno-omit-frame-pointer -Wno-uninitialized -Icsrc"
    common+=" -fsanitize=$sanitizer -fno-sanitize-recover=all"
    for source in "${kernels[@]}" "${programs[@]}"; do
        object=$folder/${source//\//.}.o
        printf '%s\0' "$compiler $common $(flags_of "$source") -c $source -o $object"
    done | xargs -0 -P "$(nproc)" -I{} sh -c '{}'
    for program in "${programs[@]}"; do
        "$compiler" "-fsanitize=$sanitizer" "$folder"/csrc.*.o "$folder/${program//\//.}.o" \
            -pthread -o "$folder/$(basename "$program" .cpp)"
    done
done

for program in "${programs[@]}"; do
    first= name=$(basename "$program" .cpp)
    for isa in scalar avx2 avx512 avx512_vbmi; do fuzz "$name" address,undefined $isa; done
    fuzz "$name" thread ""
done

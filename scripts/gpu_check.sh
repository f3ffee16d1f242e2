#!/usr/bin/env bash
# Everything that only a CUDA machine can show, in under ten minutes: builds the operators, GPU
# tests, the operators' times beside their floors, the CUDA operators under compute-sanitizer, one
# run of every strategy that its GPUs allow, and the benchmark cases. Goes on after a failure; ends
# with 1 and the names of what failed or found no time. Needs no network: a CUDA toolkit and the
# packages must be there (or on PYTHONPATH).
# Usage: scripts/gpu_check.sh [FOLDER FOR RUNS]
set -euo pipefail
runs=$(realpath -m "${1:-"$(dirname "$0")/../runs/gpu_check"}")
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
limit_s=580

gpus=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
if [ "$gpus" -eq 0 ]; then
    echo "gpu_check: torch sees no CUDA device" >&2
    exit 2
fi
mkdir -p "$runs"

failed=()
part() { # NAME COMMAND...
    local name=$1 code=0 left=$((limit_s - SECONDS))
    shift
    if [ "$left" -le 0 ]; then
        echo "gpu_check: $name: NOT RUN, no time is left" >&2
        failed+=("$name")
        return
    fi
    echo "== $name (${SECONDS} s)"
    timeout --kill-after=5 "$left" "$@" || code=$?
    if [ "$code" -ne 0 ]; then
        echo "gpu_check: $name: FAILED with exit code $code" >&2
        failed+=("$name")
    fi
}
profile() { # NAME FLAG...
    part "profile $1" "$PYTHON" -m perfkit.profile --device cuda --steps 60 --runs "$runs" \
        --name "$@"
}
have() { # PROGRAM
    command -v "$1" >/dev/null || { echo "gpu_check: no $1 on PATH; NOT CHECKED" >&2; false; }
}

part build env PERFKIT_CUDA=1 "$PYTHON" setup.py --quiet build_ext --inplace
if [ ${#failed[@]} -ne 0 ]; then
    exit 1
fi
part doctor "$PYTHON" -m perfkit.doctor
part "native libraries" "$PYTHON" -m pytest -q tests/ops/test_native.py
part "GPU tests" "$PYTHON" -m pytest -q -m gpu
part "times of the preprocessing" "$PYTHON" scripts/gpu_bench_preprocess.py "$runs"
part "times of Squeeze-and-Excitation" timeout 120 "$PYTHON" scripts/gpu_bench_squeeze_excite.py \
    "$runs" --dtype float16 --form plain
if have ncu; then
    # Where the counters are not open to users this fails by its own words, and is no failure here.
    timeout 60 ncu --kernel-name-base demangled --kernel-name regex:perfkit --launch-count 6 \
        --metrics gpu__time_duration.sum "$PYTHON" scripts/gpu_bench_preprocess.py --launches 3 |
        tee "$runs/ncu.txt" || echo "gpu_check: ncu measured nothing; NOT CHECKED" >&2
fi

# Without torch's cache every tensor is an allocation of its own: to go past its end is seen. Graphs
# need the cache. initcheck has to see torch's kernels too: they write what the operators read.
if have compute-sanitizer; then
    few="(bytes_are_the_cpus and (shape2- or shape3- or shape6-)) or strides or normalised"
    few="$few or results_are_the_cpus or unaligned or float32_layers"
    for check in "memcheck --kernel-name kns=perfkit" "racecheck --kernel-name kns=perfkit" initcheck; do
        # shellcheck disable=SC2086  # the check and its options
        part "compute-sanitizer $check" env PYTORCH_NO_CUDA_MEMORY_CACHING=1 \
            compute-sanitizer --tool $check --error-exitcode 1 \
            "$PYTHON" -m pytest -q tests/ops/test_clahe_gamma_median_gpu.py \
            tests/ops/test_squeeze_excite_gpu.py -k "$few or several_streams"
    done
fi

profile serial --strategy serial
profile bf16 --precision bf16 --baseline precision=fp32 precision=tf32
profile fp16 --precision fp16 --baseline precision=fp32
profile resnet18 --workload forensics --precision bf16 --baseline precision=fp32
profile vit --workload forensics --model vit_b_16 --precision bf16 --baseline precision=fp32
part train "$PYTHON" -m perfkit.train --device cuda --workload forensics --precision bf16 \
    --epochs 2 --workers 4 --runs "$runs" --name train
if have nsys; then
    part nsys nsys profile --trace=cuda,nvtx --capture-range=cudaProfilerApi \
        --capture-range-end=stop --force-overwrite true -o "$runs/nsys" \
        "$PYTHON" -m perfkit.profile --device cuda --steps 20 --runs "$runs" --name under-nsys
fi
profile ddp-oversubscribed --strategy ddp --gpus 2 --oversubscribe --local-batch 8
if [ "$gpus" -ge 2 ]; then
    profile ddp --strategy ddp --gpus 2
    profile model-parallel --strategy model_parallel --gpus 2
    profile model-parallel-interleaved --strategy model_parallel --gpus 2 --placement interleaved
fi
if [ "$gpus" -ge 4 ]; then
    profile ddp-model-parallel --strategy ddp_model_parallel --gpus 4
fi
part compare "$PYTHON" -m perfkit.compare "$runs"/*/ --figure "$runs/compare.png"
part "benchmark cases" "$PYTHON" -m pytest bench/ -q --benchmark-only -k "nothing or import or help"

if [ ${#failed[@]} -ne 0 ]; then
    printf 'gpu_check: failed: %s\n' "${failed[@]}" >&2
    exit 1
fi
echo "gpu_check: all well in $SECONDS s; the runs are in $runs"

#!/usr/bin/env bash
# Everything that only a CUDA machine can show, in under ten minutes: builds the operators, GPU
# tests, the CUDA operators under compute-sanitizer, one run of every strategy that its GPUs allow,
# and the benchmark cases. Needs no network: a CUDA toolkit and the packages must be there (or on
# PYTHONPATH). Usage: scripts/gpu_check.sh [FOLDER FOR RUNS]
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-python3}
runs=${1:-runs/gpu_check}
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"

gpus=$("$PYTHON" -c 'import torch; print(torch.cuda.device_count())')
if [ "$gpus" -eq 0 ]; then
    echo "gpu_check: torch sees no CUDA device" >&2
    exit 2
fi

PERFKIT_CUDA=1 "$PYTHON" setup.py --quiet build_ext --inplace
"$PYTHON" -m pytest -q tests/ops/test_native.py
"$PYTHON" -m pytest -q -m gpu

# Without torch's cache every tensor is an allocation of its own: to go past its end is seen. Graphs
# need the cache. initcheck has to see torch's kernels too: they write what the operators read.
if command -v compute-sanitizer >/dev/null; then
    for check in "memcheck --kernel-name kns=perfkit" "racecheck --kernel-name kns=perfkit" initcheck; do
        echo "compute-sanitizer $check"
        # shellcheck disable=SC2086  # the check and its options
        PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $check --error-exitcode 1 \
            "$PYTHON" -m pytest -q tests/ops/test_clahe_gamma_median_gpu.py \
            -k "bytes_are_the_cpus or strides or normalised or several_streams"
    done
else
    echo "gpu_check: no compute-sanitizer on PATH; NOT CHECKED" >&2
fi

profile() {
    "$PYTHON" -m perfkit.profile --device cuda --steps 60 --runs "$runs" --name "$@"
}
"$PYTHON" -m perfkit.doctor
profile serial --strategy serial
profile bf16 --precision bf16 --baseline precision=fp32 precision=tf32
profile fp16 --precision fp16 --baseline precision=fp32
profile resnet18 --workload forensics --precision bf16 --baseline precision=fp32
profile vit --workload forensics --model vit_b_16 --precision bf16 --baseline precision=fp32
"$PYTHON" -m perfkit.train --device cuda --workload forensics --precision bf16 --epochs 2 \
    --workers 4 --runs "$runs" --name train
if command -v nsys >/dev/null; then
    nsys profile --trace=cuda,nvtx --capture-range=cudaProfilerApi --capture-range-end=stop \
        --force-overwrite true -o "$runs/nsys" \
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
"$PYTHON" -m perfkit.compare "$runs"/*/ --figure "$runs/compare.png"
"$PYTHON" -m pytest bench/ -q --benchmark-only -k "overhead or start or help"

#!/usr/bin/env bash
# First commands on a GPU machine without a network: is lg3d right there, how fast is it, does it train?
#
#   OUT=results bash benchmarks/gpu/run.sh right|fast|train|layers|peer|counters|tune
#
# `make gpu-kit` makes the folders .whl and .gpu beforehand. Each part takes at most ten minutes, goes on after a step
# that fails, and writes at most eight files to OUT while it runs. VOXELS=400000 reduces the sizes; the other variables
# below, and LG3D_ variables such as LG3D_VOXEL_SIZE, allow a rehearsal on a CPU.
set -uo pipefail
cd "$(dirname "$0")/../.." || exit
: "${OUT:?is not set: expected a folder for results}"
mkdir -p "$OUT" || exit
OUT=$(realpath "$OUT")
PYTHON=${PYTHON:-python3}
SITE=${SITE:-/tmp/lg3d-site}
WORK=${WORK:-/tmp/lg3d-work}
SCENES=${SCENES:-20} VERTICES=${VERTICES:-150000} EPOCHS=${EPOCHS:-12}
SMALL=${VOXELS:+--voxels $VOXELS}
export TRITON_CACHE_DIR=${TRITON_CACHE_DIR:-/tmp/lg3d-triton} # the path in kit.py: the cache holds absolute paths
export PYTHONPATH=.:$SITE PYTHONUNBUFFERED=1 PYTORCH_ALLOC_CONF=expandable_segments:True
FAILED=()

set_up() { # installs the wheels and unpacks the compiled kernels, once per kit
    local kit wheels=(.whl/*.whl)
    [ -f "${wheels[0]}" ] || {
        echo "no wheels in .whl: run \`make gpu-kit\` where there is a network, and copy .whl and .gpu here" >&2
        return 1
    }
    kit=$(cat "${wheels[@]}" .gpu/* 2>/dev/null | cksum)
    [ "$(cat "$SITE.kit" 2>/dev/null)" = "$kit" ] && return
    rm -rf "$SITE"
    "$PYTHON" -m pip install -q --no-index --no-deps --no-compile --disable-pip-version-check --target "$SITE" \
        "${wheels[@]}" || return
    mkdir -p "$TRITON_CACHE_DIR"
    [ ! -f .gpu/triton.tar.gz ] || tar xzf .gpu/triton.tar.gz -C "$TRITON_CACHE_DIR" || return
    echo "$kit" >"$SITE.kit"
}

take() { # take SECONDS COMMAND...: runs a command under a time limit, and notes its failure
    local seconds=$1 began=$SECONDS code
    shift
    echo "+ $*" >&2
    timeout --kill-after=20 "$seconds" "$@"
    code=$?
    ((code == 0)) || FAILED+=("$* (exit code $code after $((SECONDS - began)) s)")
    return "$code"
}

figures() { # figures SECONDS FOLDER PART...
    local seconds=$1 folder=$2
    shift 2
    # shellcheck disable=SC2086
    take "$seconds" "$PYTHON" -m benchmarks.gpu.step "$folder" "$@" $SMALL
}

lg3d() { take "$1" "$PYTHON" -m lg3d_cli "${@:2}"; }

tests() { # tests SECONDS LOG COMMAND...: kernel tests compiled, as in `make test-gpu`
    local seconds=$1 log=$2
    shift 2
    LG3D_TEST_GPU=${LG3D_TEST_GPU:-1} TRITON_INTERPRET=${TRITON_INTERPRET:-0} \
        take "$seconds" "$@" -q -p no:benchmark -p no:cacheprovider >"$log" 2>&1
    tail -n 30 "$log"
}

right() {
    nvidia-smi -L
    nproc
    lg3d 30 doctor
    figures 210 "$OUT/right" fold check14A check34C
    tests 240 "$OUT/tests.log" "$PYTHON" -m pytest tests/test_sparse_triton.py tests/test_sparse_triton_compile.py \
        tests/test_sparse_triton_normalization.py -n 6
    PYTORCH_NO_CUDA_MEMORY_CACHING=1 tests 110 "$OUT/memcheck.log" compute-sanitizer --tool memcheck "$PYTHON" -m \
        pytest tests/test_sparse_triton.py -x -k '130 and (values or tiles or pairs or levels) or (63 and fused)'
}

fast() {
    figures 300 "$OUT/34D" step34D
    figures 240 "$OUT/34C" step34C step18A
}

layers() { figures 580 "$OUT/layers" layers; }

train() {
    local data=(--store "$WORK/data") runs=(--runs "$WORK/runs")
    rm -rf "$WORK"
    # Batches of loading processes pass through shared memory, of which a container may have only 64 MB.
    (($(df --output=avail -m /dev/shm | tail -n 1) >= 4096)) || export LG3D_JOBS=0
    lg3d 80 rooms "$WORK/raw" --scenes "$SCENES" --vertices "$VERTICES" -q
    lg3d 80 prepare "$WORK/raw" "${data[@]}"
    lg3d 30 anchors --anchors "$WORK/anchors.safetensors" --encoder bundled --dim 512
    lg3d 160 pretrain "${data[@]}" --anchors "$WORK/anchors.safetensors" "${runs[@]}" --name p \
        --epochs "$EPOCHS" --validate-every "$EPOCHS"
    save_metrics p pretrain
    lg3d 140 finetune "${data[@]}" --from "$WORK/runs/p" "${runs[@]}" --name f \
        --epochs $((EPOCHS * 2 / 3)) --validate-every $((EPOCHS / 3))
    save_metrics f finetune
    lg3d 80 eval --checkpoint "$WORK/runs/f" "${data[@]}" --json >"$OUT/eval.json"
    grep -m1 miou_present "$OUT/eval.json"
}

save_metrics() { # the last validation must have the miou_present of eval
    cp "$WORK/runs/$1/metrics.jsonl" "$OUT/$2.jsonl" && tail -n 2 "$OUT/$2.jsonl"
}

peer() {
    lg3d 580 bench --what layers-train,train --networks 34C --voxel-size 0.02 --batch 2 --backends "${BACKENDS:-triton}" \
        --peers all --out "$OUT/bench.json"
}

counters() {
    # shellcheck disable=SC2086
    take 580 ncu --clock-control none -k regex:'_convolve_tiles|_multiply_pairs' --section SpeedOfLight \
        --section MemoryWorkloadAnalysis --section Occupancy "$PYTHON" -m benchmarks.gpu.step "$OUT/counters" counters \
        $SMALL >"$OUT/ncu.txt"
    grep -E 'Throughput|Hit|_convolve|_multiply|Occupancy' "$OUT/ncu.txt"
}

tune() {
    take 590 "$PYTHON" benchmarks/tune_triton.py --network 34D --budget 500
    cp "${XDG_CACHE_HOME:-$HOME/.cache}"/lg3d/triton/*.json "$OUT"
}

case ${1-} in
right | fast | train | layers | peer | counters | tune)
    set_up || exit
    "$1"
    ;;
*)
    echo "expected right, fast, train, layers, peer, counters or tune, got '${1-}'" >&2
    exit 2
    ;;
esac
for failure in "${FAILED[@]}"; do echo "FAILED: $failure" >&2; done
exit $((${#FAILED[@]} > 0))

#!/usr/bin/env bash
# What is done with a borrowed GPU, in the order of its worth a minute; every part has a limit and writes as it goes.
#
#   tests/gpu/lease.sh wheels          at home: fetch what the machine lacks into build/lease (carry it along)
#   tests/gpu/lease.sh run             there: all parts; tables to $OUT (default: build/lease-out)
#   tests/gpu/lease.sh run fast        there: some parts
#   tests/gpu/lease.sh run --smoke     here: the same commands on a CPU, tiny; the rehearsal
#
# `good` trains RECIPE on DATASET of the work folder WORK, which is made at home (`jobs.generate`) and carried along.
set -uo pipefail
cd "$(dirname "$0")/../.."

PYTHON=${PYTHON:-python3} WHEELS=build/lease OUT=${OUT:-build/lease-out}
WORK=${WORK:-work} DATASET=${DATASET:-} RECIPE=${RECIPE:-dspfusion_stage1_full_1gpu}
# The machine has torch, numpy, opencv, pyarrow, safetensors and pillow; these are the rest of what our code imports.
PACKAGES="annotated-types braceexpand cloudpickle iniconfig markdown-it-py mdurl packaging pluggy pydantic pydantic-core
 pygments pytest pyyaml rich scipy typing-extensions typing-inspection webdataset"

wheels() {
  local pins=()
  for name in $PACKAGES; do
    pins+=("$(grep -hoE "^$name==[^ ;\\]+" requirements/run.txt requirements/dev.txt | head -1)")
  done
  mkdir -p "$WHEELS"
  "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --python-version 3.12 \
    --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --platform manylinux_2_17_x86_64 \
    -d "$WHEELS" "${pins[@]}" && du -sh "$WHEELS"
}

# part SECONDS NAME COMMAND...: run with a limit; what it says goes to $OUT/NAME.txt line by line.
part() {
  local limit=$(($1 * SLACK)) name=$2 status
  shift 2
  echo "== $name (at most $limit s): $*"
  timeout "$limit" "$@" 2>&1 | tee "$OUT/$name.txt" | tail -n 40
  status=${PIPESTATUS[0]}
  echo "$name $status ${SECONDS}s" | tee -a "$OUT/parts.txt"
  if [ "$status" -ne 0 ]; then FAILED=1; fi
}

correct() {
  part 150 correct "$PYTHON" -m pytest tests/gpu --confcutdir=tests/gpu -m gpu -q -rs --basetemp="$OUT/tmp"
}

fast() {
  local bench=("$PYTHON" -m jobs.bench model --device "$DEVICE" "${SIZE[@]}")
  part 20 roofline "$PYTHON" -m jobs.bench roofline "${RECIPES[@]}" --batch "${BATCHES[@]}"
  part 60 model-1 "${bench[@]}" --batch 1 --parts "${INFERENCE[@]}"
  if [ "$DEVICE" = cuda ]; then part 60 model-8 "${bench[@]}" --batch 8 --parts "${INFERENCE[@]}"; fi
  for size in "${BATCHES[@]}"; do
    part 60 "steps-$size" "${bench[@]}" --batch "$size" --parts "${STEPS[@]}"
  done
  part 30 profile "${bench[@]}" --parts stage1_bf16 --profile
  if [ "$DEVICE" = cuda ]; then part 120 compiled "${bench[@]}" --parts compiled compiled_bf16; fi
  part 60 loop "$PYTHON" -m jobs.bench train --device "$DEVICE" --work "$OUT/work" --smoke
}

good() {
  if [ -z "$DATASET" ]; then echo "== good: no DATASET is given, so nothing is trained"; return; fi
  part "$TRAIN_S" good "$PYTHON" -m jobs.train "$RECIPE" --local --device "$DEVICE" --work "$WORK" \
    --set dataset="$DATASET" "${TRAINING[@]}"
  part 60 weights "$PYTHON" - "$WORK" "$RECIPE" "$OUT" <<'PYTHON'
import pathlib, subprocess, sys
from safetensors.torch import save_file
from pipelines.bundles.export import fuser_of_checkpoint
work, recipe, out = sys.argv[1:]
folder = max(pathlib.Path(work, "runs").glob(f"{recipe}-*-local/step-*"), key=lambda p: p.stat().st_mtime)
config, fuser = fuser_of_checkpoint(folder)
save_file({k: v.half().contiguous() for k, v in fuser.state_dict().items()}, f"{out}/weights.safetensors")
pathlib.Path(out, "config.json").write_text(config.model_dump_json(indent=1))
# Pieces that may come back; `cat weights.part-*` joins them.
subprocess.run(["split", "-b", "15M", f"{out}/weights.safetensors", f"{out}/weights.part-"], check=True)
pathlib.Path(out, "weights.safetensors").unlink()
print(folder, sum(v.numel() for v in fuser.state_dict().values()), "numbers")
PYTHON
}

run() {
  FAILED=0 DEVICE=cuda SLACK=1 TRAIN_S=480 SIZE=(--repeats 5) BATCHES=(4 16 32) TRAINING=() RECIPES=()
  INFERENCE=(inference bf16 channels_first) STEPS=(stage1 stage1_bf16 stage2 stage2_bf16)
  if [ "${1:-}" = --smoke ]; then
    shift
    DEVICE=cpu SLACK=10 TRAIN_S=30 SIZE=(--repeats 1 --crop 32) BATCHES=(1) RECIPES=(dspfusion_stage1_small)
    INFERENCE=(stage2) STEPS=(stage1 stage1_bf16) TRAINING=(--smoke)
  fi
  mkdir -p "$OUT"
  export OMP_NUM_THREADS=${OMP_NUM_THREADS:-8}
  if [ -d "$WHEELS" ] && [ "$DEVICE" = cuda ]; then
    "$PYTHON" -m pip install --quiet --no-index --no-deps --target "$OUT/site" "$WHEELS"/*.whl
    export PYTHONPATH=$OUT/site
  fi
  "$PYTHON" -c 'import torch; print(torch.__version__, torch.cuda.is_available() and torch.cuda.get_device_name())' \
    | tee "$OUT/machine.txt"
  for name in "${@:-correct fast good}"; do for each in $name; do "$each"; done; done
  rm -rf "$OUT/site" "$OUT/tmp" "$OUT/work"
  return "$FAILED"
}

case ${1:-} in
  wheels) wheels ;;
  run) shift; run "$@" ;;
  *) sed -n '2,10p' "$0"; exit 2 ;;
esac

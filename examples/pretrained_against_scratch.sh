#!/usr/bin/env bash
# Pre-trained against scratch at one budget, three seeds, on a raw folder of a few rooms. Usage: pretrained_against_scratch.sh RAW
# Both arms make 32 passes over the training rooms: 8 of pre-training and 24 of fine-tuning, or 32 from scratch.
set -euo pipefail
raw=${1:?usage: pretrained_against_scratch.sh RAW}
export LG3D_RECIPE=demo LG3D_NETWORK=14A LG3D_VOXEL_SIZE=0.05 LG3D_BATCH_SIZE=1 LG3D_JOBS=0
export OMP_NUM_THREADS=1 # so that CPU time is comparable
TIMEFORMAT='%U s of CPU'

lg3d prepare "$raw" --jobs 2
lg3d anchors
for seed in 0 1 2; do
  time lg3d pretrain --seed $seed --epochs 8 --learning-rate 0.1 --name pretrained-$seed
  time lg3d finetune --seed $seed --epochs 24 --learning-rate 0.005 --validate-every 0 --from runs/pretrained-$seed --name tuned-$seed
  time lg3d finetune --seed $seed --epochs 32 --learning-rate 0.005 --validate-every 0 --from scratch --name scratch-$seed
  for arm in tuned scratch; do
    lg3d eval --checkpoint runs/$arm-$seed --json > $arm-$seed.json
  done
done

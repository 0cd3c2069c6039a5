#!/usr/bin/env bash
# From raw scans to scores and a page, in the working directory. Usage: pipeline.sh RAW [RECIPE]
# RAW holds scans/ and scannetv2-labels.combined.tsv, as ScanNet is downloaded. LIMITED=0.05 trains on 5 % of the labels.
set -euo pipefail
raw=${1:?usage: pipeline.sh RAW [RECIPE]}
export LG3D_RECIPE=${2:-paper-34d}
limited=${LIMITED:+--limited "$LIMITED"}

lg3d prepare --check "$raw"
lg3d prepare "$raw"
lg3d anchors

# shellcheck disable=SC2086 # two words, or none
pretrained=$(lg3d pretrain $limited)
# shellcheck disable=SC2086
tuned=$(lg3d finetune --from "$pretrained" $limited)

lg3d eval --checkpoint "$tuned" --export predictions --json > scores.json
scene=$(ls predictions | head -n 1)
lg3d view "${scene%.txt}" --checkpoint "$tuned" --html room.html

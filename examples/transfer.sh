#!/usr/bin/env bash
# Transfer on real MRI: a model that finds white matter is the start of one for three tissues, which has few labels.
# Compares training from scratch, fine-tuning in one phase, and in two phases, over ten seeds, with intervals.
# Sets itself up on a machine that has only Python 3.11 or later (see environment.sh for PYTHON= and WHEELHOUSE=).
# Takes a few minutes on two CPU cores; repeated, it keeps what is finished and prints the table.
set -euo pipefail
cd "$(dirname "$0")/.."
source ./environment.sh
prepare_environment report fast

"$PY" examples/transfer_study.py --device "${DEVICE:-auto}" "$@"

cat <<'TEXT'

What to look at next
  What was transferred:   deepmedic -newModel examples/transfer_study/model_target.cfg -pretrained examples/output/transferStudy/cnnModels/source_seed0 -check
  Curves, with phases:    deepmedic -plot examples/output/transferStudy/twoPhases_seed0 examples/output/transferStudy/onePhase_seed0 -detailed
  The configs:            examples/transfer_study/
  Where to read on:       documentation/transfer.md, documentation/training.md (Phases)
TEXT

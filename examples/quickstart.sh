#!/usr/bin/env bash
# The main job on real MRI: create a model, train it on two scans, segment a third that it has never seen.
# Sets itself up on a machine that has only Python 3.11 or later (see environment.sh for PYTHON= and WHEELHOUSE=).
# Takes about two and a half minutes on two CPU cores; repeated, it keeps what is there and is done in seconds.
set -euo pipefail
cd "$(dirname "$0")/.."
source ./environment.sh
prepare_environment report fast

step() { printf '\n\033[1m%s\033[0m\n$ %s\n' "$1" "$2"; }
run() { "$PY" deepmedic_run.py "$@"; }
device=(${DEVICE:+-dev "$DEVICE"})

step "1. Create a model and train it on two scans (real MRI, automatically derived labels)" \
    "deepmedic -newModel configs/quickstart/model.cfg -train configs/quickstart/train.cfg"
run -newModel configs/quickstart/model.cfg -train configs/quickstart/train.cfg "${device[@]}"

step "2. Segment the scan of a third person" \
    "deepmedic -test configs/quickstart/test.cfg -model examples/output/cnnModels/quickstart"
run -test configs/quickstart/test.cfg -model examples/output/cnnModels/quickstart "${device[@]}"

step "3. Look at the result" "python examples/show_result.py examples/output"
"$PY" examples/show_result.py examples/output --test quickstartTest --training quickstart

cat <<'TEXT'

What to try next
  Another setting:   change learningRate or numberOfEpochs in configs/quickstart/train.cfg, give the session another
                     sessionName, and run the command of step 1 again.
  Stop and go on:    press Ctrl-C during training (or kill it); the same command goes on exactly where it stopped.
  One scan alone:    deepmedic -segment examples/output/cnnModels/quickstart -images T1=examples/data/subject3/T1.nii.gz \
                     -roi examples/data/subject3/mask.nii.gz -output labels.nii.gz     (no config file)
  Your own scans:    list them as in examples/lists/*.cfg, one file per line; documentation/data.md says how.
  What a key means:  deepmedic -explain learningRate
  Where to read on:  README.md and documentation/
TEXT
if [ "$PY" = "$ENVIRONMENT_ROOT/.venv/bin/python" ]; then
    printf '  The command:       source .venv/bin/activate   puts deepmedic on your path.\n'
fi

"""Help, versions and refusals of command line and configs come at once, without importing torch.

A config that lists data is refused together with what is wrong with these, for which headers of images are read.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = """
import json, sys, time
from deepmedic import cli
found = []
for words in json.loads(sys.argv[1]):
    started = time.process_time()
    code = cli.main(words)
    found.append([code, time.process_time() - started, sorted({"torch", "numpy", "nibabel"} & set(sys.modules))])
sys.stdout.flush()
print("\\n" + json.dumps(found))
"""


@pytest.fixture
def quick(study):
    """Run commands one after the other in a fresh interpreter; return code, seconds and heavy modules of each."""

    def quick(*commands) -> list[tuple[int, float, list[str]]]:
        words = json.dumps([[str(word) for word in command] for command in commands])
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            [sys.executable, "-c", COMMANDS, words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        return [tuple(found) for found in json.loads(done.stdout.splitlines()[-1])]

    return quick


def test_no_torch_before_it_is_needed(study, quick):
    study.model(numberOfOutputClasses=1)
    train, test = study.train(numberOfEpochs=0), study.test()
    commands = {
        ("-h",): 0,
        ("-version",): 0,
        ("-explain", "learningRate"): 0,
        (): 2,
        ("-trian", "x"): 2,
        ("-train", train, "-test", test): 2,
        ("-train", train, "-dev", "tpu"): 2,
        ("-newModel", study.folder / "model.cfg"): 3,
        ("-newModel", study.folder / "no.cfg"): 3,
        ("-train", study.train("good"), "-resetOptimizer"): 2,
    }
    with_data = {
        ("-newModel", study.folder / "model.cfg", "-train", train): 3,
        ("-test", test, "-model", study.folder / "model.cfg"): 3,
    }
    found = quick(*commands, *with_data)
    assert [code for code, _, _ in found] == [*commands.values(), *with_data.values()]
    assert [modules for _, _, modules in found[: len(commands)]] == [[]] * len(commands)
    assert max(seconds for _, seconds, _ in found[: len(commands)]) < 0.5
    assert all("torch" not in modules for _, _, modules in found)

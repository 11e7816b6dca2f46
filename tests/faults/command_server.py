"""Runs command lines in forked copies of one process that has imported everything once: a kill costs no start-up.

Reads a JSON object per line from stdin: `words`, `fault` (see `sitecustomize.py`), `at_once`, the cases of an inference
that are read, scored and written at once (0: as fits the machine), and `output`, a file for everything that the command
prints; answers with the process id, then with the exit code, negative for a signal.
"""

from __future__ import annotations

import json
import os
import sys

import sitecustomize
import torch

from deepmedic import cli
from deepmedic.inference.flow import Flow
from deepmedic.sessions.checking import check  # noqa: F401 - so that no copy has to import them
from deepmedic.sessions.inference import testing  # noqa: F401 - so that no copy has to import them
from deepmedic.sessions.training import training  # noqa: F401 - so that no copy has to import them


def main() -> None:
    torch.set_num_threads(1)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(request)
        _answer(child)
        _answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


def _run(request: dict) -> None:
    output = os.open(request["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    sitecustomize._MODE, *sitecustomize._WORDS[:] = request["fault"].split(":")
    # A process that is killed loses nothing of what it wrote, so nothing need really be synced.
    os.fsync = sitecustomize._watched("os.fsync", lambda descriptor: None, sitecustomize._path_of)
    if count := request["at_once"]:
        flow = Flow(readers=count, scorers=count, writers=count, images=count, memory=2**30)
        Flow.of = lambda *_, **__: flow  # type: ignore[method-assign]
    code = cli.main(request["words"])
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    main()

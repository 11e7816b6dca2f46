"""The command line: the one place where arguments become a session and an error becomes an exit code.

Nothing heavy is imported before it is needed: help, refusals of the command line and of configs come without torch.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence

from deepmedic import arguments as command_line
from deepmedic.arguments import Arguments
from deepmedic.errors import DeepMedicError

_DEFECT = 1


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `words` are the arguments without the program's name."""
    try:
        arguments = command_line.parse(sys.argv[1:] if words is None else words)
        return _command(arguments)(arguments)
    except DeepMedicError as error:
        sys.stderr.write(f"deepmedic: {error}\n")
        return error.exit_code
    except BrokenPipeError:
        return _DEFECT
    except KeyboardInterrupt:
        sys.stderr.write("deepmedic: interrupted before the session had anything to save.\n")
        return 130
    except Exception:
        logging.getLogger(__name__).exception("This is a defect of the program, please report it with the lines below.")
        return _DEFECT


def _command(arguments: Arguments) -> Callable[[Arguments], int]:
    if arguments.help:
        return _help
    if arguments.version:
        return _version
    if arguments.explain is not None:
        return _explain
    if arguments.inspect is not None:
        return _inspect
    if arguments.self_test:
        return _self_test
    return _session


def _help(_: Arguments) -> int:
    sys.stdout.write(command_line.help_text() + "\n")
    return 0


def _version(_: Arguments) -> int:
    from deepmedic import versions

    sys.stdout.write(versions.describe() + "\n")
    return 0


def _explain(arguments: Arguments) -> int:
    from deepmedic.config.explain import explain

    assert arguments.explain is not None
    sys.stdout.write(explain(arguments.explain) + "\n")
    return 0


def _inspect(arguments: Arguments) -> int:
    from deepmedic.sessions import inspection

    sys.stdout.write(inspection.inspect(arguments) + "\n")
    return 0


def _self_test(arguments: Arguments) -> int:
    from deepmedic.sessions import selftest

    table, passed = selftest.run(arguments.device)
    sys.stdout.write(table + "\n")
    return 0 if passed else 1


def _session(arguments: Arguments) -> int:
    from deepmedic.sessions import dispatch

    return dispatch.run(arguments)

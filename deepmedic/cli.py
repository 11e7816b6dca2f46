"""The command line: the one place where arguments become a session and an error becomes an exit code.

Nothing heavy is imported before it is needed: help, refusals of the command line and of configs come without torch.
"""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from deepmedic import arguments as command_line
from deepmedic.arguments import Arguments
from deepmedic.errors import DeepMedicError
from deepmedic.logs import init_logging
from deepmedic.quick_imports import quick_imports

_DEFECT = 1
_RESOURCES = 6
_PIPE_CLOSED = 128 + signal.SIGPIPE


def command() -> NoReturn:
    """The command as it is installed: runs `main` and ends the process with its exit code, at once.

    Whatever a session holds is closed when `main` returns. To take torch apart and give memory back piece by piece
    would be a third of a second for nothing. Where a thread still works, or a profiler or debugger looks on, the
    process ends as usual.
    """
    _open_closed_streams()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as of stderr: names may have letters a terminal has not
    code = main()
    works = any(not thread.daemon for thread in threading.enumerate() if thread is not threading.main_thread())
    if works or sys.getprofile() is not None or sys.gettrace() is not None:
        sys.exit(code)
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it has gone
            stream.flush()
    os._exit(code)


def _open_closed_streams() -> None:
    """Point standard streams that the caller closed, as some job schedulers do, at the null device.

    Otherwise there is nowhere to write to, and the next file that is opened gets a number that libraries print to.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def main(words: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; `words` are the arguments without the program's name."""
    try:
        with _stopping_on_signals():
            arguments = command_line.parse(sys.argv[1:] if words is None else words)
            code = _command(arguments)(arguments)
            sys.stdout.flush()
    except DeepMedicError as error:
        return _refuse(str(error), error.exit_code)
    except BrokenPipeError:
        # Whoever read the output has gone, as `head` does; nothing more can be said there.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _PIPE_CLOSED
    except KeyboardInterrupt as interrupt:
        return _refuse("interrupted; there was nothing new to save.", 128 + (interrupt.args or (signal.SIGINT,))[0])
    except MemoryError:
        return _refuse("memory ran out; use smaller segments, batches or images, or a machine with more.", _RESOURCES)
    except OSError as error:
        where = f"{error.filename}: " if error.filename is not None else ""
        return _refuse(f"{where}the system says: {error.strerror or error}. Check the path, its rights and the disk.")
    except Exception:
        logging.getLogger(__name__).exception("This is a defect of the program, please report it with the lines below.")
        return _DEFECT
    return code


@contextmanager
def _stopping_on_signals() -> Iterator[None]:
    """Let SIGTERM and SIGUSR1 end the block as SIGINT does, so that what it holds is released; sessions save first."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    previous = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGUSR1)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _refuse(message: str, exit_code: int = _RESOURCES) -> int:
    with suppress(OSError):  # the exit code says it all the same where nobody reads, or the disk of the log is full
        sys.stderr.write(f"deepmedic: {message}\n")
        sys.stderr.flush()
    return exit_code


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
    if arguments.plot:
        return _plot
    if arguments.report:
        return _report
    if arguments.segment:
        return _segment
    if arguments.adapt or arguments.convert or arguments.strip:
        return _derive
    if arguments.new_configs:
        return _new_configs
    if arguments.analyse:
        return _analyse
    if arguments.analyse_layers:
        return _analyse_layers
    if arguments.find_lr:
        return _find_lr
    if arguments.compare:
        return _compare
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
    with quick_imports():
        from deepmedic.sessions.reports import inspection

    sys.stdout.write(inspection.inspect(arguments) + "\n")
    return 0


def _self_test(arguments: Arguments) -> int:
    with quick_imports():
        from deepmedic.sessions.selftest import selftest

    init_logging(console=False)  # the table says all
    table, passed = selftest.run(arguments.device)
    sys.stdout.write(table + "\n")
    return 0 if passed else 1


def _plot(arguments: Arguments) -> int:
    from deepmedic.sessions.reports import plotting

    path = plotting.plot(
        arguments.plot, arguments.output, arguments.detailed, arguments.plot_classes, arguments.moving_average
    )
    lines = [*plotting.phase_changes(arguments.plot), f"Curves: {path}"]
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0


def _segment(arguments: Arguments) -> int:
    with quick_imports():
        from deepmedic.sessions import segmenting

    return segmenting.run(arguments)


def _new_configs(arguments: Arguments) -> int:
    with quick_imports():
        from deepmedic.sessions.checking import new_configs

    return new_configs.run(arguments)


def _report(arguments: Arguments) -> int:
    with quick_imports():
        from deepmedic.sessions.reports import reporting

    for path in reporting.make_again(arguments.report, arguments.output):
        sys.stdout.write(f"Report: {path}\nNext: open it in a browser; it needs no network.\n")
    return 0


def _derive(arguments: Arguments) -> int:
    with quick_imports():
        from deepmedic.sessions.models import derivation

    return derivation.run(arguments)


def _analyse(arguments: Arguments) -> int:
    from deepmedic.sessions import dispatch

    return dispatch.analyse(arguments)


def _analyse_layers(arguments: Arguments) -> int:
    from deepmedic.sessions import dispatch

    return dispatch.analyse_layers(arguments)


def _find_lr(arguments: Arguments) -> int:
    from deepmedic.sessions import dispatch

    return dispatch.find_lr(arguments)


def _compare(arguments: Arguments) -> int:
    from deepmedic.sessions import dispatch

    return dispatch.compare(arguments)


def _session(arguments: Arguments) -> int:
    from deepmedic.sessions import dispatch

    return dispatch.run(arguments)

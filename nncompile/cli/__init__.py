"""The command line: `nncompile export | predict | bench | tune | triton | inspect | verify | doctor`."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import traceback

from nncompile.cli.usage import UsageError
from nncompile_runtime.errors import NncompileError

_FAILED, _WRONG_USAGE, _INTERRUPTED = 1, 2, 130
_INTERRUPTION = "interrupted; no file was left half-written"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def main() -> None:
    """Run a command; exit code 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    _prepare_streams()
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        from nncompile.cli.app import app

        try:
            app(args=arguments, prog_name="nncompile")
        finally:
            sys.stdout.flush()
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:  # what typer makes of Ctrl-C
            _say(_INTERRUPTION)
        raise
    except NncompileError as error:
        _show(error, debug=debug)
        sys.exit(_WRONG_USAGE if isinstance(error, UsageError) else _FAILED)
    except KeyboardInterrupt:
        _say(_INTERRUPTION)
        sys.exit(_INTERRUPTED)
    except BrokenPipeError:  # the reader has what it wanted, as `head`
        _drop_stdout()
        sys.exit(_FAILED)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _NO_ROOM:
            _drop_stdout()
            no_room = NncompileError(
                f"The output cannot be written: {error.strerror}.",
                remedy="Write to where there is room; temporary files (TMPDIR) need some, too.",
            )
            _show(no_room, debug=debug)
            sys.exit(_FAILED)
        _say(f"error: internal error in nncompile: {type(error).__name__}: {error}")
        _say("  fix: run it again with --debug and report the traceback")
        if debug:
            traceback.print_exc()
        sys.exit(_FAILED)


def _prepare_streams() -> None:
    """Output that somebody can read; a character that the locale lacks, such as a table's µ, is escaped."""
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115  # as long as the process lives
    if sys.stdout is None:
        closed = NncompileError("stdout is closed.", remedy="Redirect it to a file, or to /dev/null.")
        _show(closed, debug=False)
        sys.exit(_FAILED)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _drop_stdout() -> None:
    """Python would try to write what is left once more, and complain of that."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _show(error: NncompileError, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    _say(f"error: {error.problem}")
    if error.remedy:
        _say(f"  fix: {error.remedy}")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")

"""The command line: `nncompile export | predict | bench | tune | triton | inspect | verify | doctor`."""

from __future__ import annotations

import logging
import sys
import traceback

from nncompile.cli.usage import UsageError
from nncompile_runtime.errors import NncompileError

_FAILED, _WRONG_USAGE, _INTERRUPTED = 1, 2, 130


def main() -> None:
    """Run a command; exit code 0 done, 1 failed, 2 wrong usage, 130 interrupted."""
    debug = "--debug" in sys.argv
    arguments = [argument for argument in sys.argv[1:] if argument != "--debug"]
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        from nncompile.cli.app import app

        app(args=arguments, prog_name="nncompile")
    except NncompileError as error:
        _show(error, debug=debug)
        sys.exit(_WRONG_USAGE if isinstance(error, UsageError) else _FAILED)
    except KeyboardInterrupt:
        _say("interrupted; nothing was written")
        sys.exit(_INTERRUPTED)
    except Exception as error:
        _say(f"error: internal error in nncompile: {type(error).__name__}: {error}")
        _say("  fix: run it again with --debug and report the traceback")
        if debug:
            traceback.print_exc()
        sys.exit(_FAILED)


def _show(error: NncompileError, *, debug: bool) -> None:
    if debug:
        traceback.print_exc()
    _say(f"error: {error.problem}")
    if error.remedy:
        _say(f"  fix: {error.remedy}")


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")

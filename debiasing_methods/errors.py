"""The one exception for bad input, and the wrapper that turns it into a line and an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130


class InputError(ValueError):
    """Input that the user can mend: the message is one line (what, where, what is allowed, what to do)."""


def run_main(main: Callable[[], int]) -> int:
    """Run an entry point and map its failures to exit codes.

    Parameters
    ----------
    main : callable
        The entry point's ``main``; reads ``sys.argv`` when it is called without arguments.

    Returns
    -------
    int
        What `main` returned; 2 after an `InputError` or a failing file operation (one line on stderr);
        130 after Ctrl-C.
    """
    try:
        return main()
    except InputError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("interrupted: finished parts are kept; run the same command again to go on", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, less) has gone; that is not our failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        print(f"error: {error.strerror or error}{where}", file=sys.stderr)
        return EXIT_BAD_INPUT

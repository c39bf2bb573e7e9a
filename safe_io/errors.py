"""The one exception for bad input, and the wrapper that turns it into a line and an exit code."""

from __future__ import annotations

import errno
import gc
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from safe_io.exit_codes import EXIT_BAD_INPUT, EXIT_INTERRUPTED, INTERRUPTED
from safe_io.start import guard_end

# New objects before Python looks for cycles among them. Imports make a million that stay: with the default of
# 700 looking at them takes a tenth of a command's start.
_OBJECTS_BEFORE_COLLECTION = 50_000
_UNSAFE = ("allow_pickle", "weights_only", "pickle", "add_safe_globals")
_DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class InputError(ValueError):
    """Input that the user can mend: the message is one line (what, where, what is allowed, what to do)."""


@contextmanager
def as_input_error(where: str) -> Iterator[None]:
    """Turn a `ValueError` into an `InputError` that says where it arose.

    The methods and their training know neither files nor commands: they complain of arrays and options with
    a `ValueError`. Whoever handed those over knows where they came from.

    Parameters
    ----------
    where : str
        File, result or option that the complaint is about; put before it. May be empty.
    """
    try:
        yield
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{where}: {error}" if where else str(error)) from None


def plain_reason(error: BaseException) -> str:
    """Say in one line what a reader of arrays or weights complained of, without its advice.

    NumPy and torch advise to load untrusted files in a way that executes what is in them.
    """
    reason = _one_line(error)
    if any(word in reason for word in _UNSAFE):
        return "it is damaged, or holds Python objects, which are not loaded since that would execute code"
    return reason or type(error).__name__


def run_main(main: Callable[[], int]) -> int:
    """Run an entry point and map its failures to exit codes.

    Parameters
    ----------
    main : callable
        The entry point's ``main``; reads ``sys.argv`` when it is called without arguments.

    Returns
    -------
    int
        What `main` returned; 2 after an `InputError`, a failing file operation or a lack of memory (one line
        on stderr); 130 after Ctrl-C.
    """
    gc.set_threshold(_OBJECTS_BEFORE_COLLECTION)
    _open_streams()
    try:
        _check_arguments(sys.argv[1:])
        return main()
    except InputError as error:
        _say(f"error: {_one_line(error)}")
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        _say(INTERRUPTED)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # the reader of our output (head, less) has gone; that is not our failure
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        advice = "; what was there is as it was: free space and run it again" if _is_full(error) else ""
        _say(f"error: {_one_line(error.strerror or error)}{where}{advice}")
        return EXIT_BAD_INPUT
    except UnicodeError as error:  # a name or text with bytes that are no text got as far as a file
        _say(f"error: text that is not valid UTF-8: {_one_line(error)}")
        return EXIT_BAD_INPUT
    except (MemoryError, RuntimeError) as error:
        if not _is_lack_of_memory(error):
            raise
        _say("error: not enough memory; choose smaller sizes, or a machine with more")
        return EXIT_BAD_INPUT
    finally:
        guard_end()


def _open_streams() -> None:
    """See that printing cannot fail: streams may be closed, or of an encoding that lacks characters."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by the shell (2>&-)
            setattr(sys, name, Path(os.devnull).open("w", encoding="utf-8"))  # noqa: SIM115 (for as long as we run)
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def _check_arguments(arguments: Sequence[str]) -> None:
    """Raise `InputError` before anything is written if a name could not be written down."""
    for argument in arguments:
        try:
            argument.encode("utf-8")
        except UnicodeEncodeError:
            raise InputError(
                f"an argument is not UTF-8 text: {argument!a}; files record what they were made from, so "
                f"rename it"
            ) from None


def _say(line: str) -> None:
    with suppress(OSError, ValueError):  # whoever read our errors may have gone
        print(line, file=sys.stderr)


def _one_line(message: object) -> str:
    return " ".join(str(message).split())


def _is_full(error: OSError) -> bool:
    return error.errno in _DISK_FULL


def _is_lack_of_memory(error: MemoryError | RuntimeError) -> bool:
    """Tell torch's allocators, which raise RuntimeErrors, by what these say."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or ("can't allocate memory" in str(error))
    )

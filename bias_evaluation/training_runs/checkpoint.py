"""The file that an unfinished training run leaves beside its output, so that it goes on after a kill."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safe_io.errors import InputError
from safe_io.files import load_weights, save_weights


class Checkpoint:
    """``<output>.checkpoint``: the state of a run and the digest of what the run is.

    Parameters
    ----------
    output : path-like
        What the run will write.
    digest : str
        Of data and configuration.
    seconds : float
        Least time between two states; 0 writes every one.
    """

    def __init__(self, output: str | os.PathLike[str], digest: str, seconds: float) -> None:
        output = Path(output)
        self.path = output.with_name(f"{output.name}.checkpoint")
        self._digest, self._seconds, self._last = digest, seconds, time.monotonic()

    def load(self, *, overwrite: bool) -> dict[str, Any] | None:
        """Return the state of this very run, if it was cut off.

        Parameters
        ----------
        overwrite : bool
            Whether the file of another run, or a damaged one, is ignored.

        Raises
        ------
        InputError
            The file belongs to another run or is damaged, and `overwrite` is false.
        """
        if not self.path.exists():
            return None
        try:
            found = load_weights(self.path, make="start over with --overwrite")
            if found.get("digest") == self._digest and isinstance(found.get("state"), dict):
                return found["state"]
        except InputError:
            if not overwrite:
                raise
        if overwrite:
            return None
        raise InputError(
            f"{self.path} belongs to an unfinished run with other data or options; repeat those to finish "
            f"it, or start over with --overwrite"
        )

    def restore(self, take: Callable[[Mapping[str, Any]], None], state: Mapping[str, Any]) -> None:
        """Hand a state to what takes it; `InputError` where it is not one of this kind of run."""
        try:
            take(state)
        except (LookupError, TypeError, ValueError, AttributeError, RuntimeError):
            raise InputError(f"{self.path} is damaged; start over with --overwrite") from None

    def save(self, state: Mapping[str, Any]) -> None:
        """Write a state now."""
        save_weights(self.path, {"digest": self._digest, "state": dict(state)})
        self._last = time.monotonic()

    def save_when_due(self, state: Callable[[], Mapping[str, Any]]) -> None:
        """Write a state, unless the last one is younger than the chosen time."""
        if time.monotonic() - self._last >= self._seconds:
            self.save(state())

    def remove(self) -> None:
        """Delete the file of a run that is finished."""
        self.path.unlink(missing_ok=True)

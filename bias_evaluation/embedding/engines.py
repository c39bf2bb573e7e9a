"""Where work runs: in this process, in one job of an array (``--shard i/n``), or on Ray (``--engine ray``).

Ray is an optional extra (``pip install '.[ray]'``). Its tasks run the very command again with ``--shard
i/n``, so an array of jobs and a cluster do the same things, and what is on disk says what is done. Nothing of
Ray is imported unless it is asked for.
"""

from __future__ import annotations

import argparse
import importlib
import io
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

from safe_io.checkout import ROOT, SCRIPTS
from safe_io.errors import InputError

T = TypeVar("T")
ENGINES = ("local", "ray")
_ROOT = str(ROOT)
_CONNECT_SECONDS = 5.0  # to open a connection to a cluster
_ANSWER_SECONDS = 15.0  # for its head to say that it is well; Ray itself would wait for minutes
RETRIES = 3  # of a task whose worker was lost


# --- parts of a command's work ----------------------------------------------------------------------------


class Part(NamedTuple):
    """Part `index` (from 0) of `count` parts of a command's work."""

    index: int
    count: int

    def select(self, items: Sequence[T]) -> list[T]:
        """Choose this part's items: a block of neighbours; blocks differ by one item at most."""
        start, stop = (len(items) * k // self.count for k in (self.index, self.index + 1))
        return list(items[start:stop])

    def __str__(self) -> str:
        """Write the part as the command line has it."""
        return f"{self.index}/{self.count}"


def add_engine_options(parser: argparse._ActionsContainer) -> None:
    """Add ``--engine``, ``--shard`` and ``--join`` to a command."""
    add = parser.add_argument
    add(
        "--engine",
        choices=ENGINES,
        default="local",
        help="local: this process; ray: the Ray cluster that RAY_ADDRESS names, else a Ray of this machine's "
        "(default: %(default)s)",
    )
    add(
        "--shard", metavar="I/N", help="do part I (from 0) of N alone, e.g. in a job array; see docs/scale.md"
    )
    add("--join", action="store_true", help="after all shards: check them and put them together")


def check_engine_options(args: argparse.Namespace) -> Part | None:
    """Read ``--shard``, and see that Ray can be reached; `InputError` where the options cannot be met."""
    if sum((args.shard is not None, args.join, args.engine == "ray")) > 1:
        raise InputError("--shard, --join and --engine ray exclude each other; give one of them")
    if args.engine == "ray":
        check_ray()
    if args.shard is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", args.shard)
    part = Part(*map(int, found.groups())) if found else Part(1, 0)
    if part.index >= part.count:
        raise InputError(f"--shard {args.shard}: give I/N, part I of N parts, with I from 0 to N - 1")
    return part


# --- Ray --------------------------------------------------------------------------------------------------


@contextmanager
def ray_session() -> Iterator[ModuleType]:
    """Connect to Ray for a block: the running connection, else RAY_ADDRESS, else a Ray of this machine's.

    Yields
    ------
    module
        `ray`, initialised. A connection that was made here is closed after the block.

    Raises
    ------
    InputError
        Ray is not installed, or the cluster cannot be reached.
    """
    check_ray()
    import ray
    import ray.data

    if ray.is_initialized():
        yield ray
        return
    address = os.environ.get("RAY_ADDRESS")
    if not address:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # reports nothing to Ray's makers
    local = {} if address else {"include_dashboard": False, "num_cpus": usable_cores()}
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.ERROR, **local)
    except Exception as error:  # of many kinds, plain ones among them
        raise InputError(f"{_named(address)}: {_first_line(error)}") from None
    try:
        yield ray
    finally:
        ray.shutdown()


def check_ray() -> None:
    """Raise `InputError` where Ray is not installed or RAY_ADDRESS does not answer; Ray is not imported."""
    if find_spec("ray") is None:
        raise InputError("--engine ray needs the package ray; install the extra: pip install '.[ray]'")
    if address := os.environ.get("RAY_ADDRESS"):
        _check_reachable(address)


def usable_cores() -> int:
    """Count the cores that this process may use: in a container they can be fewer than the machine's."""
    if hasattr(os, "sched_getaffinity"):  # Linux
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _named(address: str | None) -> str:
    return f"Ray cluster RAY_ADDRESS={address}" if address else "Ray cannot be started on this machine"


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@cache  # of those that answer: an exception is not kept
def _check_reachable(address: str) -> None:
    """Raise `InputError` where no Ray answers at an address; 'auto' and the like are left to Ray."""
    place = address.removeprefix("ray://")
    host, _, port = place.rpartition(":")
    if not host:
        return
    advice = "start it (ray start --head), mend RAY_ADDRESS, or unset it to use this machine alone"
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except (OSError, ValueError) as error:
        raise InputError(f"{_named(address)} cannot be reached ({error}); {advice}") from None
    if place != address:
        return  # a Ray Client server, which answers otherwise
    ask = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", place]
    try:
        healthy = subprocess.run(ask, capture_output=True, timeout=_ANSWER_SECONDS).returncode == 0
    except subprocess.TimeoutExpired:
        healthy = False
    if not healthy:
        raise InputError(f"{_named(address)}: what listens there does not answer as a Ray head; {advice}")


def lost_worker_errors(ray: ModuleType) -> tuple[type[Exception], ...]:
    """List what Ray raises where a worker was lost too often; errors of our own code are not among it."""
    names = (
        "WorkerCrashedError",
        "OutOfMemoryError",
        "NodeDiedError",
        "ActorDiedError",
        "ActorUnavailableError",
    )
    return tuple(getattr(ray.exceptions, name) for name in names)


def resources_of_a_worker(ray: ModuleType, device: str) -> dict[str, int]:
    """Resources that a worker asks for: as many cores as torch has threads here, and a GPU for 'cuda'.

    Raises
    ------
    InputError
        The cluster has no GPU and 'cuda' is asked for.
    """
    import torch

    cores = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    if device != "cuda":
        return {"num_cpus": max(1, min(torch.get_num_threads(), cores))}
    if ray.cluster_resources().get("GPU", 0) < 1:
        raise InputError("--device cuda: no node of this Ray cluster has a GPU; pass --device cpu")
    return {"num_cpus": 1, "num_gpus": 1}


class Call(NamedTuple):
    """A command for a worker: the module with its ``main``, its arguments, and a name for messages."""

    module: str
    arguments: Sequence[str]
    name: str


def run_calls(calls: Sequence[Call], *, device: str, what: str) -> list[str]:
    """Run commands as Ray tasks; what a finished one wrote stays, whatever becomes of the others.

    Parameters
    ----------
    calls : sequence of Call
    device : str
        'cuda' gives each task a GPU.
    what : str
        Of the progress bar.

    Returns
    -------
    list of str
        What each printed, in the order of the calls.

    Raises
    ------
    InputError
        Some ended with an error, or lost their worker again and again; the line has the first.
    """
    import torch
    from tqdm import tqdm

    if not calls:
        return []
    with ray_session() as ray:
        remote = ray.remote(max_retries=RETRIES, **resources_of_a_worker(ray, device))(_run_call)
        place = (str(Path.cwd()), torch.get_num_threads())
        numbers = {
            remote.remote(call.module, list(call.arguments), *place): k for k, call in enumerate(calls)
        }
        outputs, errors = [""] * len(calls), {}
        waiting = list(numbers)
        with tqdm(total=len(calls), unit="task", desc=what) as bar:
            while waiting:
                [done], waiting = ray.wait(waiting)
                number = numbers[done]
                outputs[number], errors[number] = _outcome(ray, done)
                bar.update()
    _raise_first(calls, {k: error for k, error in sorted(errors.items()) if error})
    return outputs


def _outcome(ray: ModuleType, done: Any) -> tuple[str, str]:
    """Output and error line of a task."""
    try:
        return ray.get(done)
    except lost_worker_errors(ray) as error:
        return "", f"its worker was lost {RETRIES + 1} times ({_first_line(error)})"


def _raise_first(calls: Sequence[Call], errors: Mapping[int, str]) -> None:
    for number, error in errors.items():
        raise InputError(
            f"{len(errors)} of {len(calls)} tasks failed, the first: {calls[number].name}: {error}; what the "
            f"others finished is kept"
        )


def _run_call(module: str, arguments: list[str], folder: str, threads: int) -> tuple[str, str]:
    """Run a command in a worker: what it printed, and its error line."""
    import torch

    sys.path[:0] = [] if _ROOT in sys.path else [_ROOT]
    os.chdir(folder)  # relative paths mean the same as where the command was given
    torch.set_num_threads(threads)  # so that a sum is split as there
    output = io.StringIO()
    try:
        with redirect_stdout(output):
            importlib.import_module(module if "." in module else SCRIPTS + module).main(arguments)
    except InputError as error:
        return output.getvalue(), " ".join(str(error).split())
    except OSError as error:
        where = f" ({error.filename})" if error.filename else ""
        return output.getvalue(), f"{error.strerror or error}{where}"
    return output.getvalue(), ""

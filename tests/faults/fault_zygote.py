"""A process that has imported the project once, and forks a child for each command that it is told to run.

One JSON document a line comes in, a list of jobs, which run at the same time; one goes out, a list of
outcomes. A job says which command, with which arguments, and what happens to it: a signal at its n-th change
of the file system, or after so many seconds; a limit on the size of files.
"""

from __future__ import annotations

import importlib
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

COMMANDS = {
    "embed": "precompute_embeddings",
    "splits": "generate_splits",
    "sae": "debiasing_methods.sae_training",
    "prism": "debiasing_methods.prism_training",
    "zsdebias": "debiasing_methods.zsdebias_training",
    "evaluate": "main_eval",
    "encode": "main_eval",
    "gather": "process_json_outputs",
    "table": "reproduce_tables.__main__",
    "figures": "reproduce_tables.figures",
    "prompts": "print_prompts",
    "import": "import_release",
    "unpack": "download_release",
    "download": "download_release",
    "audit": "audit_bias",
    "debias": "debias_queries",
}
# So that small data make several shards, and several batches of maps.
SMALL = {
    "bias_evaluation.embedding.image_embeddings": {"SHARD_ROWS": 8},
    "bias_evaluation.training_runs.prism": {"_BATCH_BYTES": 1},
}
CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT


class Watch:
    """Counts the changes of the file system below a folder, and sends this process a signal at the n-th."""

    def __init__(self, root: str, at: int | None, number: int) -> None:
        self.root, self.at, self.number, self.seen = root, at, number, 0

    def __call__(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            if not isinstance(arguments[2], int) or not arguments[2] & WRITING:
                return
        elif event not in CHANGES:
            return
        path = arguments[0]
        named = isinstance(path, str | bytes | os.PathLike)  # else by an open file
        if named and not str(Path(os.fsdecode(path)).absolute()).startswith(self.root):
            return
        self.seen += 1
        if self.seen == self.at:
            os.kill(os.getpid(), self.number)


def work(job: dict[str, Any]) -> None:
    """Run a command in this process, which ends with it."""
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(job[name], number)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if job.get("file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (job["file_bytes"], resource.RLIM_INFINITY))
    watch = Watch(job["root"], job.get("at"), job.get("signal", signal.SIGKILL))
    sys.addaudithook(watch)
    from safe_io.errors import run_main

    try:
        main = importlib.import_module(COMMANDS[job["command"]]).main
        code = run_main(lambda: main(job["arguments"]))
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 1
    except BaseException:
        traceback.print_exc()
        code = 1
    if job.get("file_bytes"):
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    sys.stdout.flush()
    sys.stderr.flush()
    os.write(job["events"], str(watch.seen).encode())
    os._exit(code)


class Child:
    """A job in a process of its own, and pipes from it."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job, self.texts = job, dict.fromkeys(("out", "err", "events"), b"")
        pipes = {name: os.pipe() for name in self.texts}
        self.process = os.fork()
        if self.process == 0:
            work(job | {name: ends[1] for name, ends in pipes.items()})
        for _, end in pipes.values():
            os.close(end)
        self._ends = {name: ends[0] for name, ends in pipes.items()}
        for end in self._ends.values():
            os.set_blocking(end, False)

    def read(self) -> None:
        """Take what is in the pipes."""
        for name, end in self._ends.items():
            try:
                while part := os.read(end, 1 << 16):
                    self.texts[name] += part
            except BlockingIOError:
                pass

    def close(self) -> dict[str, str]:
        """Take the rest."""
        self.read()
        for end in self._ends.values():
            os.close(end)
        return {name: text.decode(errors="replace") for name, text in self.texts.items()}


def run(jobs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Run jobs at the same time; those that outlast their limit are killed and said to hang."""
    started = time.monotonic()
    children = [Child(job) for job in jobs]
    outcomes: dict[int, dict[str, Any]] = {}
    while len(outcomes) < len(children):
        seconds = time.monotonic() - started
        for number, child in enumerate(children):
            if number not in outcomes and (code := look_after(child, seconds)) is not None:
                outcomes[number] = {"code": code, "seconds": seconds, **child.close()}
        time.sleep(0.001)
    return [outcomes[number] for number in range(len(children))]


def look_after(child: Child, seconds: float) -> int | str | None:
    """Let happen to a child what its job says; gives its exit code when it has ended."""
    child.read()
    ended, status = os.waitpid(child.process, os.WNOHANG)
    if ended:
        return os.waitstatus_to_exitcode(status)
    job = child.job
    if job.get("after") is not None and seconds >= job["after"]:
        os.kill(child.process, job.get("signal", signal.SIGKILL))
        job["after"] = None
    if seconds > job["limit"]:
        os.kill(child.process, signal.SIGKILL)
        os.waitpid(child.process, 0)
        return "hangs"
    return None


def main() -> None:
    """Import the project, then serve."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever the imports print does not get between the answers
    for module in set(COMMANDS.values()):
        importlib.import_module(module)
    for name in (
        "bias_evaluation.embedding.text_store",
        "open_clip",
        "matplotlib.pyplot",
        "safetensors.torch",
        "yaml",
        "PIL",
    ):
        importlib.import_module(name)
    import torch

    torch.set_num_threads(1)
    for name, values in SMALL.items():
        for attribute, value in values.items():
            setattr(importlib.import_module(name), attribute, value)
    print("ready", file=answers, flush=True)
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""Commands that are killed at random moments: run again, they leave what an undisturbed run leaves.

``SEM_FAULTS=10`` makes ten times as many kills.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable

import pytest
from fault_case import ABANDONED, COMMANDS, RESUMABLE, Case

KILLS = 5 * int(os.environ.get("SEM_FAULTS", "1"))  # of each command


def fate(dice: random.Random, case: Case) -> dict[str, float]:
    """Choose when to kill: at a change of the file system, or at any time."""
    if dice.random() < 0.6:
        return {"at": dice.randint(1, case.undisturbed.events)}
    return {"after": dice.uniform(0, 1.2 * case.undisturbed.seconds)}


@pytest.mark.parametrize("command", COMMANDS)
def test_killed_and_run_again(command: str, make_case: Callable[[str], Case]) -> None:
    case = make_case(command)
    dice, kills, runs = random.Random(command), 0, 0
    while kills < KILLS:
        world = case.copy()
        for _ in range(3):
            ended = case.run(world, **fate(dice, case))
            assert ended.code in (0, -signal.SIGKILL), ended.err
            kills += ended.code != 0
            case.check_left(world, *RESUMABLE, *ABANDONED)
        case.check_end(world)
        runs += 3
        assert runs < 20 * KILLS, "too few runs lived long enough to be killed"

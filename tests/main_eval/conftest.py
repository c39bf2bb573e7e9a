"""The project that every test of main_eval gets a copy of."""

from __future__ import annotations

import pytest
from support.suite_world import World


@pytest.fixture
def world(suite_world: World) -> World:
    return suite_world

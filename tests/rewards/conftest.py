"""Probe rollouts for the tests of rewards."""

from __future__ import annotations

import pytest
from made_up_outputs import made_up_outputs

from experiments.tasks.task import Outputs


@pytest.fixture(scope="session")
def probe() -> Outputs:
    return made_up_outputs()

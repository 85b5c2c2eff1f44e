"""A training run that is killed at any moment, and goes on, ends with the same bits as one that was left alone.

AIMT_SLOW=1 pytest tests/test_resume.py     25 kills in place of 3
"""

import os
import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from resume_run import STEPS, make_trainer, run

KILLS = 25 if os.environ.get("AIMT_SLOW") else 3


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> dict:
    """The run that nobody disturbed."""
    result = run(tmp_path_factory.mktemp("alone"))
    assert result["stopped"] == "steps" and result["step"] == STEPS
    return result


@pytest.mark.parametrize("n", range(KILLS))
def test_killed_at_a_random_moment(n, alone, tmp_path):
    dice = random.Random(n)
    killed = run(tmp_path, kill_at=dice.randrange(STEPS * n // KILLS, STEPS * (n + 1) // KILLS), wait=dice.random() * 0.01)
    assert "stopped" not in killed, "it was not killed, but ended"
    assert run(tmp_path) == alone


def test_killed_again_and_again(alone, tmp_path):
    for step in (3, 20, 21, 48):
        assert "stopped" not in run(tmp_path, kill_at=step)
    assert run(tmp_path) == alone


def test_killed_around_a_roll_back(tmp_path_factory):
    """One batch makes the loss NaN: back to the last good state, half the rate. A kill before or after changes nothing."""
    alone = run(tmp_path_factory.mktemp("alone"), bad=61)  # second micro batch of step 31
    for step in (30, 33):
        folder = tmp_path_factory.mktemp("killed")
        assert "stopped" not in run(folder, bad=61, kill_at=step)
        assert run(folder, bad=61) == alone


def test_the_fingerprint_notices_a_difference(alone, tmp_path):
    assert run(tmp_path, seed=1)["fingerprint"] != alone["fingerprint"]


def test_more_steps_go_on_from_the_end(tmp_path):
    make_trainer(tmp_path, steps=10, schedule="constant").fit()
    longer = make_trainer(tmp_path, steps=20, schedule="constant")
    with pytest.warns(UserWarning, match="steps 10 -> 20"):
        history = longer.fit(resume=True)
    assert [r["step"] for r in history.steps] == list(range(1, 21))
    assert history.events[-1]["changed"]["steps"] == [10, 20]

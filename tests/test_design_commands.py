"""What a user may ask of a design by mistake, asked by the command: exit code 2 and a sentence, nothing written, no traceback."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from aimt.core.run import Run
from aimt.data.design.plan_rules import to_plan
from aimt.data.design.plan_search import search_plan
from aimt.data.design.topology_optimisation import Simp
from aimt.jobs.generators.design_model import DesignModel, DesignSettings
from aimt.models.design.airfoil import AirfoilProblem
from aimt.models.design.airfoil_brief import FoilBrief
from aimt.models.design.airfoil_search import naca_0012
from aimt.models.design.floor_plan import FloorPlanProblem
from aimt.models.design.problem import DesignProblem, Examples
from aimt.models.design.structure import StructureProblem
from test_floor_plans import FLAT

PLATE = {"loads": "1,0.5,-90", "supports": "left", "volume": 0.45}
FOIL = {"lift": 0.7, "thickness": 0.12}


def keep(problem: DesignProblem, name: str, design: np.ndarray, given: dict, place: Path) -> str:
    """A run with a network without training: enough to be asked."""
    torch.manual_seed(0)
    brief = problem.brief(given)
    examples = Examples(np.stack([design] * 2), [brief] * 2, np.arange(2))
    run = Run.create(place, settings={"kind": "design", "source": name})
    DesignModel(problem.network("tiny"), problem, DesignSettings(name, problem.stored_settings(), "tiny", polish=1), examples).save(
        run.path / "model"
    )
    run.finish()
    return str(place)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A run of each problem."""
    place = tmp_path_factory.mktemp("designs")
    plate, plans = StructureProblem(16, 8, settings=Simp(iterations=12)), FloorPlanProblem()
    found = {
        "structure": (plate, plate.optimise(plate.brief(PLATE), calls=12)[0], PLATE),
        "floor-plan": (plans, to_plan(search_plan(plans.brief(FLAT), seconds=5, seed=3).masks), FLAT),
    }
    try:
        found["airfoil"] = (AirfoilProblem(), naca_0012(FoilBrief(0.7, thickness=0.12))[0], FOIL)
    except ImportError:
        pass
    return {name: keep(problem, name, design, given, place / name) for name, (problem, design, given) in found.items()}


BAD = {  # Section 4 of what designs promise: name -> problem, what is asked for instead, what is said
    "a load on nothing": ("structure", {"void": "0.8,0.2,1,0.8"}, "acts on nothing"),
    "supports that leave a mechanism": ("structure", {"supports": "bottom-left"}, "mechanism"),
    "volume 0": ("structure", {"volume": 0}, "leaves nothing"),
    "volume 1": ("structure", {"volume": 1}, "no void"),
    "a forbidden region that cuts all paths": ("structure", {"void": "0.4,0,0.6,1"}, "cuts the load"),
    "unreachable lift": ("airfoil", {"lift": 9}, "out of reach"),
    "negative thickness": ("airfoil", {"thickness": -0.1}, "thickness of -0.1"),
    "negative thickness of a plate": ("structure", {"thickness_mm": -1}, "positive"),
    "rooms that cannot fit": (
        "floor-plan",
        {"rooms": "Hall hall 10; Living living 40; Bedroom bedroom 40", "adjacent": ""},
        "need at least",
    ),
    "a site of three points": ("floor-plan", {"site": [[0, 0], [9, 0], [9, 9]]}, "3 corners"),
    "a crossing outline": ("floor-plan", {"site": [[0, 0], [9, 7], [9, 0], [0, 7]]}, "crosses"),
    "wishes that contradict": (
        "floor-plan",
        {"adjacent": "Living-Kitchen; Living-Bedroom; Living-Study; Kitchen-Bedroom; Kitchen-Study; Bedroom-Study"},
        "would all have to touch each other",
    ),
    "an unknown wish": ("structure", {"weight": 3}, "unknown wish 'weight'"),
}


@pytest.mark.parametrize("case", BAD)
def test_the_command_says_what_is_wrong(runs: dict[str, str], aimt_here: Callable, case: str, tmp_path: Path) -> None:
    problem, change, said = BAD[case]
    if problem not in runs:
        pytest.skip("the extra 'design' is not installed")
    given = {"structure": PLATE, "floor-plan": FLAT, "airfoil": FOIL}[problem] | change
    (tmp_path / "brief.json").write_text(json.dumps(given), encoding="utf-8")
    done = aimt_here("generate", runs[problem], "--want", tmp_path / "brief.json", "-o", tmp_path / "out")
    told = " ".join(done.stderr.split())
    assert done.returncode == 2 and said in told and "Traceback" not in told, told
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("body", "said"),
    [("raise RuntimeError('no convergence')", "no convergence"), ("return d.assign(y=float('nan'))[['y']]", "no number that varies")],
    ids=["raises", "not a number"],
)
def test_a_judge_that_always_fails_is_named_by_the_command(aimt_here: Callable, body: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "judge.py").write_text(f"def measure(d):\n    {body}\n", encoding="utf-8")
    pd.DataFrame({"a": np.linspace(0, 1, 60)}).to_csv(tmp_path / "table.csv", index=False)
    judge = f"{tmp_path / 'judge.py'}:measure"
    done = aimt_here("train", tmp_path / "table.csv", "--judge", judge, "--steps", 1, "--out", tmp_path / "run")
    told = " ".join(done.stderr.split())
    assert done.returncode == 2 and said in told and "Traceback" not in told, told


def test_a_slow_judge_is_not_thinned_out_by_the_clock(aimt_here: Callable, tmp_path: Path) -> None:
    code = "import time\nimport pandas as pd\n\n\ndef measure(d):\n    time.sleep(0.02 * len(d))\n    return pd.DataFrame({'y': d['a'] ** 2})\n"
    (tmp_path / "judge.py").write_text(code, encoding="utf-8")
    judge = f"{tmp_path / 'judge.py'}:measure"
    done = aimt_here("train", "--kind", "design", "--judge", judge, "--parameters", "a=0..1", "--time-limit", 5, "--out", tmp_path / "run")
    told = " ".join(done.stderr.split())
    assert done.returncode == 2 and "more than the time limit of 5 s" in told and "--examples" in told, told

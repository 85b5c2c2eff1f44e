"""Floor plans: bad briefs are refused in words, plans of anything are judged, files are read by parsers that did not write them."""

import random

import numpy as np
import pytest
import torch

from aimt.core.errors import AimtError, ProblemError
from aimt.data.design.plan_brief import SIDE, plan_grid, read_plan_brief
from aimt.data.design.plan_conflicts import conflicts
from aimt.data.design.plan_rules import judge_plan, plan_bits, to_plan
from aimt.data.design.plan_search import PlanPenalty, anneal, make_examples, mend, search_plan, slice_site, symmetric_plans
from aimt.models.design.floor_plan import FloorPlanProblem
from aimt.train.networks.generator import GeneratorData, train_generator

FLAT = {
    "site": "9 x 7.2",
    "windows": "south west",
    "entrance": "north 5.4",
    "rooms": "Hall hall; Living living 22; Kitchen kitchen 8; Bedroom bedroom 13; Study study 8; Bathroom bathroom 5",
    "adjacent": "Living-Kitchen; Hall-Bathroom",
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"site": [[0, 0], [9, 0], [9, 9]]}, "3 corners"),
        ({"site": [[0, 0], [9, 7], [9, 0], [0, 7]]}, "crosses"),
        ({"site": [[0, 0], [9, 0], [9, 7], [0, 7], [0, 3], [5, 3], [0, 3]]}, "crosses"),
        ({"site": [[0, 0], [9, 0], [9, float("nan")], [0, 7]]}, "finite"),
        ({"site": [[0, 0, 1], [9, 0], [9, 7], [0, 7]]}, "list of corners"),
        ({"site": "0 x 7"}, "site"),
        ({"site": "-9 x 7"}, "site"),
        ({"site": "nine x seven"}, "no rectangle"),
        ({"site": "40 x 7"}, "is the most"),
        ({"rooms": ""}, "needs rooms"),
        ({"rooms": "Hall hall"}, "2 to 8"),
        ({"rooms": ";".join(f"B{i} bedroom 5" for i in range(9))}, "2 to 8"),
        ({"rooms": "Hall hall; Pool swimming 20"}, "swimming"),
        ({"rooms": [{"name": "Hall", "type": "hall", "area": "nan"}, {"name": "B", "type": "bedroom"}]}, "above 0"),
        ({"rooms": [{"name": "Hall", "type": "hall", "colour": "red"}, {"name": "B", "type": "bedroom"}]}, "colour"),
        ({"rooms": [{"name": "x" * 99, "type": "hall"}, {"name": "B", "type": "bedroom"}]}, "99 characters"),
        ({"rooms": [1, 2]}, "list of rooms"),
        ({"rooms": "Hall hall 64; Bed bedroom"}, "must hold a square"),
        ({"adjacent": [["Hall", "Garden"]]}, "not two of the rooms"),
        ({"adjacent": "Hall-Hall"}, "beside itself"),
        ({"windows": "above"}, "unknown side"),
        ({"windows": []}, "window wall"),
        ({"entrance": "roof 3"}, "side"),
        ({"entrance": {"side": "north", "at": 99}}, "no outer wall"),
        ({"module": 0.05}, "module"),
        ({"module": "wide"}, "module"),
        ({"garden": 20}, "no 'garden'"),
        ({"rooms": "Hall hall 10; Living living 40; Bedroom bedroom 40"}, "the rooms need at least"),
        ({"rooms": "Hall hall 4; Living living 10; Bedroom bedroom 9"}, "the rooms fill at most"),
        ({"rooms": "Hall hall; Living living 50; Bedroom bedroom 3"}, "must hold a square"),
        ({"rooms": "Bedroom bedroom; Bathroom bathroom 6", "adjacent": None}, "there is none"),
    ],
)
def test_bad_briefs_are_refused_in_words(change, message):
    given = {**FLAT, **change}
    if "rooms" in change and "adjacent" not in change:
        given.pop("adjacent")
    with pytest.raises(ProblemError, match=message):
        FloorPlanProblem().brief({k: v for k, v in given.items() if v is not None})


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "=1+1", "居間", "a\x1b[31mb", 'O\'Neil & "Co"'])
def test_names_of_rooms_reach_every_file(name, tmp_path):
    ET = pytest.importorskip("xml.etree.ElementTree")
    problem = FloorPlanProblem()
    rooms = [
        {"name": name, "type": "hall", "area": 12},
        {"name": "Living", "type": "living", "area": 24},
        {"name": "Bed", "type": "bedroom", "area": 14.4},
    ]
    brief = problem.brief({"site": "8.4 x 6", "entrance": "north 2", "rooms": rooms})
    found = search_plan(brief, seconds=5, seed=1)
    assert found.met
    for ending in problem.formats:
        problem.write(to_plan(found.masks), brief, tmp_path / f"plan{ending}")
    words = [t.text for t in ET.parse(tmp_path / "plan.svg").getroot().iter("{http://www.w3.org/2000/svg}text")]
    assert words[0] == brief.rooms[0].name and "\x1b" not in words[0]


@pytest.mark.parametrize("seed", range(4))
def test_judge_takes_plans_of_anything(seed):
    rng = np.random.default_rng(seed)
    problem, brief = FloorPlanProblem(), read_plan_brief(FLAT)
    plans = np.stack(
        [rng.integers(-5, 12, (SIDE, SIDE)), np.full((SIDE, SIDE), -1), np.full((SIDE, SIDE), 3), rng.integers(0, 6, (SIDE, SIDE))]
    )
    judged = problem.judge(plans, [brief] * 4)
    assert not judged.sound.any() and np.isinf(judged.worst_miss).all()
    for plan in plans:  # made whole, whatever it was
        masks = mend(plan, plan_bits(brief))
        whole = to_plan(masks)
        assert ((whole >= 0) == plan_grid(brief).site).all() and all(masks)


def test_examples_meet_their_briefs_in_every_form():
    for plan, brief in make_examples(random.Random(11), steps=3000, variants=1) or make_examples(random.Random(12), steps=3000, variants=1):
        for turned, its in symmetric_plans(plan, brief):
            found = judge_plan(turned, its)
            assert not found.faults and not found.missing and found.area <= 0.15
            assert conflicts(its) == []


def test_annealing_never_loses_a_cell_and_its_answer_is_the_judges():
    brief = read_plan_brief(FLAT)
    bits, rng = plan_bits(brief), random.Random(0)
    for _ in range(3):
        found = anneal(bits, slice_site(bits, rng), steps=1500, hot=3.0, rng=rng)
        plan = to_plan(found.masks)
        assert ((plan >= 0) == plan_grid(brief).site).all()
        told = judge_plan(plan, brief)
        assert found.met == (not told.faults and not told.missing and told.area <= 0.15 + 1e-9)
        assert abs(PlanPenalty(bits)(found.masks) - found.penalty) < 1e-6


def test_problem_trains_samples_and_polishes():
    problem = FloorPlanProblem()
    brief = problem.brief(FLAT)
    plan = to_plan(search_plan(brief, seconds=5, seed=3).masks)
    x, condition = problem.encode(plan[None], [brief]), problem.condition([brief])
    np.testing.assert_array_equal(problem.decode(x, [brief])[0], plan)
    data = GeneratorData(x.repeat(8, 1, 1, 1), vector=condition.vector.repeat(8, 1), planes=condition.planes.repeat(8, 1, 1, 1))
    torch.manual_seed(0)
    trained = train_generator(problem.network("tiny"), data, data, objective=problem.objective(), steps=40)
    assert trained.measured["valid_loss"] < 0.8 * np.log(6)
    made = [problem.sample(trained.network, [brief] * 2, steps=3, generator=torch.Generator().manual_seed(0)) for _ in range(2)]
    np.testing.assert_array_equal(*made)
    polished, calls = problem.polish(made[0], [brief] * 2, 2)
    assert 0 < calls <= 2 * 600 and polished.shape == made[0].shape


def test_unknown_files_and_sizes():
    problem = FloorPlanProblem()
    with pytest.raises(ProblemError, match="unknown size"):
        problem.network("huge")
    with pytest.raises(AimtError, match="planes of shape None"):
        problem.network("tiny")(torch.zeros(1, 8, 16, 16), torch.zeros(1), None)

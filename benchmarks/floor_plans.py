"""Figures of floor plans on new programmes, as one JSON object: rules and wishes met, times, and the baselines.

``python benchmarks/floor_plans.py --model plans/ > floor_plans.log`` trains if the folder holds no model (12 CPU-minutes, of which 4
make the examples), then judges (3 CPU-minutes). The folder `model` of a run of
`aimt train floor-plans` will do as well. Examples are made with seed 0, and settings were chosen on a part of them; the briefs
of the figures are read off plans of seed 1, so every brief is known to be possible. Times are CPU-seconds of one thread.
"""

import argparse
import json
import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from aimt.core.files import read_json, write_json
from aimt.core.hardware import environment
from aimt.data.design.plan_brief import PlanBrief
from aimt.data.design.plan_rules import judge_plan, plan_bits, to_plan
from aimt.data.design.plan_search import PlanPenalty, anneal, make_examples, mend, search_plan, slice_site, symmetric_plans
from aimt.jobs.generators.design_model import DesignModel, DesignSettings
from aimt.models.design.floor_plan import FloorPlanProblem, PlanSampler, draw_cells, draw_plans, to_numbers
from aimt.train.networks.generator import GeneratorData, GeneratorSettings, train_generator

TIMES = (0.1, 0.2, 0.5)  # CPU-seconds of the generator; annealing gets ten times as many


def trained(folder: Path, seconds: float, n: int) -> DesignModel:
    """The model of a folder, or a new one that is kept there."""
    if (folder / "design.json").is_file():
        return DesignModel.load(folder)
    problem = FloorPlanProblem()
    examples = problem.examples(n, seed=0)
    held_out = np.isin(examples.groups, np.unique(examples.groups)[::20])
    parts = [examples.rows(np.flatnonzero(~held_out)), examples.rows(np.flatnonzero(held_out))]
    data = [GeneratorData(problem.encode(p.designs, p.briefs), **problem.condition(p.briefs).parts()) for p in parts]
    torch.manual_seed(0)
    settings = GeneratorSettings(batch_size=64, lr=2e-3, ema=0.99)
    made = train_generator(
        problem.network(), *data, objective=problem.objective(), settings=settings, time_limit=seconds, clock=time.process_time
    )
    model = DesignModel(made.network, problem, DesignSettings("floor-plan"), parts[0])
    model.save(folder)
    write_json(folder / "training.json", made.measured)
    return model


def new_briefs(n: int, seed: int) -> list[PlanBrief]:
    """Briefs of new programmes, one of each, in a random form."""
    briefs: list[PlanBrief] = []
    number = 0
    while len(briefs) < n:
        rng = random.Random(seed * 1_000_003 + number)
        number += 1
        for plan, brief in make_examples(rng, steps=3000, variants=1):
            briefs.append(rng.choice(symmetric_plans(plan, brief))[1])
    return briefs


def share(values: list[bool]) -> dict[str, float]:
    """A share with Wilson's 95 % interval."""
    n, p, z = len(values), float(np.mean(values)), 1.96
    middle, half = (p + z * z / (2 * n)) / (1 + z * z / n), z * np.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return {"value": round(p, 4), "low": round(float(middle - half), 4), "high": round(float(middle + half), 4), "n": n}


def found(plans: list[np.ndarray], briefs: list[PlanBrief]) -> dict[str, object]:
    """Shares of plans that keep all rules, and all wishes too, by the judge."""
    judged = FloorPlanProblem().judge(np.stack(plans), briefs)
    return {"sound": share(judged.sound.tolist()), "met": share(judged.met.tolist())}


def stages(model: DesignModel, briefs: list[PlanBrief]) -> dict[str, object]:
    """What each stage of sampling adds, two plans for each brief."""
    asked, out = [b for b in briefs for _ in range(2)], {}
    for name, guided in (("network alone", False), ("guided", True)):
        begun = time.process_time()
        plans = to_numbers(draw_cells(model.network, asked, guided=guided, generator=torch.Generator().manual_seed(1)))
        out[name] = found(list(plans), asked) | {"ms": round(1e3 * (time.process_time() - begun) / len(asked), 1)}
    mended = [to_plan(mend(p, plan_bits(b))) for p, b in zip(plans, asked, strict=True)]
    out["mended"] = found(mended, asked)
    for rounds, draws in ((0, 1), (3, 1), (3, 16)):
        begun = time.process_time()
        made = draw_plans(model.network, asked, PlanSampler(rounds=rounds, draws=draws), generator=torch.Generator().manual_seed(1))
        ms = round(1e3 * (time.process_time() - begun) / len(asked), 1)
        out[f"annealed, filled in again {rounds} times, {draws} draws"] = found([to_plan(f.masks) for f in made], asked) | {"ms": ms}
    out["annealing from a random cut, once"] = first_tries(asked)
    return out


def generate_until(
    model: DesignModel, brief: PlanBrief, seconds: float, enough: Callable[[list[np.ndarray]], bool], batch: int
) -> list[np.ndarray]:
    """Plans that meet a brief, drawn until there are enough or the time is over."""
    generator, begun, kept = torch.Generator().manual_seed(2), time.process_time(), []
    while time.process_time() - begun < seconds and not enough(kept):
        for f in draw_plans(model.network, [brief] * batch, PlanSampler(), generator=generator, deadline=begun + seconds):
            if f.met and all((to_plan(f.masks) != p).sum() > 0.1 * (p >= 0).sum() for p in kept):
                kept.append(to_plan(f.masks))
    return kept


def retrieve(model: DesignModel, brief: PlanBrief, seconds: float) -> bool:
    """The nearest example, annealed for this brief, then the next one, until the time is over."""
    bits, begun = plan_bits(brief), time.process_time()
    penalty, rng = PlanPenalty(bits), random.Random(0)
    order = np.argsort(model.problem.distance(brief, model.train.briefs[::8]), kind="stable")
    for i in order[:200]:
        plan = model.train.designs[::8][i]
        if anneal(bits, mend(np.where(plan < len(brief.rooms), plan, -1), bits), steps=2000, hot=0.6, rng=rng, penalty=penalty).met:
            return time.process_time() - begun <= seconds
        if time.process_time() - begun > seconds:
            break
    return False


def races(model: DesignModel, briefs: list[PlanBrief]) -> dict[str, object]:
    """CPU-seconds until all is met, for each brief and method; shares by time."""
    longest, rows = max(TIMES), []
    for number, brief in enumerate(briefs):
        begun = time.process_time()
        own = generate_until(model, brief, longest, lambda kept: len(kept) > 0, 1)
        taken = time.process_time() - begun if own else np.inf
        other = search_plan(brief, seconds=10 * longest, steps=2000, seed=number)
        rows.append((taken, other.seconds if other.met else np.inf, retrieve(model, brief, 0.5)))
        if own and judge_plan(own[0], brief).faults:
            raise AssertionError("a plan that was called met has a fault")
    times = np.array(rows, float)
    return {
        "generator": {f"{t:g} s": share((times[:, 0] <= t).tolist()) for t in TIMES},
        "annealing, as long": {f"{t:g} s": share((times[:, 1] <= t).tolist()) for t in TIMES},
        "annealing, ten times as long": {f"{10 * t:g} s": share((times[:, 1] <= 10 * t).tolist()) for t in TIMES},
        "retrieval, annealed": {"0.5 s": share((times[:, 2] > 0).tolist())},
        "median seconds": {"generator": round(float(np.median(times[:, 0])), 3), "annealing": round(float(np.median(times[:, 1])), 3)},
        "seconds": {"generator": np.round(times[:, 0], 3).tolist(), "annealing": np.round(times[:, 1], 3).tolist()},
    }


def ten_plans(model: DesignModel, briefs: list[PlanBrief]) -> dict[str, object]:
    """Distinct plans that meet their brief within 5 seconds: more than a tenth of the cells differ."""
    counts, seconds = [], []
    for brief in briefs:
        begun = time.process_time()
        counts.append(len(generate_until(model, brief, 5.0, lambda kept: len(kept) >= 10, 8)))
        seconds.append(time.process_time() - begun)
    return {
        "ten in 5 s": share([c >= 10 for c in counts]),
        "median plans": float(np.median(counts)),
        "median seconds": round(float(np.median(seconds)), 2),
    }


def first_tries(briefs: list[PlanBrief]) -> dict[str, object]:
    """One annealing from a random cut: how often, and how long."""
    begun, made = time.process_time(), []
    for i, b in enumerate(briefs):
        rng = random.Random(i)
        made.append(to_plan(anneal(plan_bits(b), slice_site(plan_bits(b), rng), steps=2000, hot=3.0, cold=0.08, rng=rng).masks))
    return found(made, briefs) | {"ms": round(1e3 * (time.process_time() - begun) / len(briefs), 1)}


PARTS = {"stages": stages, "races": races, "distinct": lambda model, briefs: ten_plans(model, briefs[:12])}


def main() -> None:
    """Train if needed, judge, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help="Folder of the model; trained and kept there if it is empty")
    parser.add_argument("--seconds", type=float, default=450, help="CPU-seconds of training")
    parser.add_argument("--examples", type=int, default=12_000)
    parser.add_argument("--briefs", type=int, default=40)
    parser.add_argument("--part", choices=sorted(PARTS), action="append", help="Only this part; may be repeated")
    parser.add_argument("--seed", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    model = trained(asked.model, asked.seconds, asked.examples)
    briefs, begun = new_briefs(asked.briefs, asked.seed), time.process_time()
    out = {
        "briefs": len(briefs),
        "rooms": round(float(np.mean([len(b.rooms) for b in briefs])), 2),
        "wishes to lie side by side": round(float(np.mean([len(b.adjacent) for b in briefs])), 2),
        "parameters": model.network.n_parameters(),
        "training": read_json(asked.model / "training.json") if (asked.model / "training.json").is_file() else None,
        "examples": len(model.train),
        **{name: PARTS[name](model, briefs) for name in asked.part or PARTS},
    }
    print(json.dumps(out | {"cpu_seconds": round(time.process_time() - begun, 1), "machine": environment()["machine"]}))


if __name__ == "__main__":
    main()

"""Wing sections for held-out wishes: a generator against retrieval and against direct optimisation, with equal or counted calls of the judge.

    python benchmarks/airfoils.py [--seconds 90] [--examples 30000] [--wishes 300] [--searches 60] [--seeds 1 2]

Each seed holds out whole groups of real sections (families and near-duplicates together). A wish is what one held-out section
reaches at one angle and Reynolds number: its lift, its drag (at most), moment and thickness. The settings were chosen with seed 0 on
groups that are in no test set here. Retrieval looks through all training examples, those of real sections and blends, with the
same measure of distance that the judge uses. Calls are designs judged; searches stop at the first design that meets its brief.
Training time is in CPU-seconds of the process. Lines of JSON.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

from aimt.data.design.airfoil_examples import Catalogue, load_catalogue, operating_points
from aimt.data.design.airfoil_judge import judge_foils
from aimt.data.design.cst import N_NUMBERS
from aimt.metrics.intervals import clustered_interval
from aimt.models.design.airfoil import AirfoilProblem, point_examples
from aimt.models.design.airfoil_brief import FoilBrief
from aimt.models.design.airfoil_search import METHODS, naca_0012, optimise_foil, polish_foils
from aimt.models.design.problem import Examples, Judged
from aimt.models.flow.flow_network import FlowNetwork
from aimt.train.networks.generator import GeneratorData, GeneratorSettings, train_generator

PROBLEM = AirfoilProblem()
CORRECTIONS = 6
TOGETHER = 8  # Designs for one wish, of which the best is shown
LIMIT = 6000  # Calls of a search


def show(**line) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


def part_of(catalogue: Catalogue, rows: np.ndarray) -> Catalogue:
    return Catalogue(tuple(catalogue.names[i] for i in rows), catalogue.foils[rows], catalogue.groups[rows])


def split(catalogue: Catalogue, seed: int) -> tuple[Catalogue, Catalogue, Catalogue]:
    """Training, validation and test sections, by groups. What seed 0 validates on is never tested."""

    def shuffled(s: int) -> np.ndarray:
        names = np.unique(catalogue.groups)
        np.random.default_rng(s).shuffle(names)
        return names

    sizes = {g: int((catalogue.groups == g).sum()) for g in np.unique(catalogue.groups)}
    known, done = set(), 0
    for g in shuffled(0):  # as when the settings were chosen: the second 15 %
        if 0.15 * len(catalogue) <= done < 0.3 * len(catalogue):
            known.add(g)
        done += sizes[g]
    parts, done = {g: "train" for g in sizes}, {"test": 0, "valid": 0}
    for g in shuffled(seed):
        part = "test" if g not in known and sizes[g] < 200 else "valid" if g in known else ""
        if part and done[part] < (0.15 if part == "test" else 0.05) * len(catalogue):
            parts[g], done[part] = part, done[part] + sizes[g]
    mine = np.array([parts[g] for g in catalogue.groups])
    return tuple(part_of(catalogue, np.flatnonzero(mine == p)) for p in ("train", "valid", "test"))


def learned(examples: Examples, seed: int) -> GeneratorData:
    """Each example with all that it reaches, and with some of it left out."""
    briefs, designs = [*examples.briefs, *PROBLEM.vary(examples.briefs, seed)], np.concatenate([examples.designs] * 2)
    return GeneratorData(PROBLEM.encode(designs, briefs), vector=PROBLEM.condition(briefs).vector)


def train(examples: Examples, valid: Examples, seconds: float, seed: int) -> FlowNetwork:
    data, held = learned(examples, seed), learned(valid, seed)
    torch.manual_seed(seed)
    network = PROBLEM.network()
    trained = train_generator(
        network, data, held, settings=GeneratorSettings(batch_size=256), time_limit=seconds, seed=seed, clock=time.process_time
    )
    m = trained.measured
    show(figure="training", seed=seed, examples=len(data), steps=m["steps"], cpu_seconds=m["cpu_seconds"], valid_loss=m["valid_loss"])
    return network


def nearest(examples: Examples, briefs: list[FoilBrief], k: int) -> np.ndarray:  # (n, k, 19)
    return np.stack([examples.designs[np.argsort(PROBLEM.distance(b, examples.briefs), kind="stable")[:k]] for b in briefs])


def sampled(network: FlowNetwork, briefs: list[FoilBrief], k: int, seed: int) -> np.ndarray:  # (n, k, 19)
    each = [b for b in briefs for _ in range(k)]
    drawn = PROBLEM.sample(network, each, generator=torch.Generator().manual_seed(seed))
    return drawn.reshape(len(briefs), k, -1)


def span(values: np.ndarray, groups: np.ndarray) -> list[float]:
    found = clustered_interval(np.asarray(values, float), groups)
    return [round(min(max(float(found[k]), 0.0), 1.0), 4) for k in ("value", "low", "high")]  # all are shares


def score(name: str, judged: Judged, briefs: list[FoilBrief], groups: np.ndarray, calls: np.ndarray, seed: int, cpu: float, **more) -> None:
    """How often wishes are met, and which."""
    m = judged.misses
    own = np.array([b.drag for b in briefs])
    show(
        figure="wishes",
        seed=seed,
        method=name,
        wishes=len(briefs),
        met=span(judged.met, groups),
        lift_and_drag=span(judged.sound & (m["lift"] <= 1) & (m["drag"] <= 1), groups),
        sound=float(judged.sound.mean()),
        **{k: float((v <= 1).mean()) for k, v in m.items()},
        drag_ratio=float(np.median(judged.cost / own)),
        calls_mean=float(calls.mean()),
        calls_median=float(np.median(calls)),
        cpu_seconds=cpu,
        **more,
    )


def best_of(designs: np.ndarray, briefs: list[FoilBrief]) -> tuple[Judged, np.ndarray]:  # of (n, k, 19)
    """Of several polished designs for each wish the one that meets it with the least drag."""
    n, k, _ = designs.shape
    found = polish_foils(designs.reshape(n * k, -1), [b for b in briefs for _ in range(k)], CORRECTIONS)
    miss, cost = found.judged.worst_miss.reshape(n, k), found.judged.cost.reshape(n, k)
    pick = np.where(miss.min(axis=1) <= 1, np.where(miss <= 1, cost, np.inf).argmin(axis=1), miss.argmin(axis=1))
    return found.judged.rows(np.arange(n) * k + pick), found.calls.reshape(n, k).sum(axis=1)


def better(a: Judged, b: Judged) -> np.ndarray:
    """Where a is better: it meets the wish and b does not, or both do with less drag, or neither and it misses by less."""
    return np.where(a.met & b.met, a.cost < b.cost, np.where(a.met == b.met, a.worst_miss < b.worst_miss, a.met))


def compare(network: FlowNetwork, examples: Examples, briefs: list[FoilBrief], groups: np.ndarray, seed: int, name: str) -> None:
    """Generator and retrieval: as they come, corrected, and the best of several corrected."""
    start = time.process_time()
    made = sampled(network, briefs, TOGETHER, seed)
    cpu = {"generator": time.process_time() - start}
    start = time.process_time()
    found = nearest(examples, briefs, TOGETHER)
    cpu["retrieval"] = time.process_time() - start
    results: dict[str, Judged] = {}
    for who, designs in (("generator", made), ("retrieval", found)):
        raw = PROBLEM.judge(designs[:, 0], briefs)
        score(f"{who}", raw, briefs, groups, np.ones(len(briefs)), seed, cpu[who], case=name)
        start = time.process_time()
        one = polish_foils(designs[:, 0], briefs, CORRECTIONS)
        score(f"{who}, corrected", one.judged, briefs, groups, one.calls, seed, time.process_time() - start, case=name)
        start = time.process_time()
        many, calls = best_of(designs, briefs)
        score(f"{who}, best of {TOGETHER} corrected", many, briefs, groups, calls, seed, time.process_time() - start, case=name)
        results |= {who: raw, f"{who}+": one.judged, f"{who}*": many}
    pairs = {"as they come": ("generator", "retrieval"), "corrected against as it comes": ("generator+", "retrieval")}
    pairs |= {"both corrected": ("generator+", "retrieval+"), f"best of {TOGETHER}, both corrected": ("generator*", "retrieval*")}
    for what, (a, b) in pairs.items():
        wins = better(results[a], results[b])
        show(figure="better than retrieval", seed=seed, case=name, what=what, share=span(wins, groups))
    a, b = results["generator"], results["retrieval"]
    smaller = span(a.worst_miss < b.worst_miss, groups)
    show(figure="better than retrieval", seed=seed, case=name, what="largest miss, as they come", share=smaller)


def until_met(draw: Callable[[int], np.ndarray], briefs: list[FoilBrief], rounds: int = 8) -> np.ndarray:  # (n,) calls; inf
    """Calls until a wish is met by designs that are drawn and corrected one after another, at most two corrections each but the last."""
    calls, met = np.zeros(len(briefs)), np.zeros(len(briefs), bool)
    for number in range(rounds):
        at = np.flatnonzero(~met)
        if not len(at):
            break
        last = number == rounds - 1
        found = polish_foils(draw(number)[at], [briefs[i] for i in at], 20 if last else 2, differences=last)
        calls[at] += found.calls
        met[at] = found.judged.met
    return np.where(met, calls, np.inf)


def searches(network: FlowNetwork, examples: Examples, briefs: list[FoilBrief], seed: int, case: str) -> None:
    """Calls until wishes are met, by the generator and without it."""
    made, found = sampled(network, briefs, 8, seed + 100), nearest(examples, briefs, 8)
    flat = np.concatenate([naca_0012(b) for b in briefs])
    start = time.process_time()
    ours = until_met(lambda i: made[:, i], briefs)
    done = {"generator": ours, "retrieval": until_met(lambda i: found[:, i], briefs)}
    done["corrections from NACA 0012"] = until_met(lambda i: flat, briefs, 1)
    cpu = {"generator": time.process_time() - start}
    for plain in (True, False):
        for method in METHODS:
            start = time.process_time()
            name = f"{method}, {'CST numbers' if plain else 'coordinates of theory'}"
            runs = [optimise_foil(b, calls=LIMIT, method=method, plain=plain, seed=seed) for b in briefs]
            done[name] = np.array([r.met_after or np.inf for r in runs], float)
            cpu[name] = time.process_time() - start
    for name, calls in done.items():
        quartiles = [float(v) for v in np.percentile(calls, [25, 50, 75], method="nearest")]
        ratio = float(np.median(np.minimum(calls, LIMIT) / np.minimum(ours, LIMIT)))
        show(
            figure="calls until met",
            seed=seed,
            case=case,
            method=name,
            wishes=len(briefs),
            met=float(np.isfinite(calls).mean()),
            quartiles=quartiles,
            mean=float(np.minimum(calls, LIMIT).mean()),
            median_ratio=ratio,
            ratio_of_means=float(np.minimum(calls, LIMIT).mean() / np.minimum(ours, LIMIT).mean()),
            cpu_seconds=cpu.get(name, 0.0),
        )


def polars(network: FlowNetwork, briefs: list[FoilBrief], own: np.ndarray, seed: int) -> None:
    """Drag of corrected designs against that of the held-out sections, at their angle and two degrees up and down."""
    found = polish_foils(sampled(network, briefs, 1, seed)[:, 0], briefs, CORRECTIONS)
    rows = np.flatnonzero(found.judged.met)
    reynolds = np.array([b.reynolds for b in briefs])[rows]
    for off in (-2.0, 0.0, 2.0):
        mine, real = (judge_foils(d[rows, :N_NUMBERS], d[rows, -1] + off, reynolds) for d in (found.designs, own))
        sure = np.minimum(mine.confidence, real.confidence) >= 0.8
        ratio = (mine.drag / np.maximum(mine.lift, 0.05))[sure] / (real.drag / np.maximum(real.lift, 0.05))[sure]
        quartiles = [round(float(v), 4) for v in np.percentile(ratio, [25, 50, 75])]
        show(figure="polar", seed=seed, degrees=off, designs=int(sure.sum()), drag_per_lift_ratio=quartiles)


def gallery(network: FlowNetwork, examples: Examples, briefs: list[FoilBrief], own: np.ndarray, names: list[str], seed: int) -> None:
    """Some wishes with what was proposed, for a picture."""
    made = sampled(network, briefs, 4, seed)
    for brief, designs, real, name in zip(briefs, made, own, names):
        found = polish_foils(designs, [brief] * len(designs), CORRECTIONS)
        retrieved = nearest(examples, [brief], 1)[0, 0]
        show(
            figure="gallery",
            seed=seed,
            name=name,
            brief=PROBLEM.to_dict(brief),
            designs=np.round(found.designs, 5).tolist(),
            drag=np.round(found.judged.measures["drag"], 5).tolist(),
            met=found.judged.met.tolist(),
            real=np.round(real, 5).tolist(),
            retrieved=np.round(retrieved, 5).tolist(),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=90)
    parser.add_argument("--examples", type=int, default=30000)
    parser.add_argument("--wishes", type=int, default=300)
    parser.add_argument("--searches", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    args = parser.parse_args()
    torch.set_num_threads(1)
    catalogue = load_catalogue()
    for seed in args.seeds:
        start = time.process_time()
        parts = split(catalogue, seed)
        examples = point_examples(operating_points(parts[0], args.examples, seed=seed))
        valid = point_examples(operating_points(parts[1], 1500, blends=0, seed=seed + 1))
        points = operating_points(parts[2], args.wishes, blends=0, seed=seed + 2)
        briefs, own = point_examples(points).briefs, np.c_[points.foils, points.angle]
        sections, families = [len(p) for p in parts], [len(set(p.groups)) for p in parts]
        show(figure="data", seed=seed, sections=sections, groups=families, cpu_seconds=time.process_time() - start)
        network = train(examples, valid, args.seconds, seed)
        compare(network, examples, briefs, points.groups, seed, "as the held-out section")
        hard = [replace(b, drag=0.9 * b.drag) for b in briefs]
        compare(network, examples, hard, points.groups, seed, "a tenth less drag")
        searches(network, examples, briefs[: args.searches], seed, "as the held-out section")
        searches(network, examples, hard[: args.searches], seed, "a tenth less drag")
        polars(network, briefs, own, seed)
        rows = [int(i) for i in np.unique(points.groups, return_index=True)[1][:6]]
        names = [parts[2].names[points.row[i]] for i in rows]
        gallery(network, examples, [briefs[i] for i in rows], own[rows], names, seed)


if __name__ == "__main__":
    main()

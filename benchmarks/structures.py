"""Structures by a generator against SIMP, retrieval and SIMP stopped early: compliance, CPU time, certificates.

    python benchmarks/structures.py [--seconds 300] [--structures 3000] [--held-out 100] [--network FOLDER] > structures.log
    python benchmarks/structures.py --network FOLDER --batch > structures_batch.log

Training examples: random briefs on 32 x 16 cells (one to three loads in one or two cases, supports of five kinds, void, volume 0.2 to 0.6) and
the structures of 40 iterations of SIMP, with mirror images. Held out: briefs of another seed, each answered by 60 iterations of SIMP, which
is the reference of every ratio. Retrieval takes the training structure whose condition is nearest, by all planes or by those of the brief
alone, and brings it to the exact volume as the generator's are. Times are CPU-seconds of one thread (`time.process_time`), with all that a
design needs: placing the brief on the grid, assembling, the solves of the condition, sampling, the volume. With `--network` the weights of a
folder are used in place of training. With `--batch` two questions only: what a raw design takes when many are drawn for one brief, which pays
for its condition once, and how many polished designs connect every load, with and without the bridging of gaps. Lines of JSON.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch

from aimt.data.design.structure_brief import StructureBrief, raster
from aimt.data.design.structure_examples import StructureSet, images, make_structures
from aimt.data.design.topology_optimisation import Simp, StructureSolver, simp
from aimt.data.sources.download import cache_dir
from aimt.metrics.intervals import wilson
from aimt.models.design.structure import PLANES, StructureProblem, brief_planes
from aimt.models.flow.diffusion_transformer import load_flow_network
from aimt.models.flow.flow_matching import FlowMatching
from aimt.models.flow.flow_network import FlowNetwork
from aimt.train.networks.generator import GeneratorData, GeneratorSettings, train_generator

STEPS = (0, 1, 2, 3, 5, 8, 12)  # Of polish
EARLY = (3, 5, 6, 8, 10, 12, 15, 20, 30, 40)  # Iterations of SIMP from the uniform plate


def say(what: str, **values: object) -> None:
    print(json.dumps({"what": what, **values}), flush=True)


def clear() -> None:
    """Forget what was made once for each brief: every measurement pays for it."""
    raster.cache_clear()


def spread(ratios: np.ndarray) -> dict[str, object]:
    """Median with a 95 % interval by bootstrap over briefs, quantiles, shares."""
    rng = np.random.default_rng(0)
    medians = np.median(ratios[rng.integers(len(ratios), size=(2000, len(ratios)))], axis=1)
    return {
        "median": round(float(np.median(ratios)), 4),
        "interval": [round(float(q), 4) for q in np.quantile(medians, [0.025, 0.975])],
        "p75": round(float(np.quantile(ratios, 0.75)), 4),
        "p90": round(float(np.quantile(ratios, 0.9)), 4),
        "within_5_percent": round(float((ratios <= 1.05).mean()), 3),
    }


def train(problem: StructureProblem, data: GeneratorData, seconds: float) -> dict[str, object]:
    """A network for the problem, kept in a folder beside the data."""
    briefs, x = make_structures(StructureSet(60, 101, simp=Simp(iterations=40)), folder=cache_dir() / "designs")
    valid = GeneratorData(problem.encode(x, briefs), planes=problem.condition(briefs).planes)
    torch.manual_seed(0)
    network = problem.network()
    settings = GeneratorSettings(batch_size=64, ema=0.998, evaluations=2, n_draws=128)
    objective = FlowMatching(mean=-0.5, drop=0.0)
    trained = train_generator(network, data, valid, objective=objective, settings=settings, time_limit=seconds, seed=0)
    network.save_pretrained(cache_dir() / "designs" / "network")
    kept = {k: trained.measured[k] for k in ("steps", "cpu_seconds", "valid_loss", "reference_loss", "parameters")}
    (cache_dir() / "designs" / "network" / "training.json").write_text(json.dumps(kept))
    return kept


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=300.0, help="of training")
    parser.add_argument("--structures", type=int, default=3000, help="optimised ones for training; four times as many with mirror images")
    parser.add_argument("--held-out", type=int, default=100)
    parser.add_argument(
        "--solves", type=int, default=3, help="for the condition: 0 none, 1 the field of the uniform plate, more: iterations of SIMP"
    )
    parser.add_argument("--finer", type=int, default=16, help="briefs that are also answered on 128 x 64 cells")
    parser.add_argument("--network", help="a folder with trained weights")
    parser.add_argument("--batch", action="store_true", help="only many designs for one brief, and gaps, with --network")
    o = parser.parse_args()
    torch.set_num_threads(1)
    problem, folder = StructureProblem(solves=o.solves), cache_dir() / "designs"

    if o.batch:
        held, _ = make_structures(StructureSet(o.held_out, 202, simp=Simp(iterations=1)), folder=folder)
        return batch(problem, load_flow_network(o.network or folder / "network"), held)
    start = time.process_time()
    briefs, x = make_structures(StructureSet(o.structures, 0), folder=folder)
    say("examples", n=len(briefs), cpu_seconds=round(time.process_time() - start, 1))
    rng = np.random.default_rng(0)
    four = [(b, y) for brief, z in zip(briefs, x, strict=True) for b, y in images(brief, z, rng)]
    asked, answers = [b for b, _ in four], np.stack([y for _, y in four])
    planes = problem.condition(asked).planes
    assert planes is not None
    data = GeneratorData(problem.encode(answers, asked), planes=planes)
    if o.network:
        say("training", **json.loads((Path(o.network) / "training.json").read_text()))
    else:
        say("training", **train(problem, data, o.seconds))
    network = load_flow_network(o.network or folder / "network")

    held, _ = make_structures(StructureSet(o.held_out, 202, simp=Simp(iterations=1)), folder=folder)  # the briefs alone
    clear()
    start = time.process_time()
    best = [simp(problem.solver(b), iterations=60) for b in held]
    simp_seconds = (time.process_time() - start) / len(held)
    reference = np.array([f.compliance[-1] for f in best])
    history = np.stack([f.compliance for f in best]) / reference[:, None]
    found = problem.judge(np.stack([f.x for f in best]), held)
    say(
        "simp",
        ms=1e3 * simp_seconds,
        sound=float(found.sound.mean()),
        faults=[f for faults in found.faults for f in faults],
        drawn=float(np.median(found.measures["drawn_compliance"])),
        uniform=spread(history[:, 0]),
    )
    for power in (0.5, 1.0):
        for k in EARLY:
            clear()
            start = time.process_time()
            early = [simp(StructureSolver(raster(b, 32, 16), Simp(power=power)), iterations=k) for b in held]
            ms = 1e3 * (time.process_time() - start) / len(held)
            say("simp early", power=power, iterations=k, ms=ms, **spread(np.array([f.compliance[-1] for f in early]) / reference))

    raw: dict[str, np.ndarray] = {}
    for steps in (1, 2, 4, 8):
        clear()
        start = time.process_time()
        designs = problem.sample(network, held, steps=steps, generator=torch.Generator().manual_seed(7))
        ms = 1e3 * (time.process_time() - start) / len(held)
        raw[f"generator {steps}"] = designs
        judged = problem.judge(designs, held)
        volume = np.abs(judged.measures["volume"] / [b.volume for b in held] - 1).max()
        connected = np.mean([not any("load at" in f for f in faults) for faults in judged.faults])
        ratio = judged.cost / reference
        say("raw", steps=steps, ms=ms, times=1e3 * simp_seconds / ms, volume_error=volume, connected=connected, **spread(ratio))
    start = time.process_time()
    parts = [brief_planes(problem.solver(b), solves=problem.solves) for b in held]
    say("condition", ms=1e3 * (time.process_time() - start) / len(held))

    wanted = np.stack(parts)
    for name, kept in (("all planes", slice(None)), ("planes of the brief", slice(0, len(PLANES)))):
        rest = planes[:, kept].flatten(1)
        scale = rest.std(0).clamp_min(1e-3)
        own = torch.from_numpy(wanted[:, kept]).flatten(1)
        nearest = torch.cdist(own / scale, rest / scale).argmin(1).numpy()
        raw[f"retrieval, {name}"] = problem.decode(problem.encode(answers[nearest], held), held)
        ratio = problem.judge(raw[f"retrieval, {name}"], held).cost / reference
        say("retrieval", by=name, **spread(ratio))
    chosen = problem.judge(raw["generator 2"], held).cost
    for name in [n for n in raw if n.startswith("retrieval")]:
        other = problem.judge(raw[name], held).cost
        say("better", than=name, share=float((chosen < other).mean()))

    for name in ("generator 1", "generator 2", "retrieval, all planes"):
        for steps in STEPS:
            start = time.process_time()
            designs, _ = problem.polish(raw[name], held, steps)
            ms = 1e3 * (time.process_time() - start) / len(held)
            judged = problem.judge(designs, held)
            connected = np.mean([not any("load at" in f for f in faults) for faults in judged.faults])
            ratio = judged.cost / reference
            say("polish", start=name, steps=steps, ms=ms, sound=float(judged.sound.mean()), connected=connected, **spread(ratio))

    refine(problem, held[: o.finer], raw["generator 2"], [f.x for f in best])


def share(found: list[bool]) -> dict[str, float]:
    """A share with Wilson's 95 % interval."""
    return {k: round(float(v), 4) for k, v in wilson(sum(found), len(found)).items()}


def batch(problem: StructureProblem, network: FlowNetwork, held: list[StructureBrief], n: int = 64) -> None:
    """Many designs for one brief against SIMP; connected loads with and without bridged gaps."""
    best, spent = [], []
    for brief in held:
        clear()
        start = time.process_time()
        best.append(simp(problem.solver(brief), iterations=60).compliance[-1])
        spent.append(time.process_time() - start)
    for steps in (1, 2):
        ms = []
        for brief in held[:10]:
            clear()
            start = time.process_time()
            problem.sample(network, [brief] * n, steps=steps, generator=torch.Generator().manual_seed(7))
            ms.append(1e3 * (time.process_time() - start) / n)
        whole = 1e3 * float(np.median(spent))
        say("batch", steps=steps, n=n, ms=float(np.median(ms)), simp_ms=whole, times=whole / float(np.median(ms)))
    raw = problem.sample(network, held, steps=1, generator=torch.Generator().manual_seed(7))
    power = Simp(power=1.0)  # As in a polish
    plain = np.stack([simp(StructureSolver(raster(b, 32, 16), power), start=x, iterations=5).x for b, x in zip(held, raw, strict=True)])
    start = time.process_time()
    bridged, _ = problem.polish(raw, held, 5)
    ms = 1e3 * (time.process_time() - start) / len(held)
    for name, designs in (("SIMP alone", plain), ("with bridged gaps", bridged)):
        judged = problem.judge(designs, held)
        connected = [not any("load at" in f for f in faults) for faults in judged.faults]
        volume = float(np.abs(judged.measures["volume"] / [b.volume for b in held] - 1).max())
        ratio = spread(judged.cost / best)
        say("gaps", polish=name, ms=ms, connected=share(connected), sound=share(judged.sound.tolist()), volume_error=volume, **ratio)


def refine(problem: StructureProblem, held: list[StructureBrief], raw: np.ndarray, best: list[np.ndarray]) -> None:
    """The same designs interpolated to 128 x 64 cells, against 60 iterations of SIMP there."""
    for name, coarse in (("generator 2", raw[: len(held)]), ("simp on 32 x 16", np.stack(best[: len(held)]))):
        clear()
        fine, start = problem.finer(coarse, held, 4)
        if name == "generator 2":
            begun = time.process_time()
            found = [simp(fine.solver(b), iterations=60) for b in held]
            whole = 1e3 * (time.process_time() - begun) / len(held)
            reference = np.array([f.compliance[-1] for f in found])
            history = np.stack([f.compliance for f in found]) / reference[:, None]
            say("fine simp", n=len(held), ms=whole, early={k: spread(history[:, k]) for k in (5, 6, 10, 20)})
        for steps in (0, 5):
            begun = time.process_time()
            x, _ = fine.polish(start, held, steps) if steps else (start, 0)
            ms = 1e3 * (time.process_time() - begun) / len(held)
            judged = fine.judge(x, held)
            say("fine", start=name, steps=steps, ms=ms, sound=float(judged.sound.mean()), **spread(judged.cost / reference))


if __name__ == "__main__":
    main()

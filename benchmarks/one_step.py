"""One step of a mean flow against twelve steps of flow matching, trained with the same budget, as lines of JSON.

    python benchmarks/one_step.py [--steps 900] [--seed 1] > one_step.log

Both networks have 600,000 weights and see scikit-learn's digits, enlarged to 16 by 16 pixels, by class. The budget is counted in evaluations of
the network, a backward pass as two: an update of flow matching takes 3, of a mean flow 4.5, since half of its rows need three more. So the
figures do not depend on what else the machine does; CPU-seconds are printed too. At half of the budget and at its end, samples are
judged as in `flow_matching.py`. Some three CPU-minutes. Settings are those of `aimt train --kind image --one-step`.
"""

import argparse
import json
import time

import torch
from flow_matching import frechet, ours, pictures, train_judge

from aimt.models.flow.flow_matching import FlowMatching
from aimt.models.flow.mean_flows import MeanFlow
from aimt.models.flow.unet import UNet, UNetConfig
from aimt.train.networks.generator import train_generator

WAYS = {  # Loop -> objective, evaluations of an update, ways of sampling: steps and method
    "flow matching": (FlowMatching(), 3.0, ((12, "heun"), (1, "euler"))),
    "mean flow": (MeanFlow(drop=0.1), 4.5, ((1, "mean"), (2, "mean"), (4, "mean"))),
}


class Look:
    """A hook of the `Trainer`: judges samples of the average weights at half of the steps and at the end."""

    def __init__(self, steps: int, say) -> None:
        self.steps, self.say, self.start = steps, say, time.process_time()

    def on_step(self, trainer, row) -> None:
        if row["step"] in (self.steps // 2, self.steps):
            start = time.process_time()
            with trainer.ema.swap(trainer.model):
                self.say(trainer.model, row["step"], start - self.start)
            self.start += time.process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=900, help="Updates of flow matching")
    parser.add_argument("--samples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(1)
    train, held_out = pictures("digits")
    judge, labels = train_judge(train, 600), torch.arange(options.samples) % 10
    with torch.no_grad():
        real = judge.features(train.x).double().numpy()
        floor = frechet(judge.features(held_out.x).double().numpy(), real)
        accuracy = float((judge(held_out.x).argmax(1) == held_out.label).float().mean())
    print(json.dumps({"what": "real", "frechet": round(floor, 2), "judge_accuracy": round(accuracy, 4)}), flush=True)
    for loop, (objective, cost, ways) in WAYS.items():
        steps = round(options.steps * 3 / cost)

        @torch.no_grad()
        def say(network, step, seconds, *, loop=loop, steps=steps, ways=ways) -> None:
            for n, method in ways:
                start = time.process_time()
                x = ours(network, labels, 16, steps=n, method=method).clamp(-1, 1)
                ms = 1000 * (time.process_time() - start) / len(x)
                figures = {
                    "frechet": round(frechet(judge.features(x).double().numpy(), real), 2),
                    "judge_accuracy": round(float((judge(x).argmax(1) == labels).float().mean()), 4),
                    "ms_per_picture": round(ms, 3),
                }
                about = {"loop": loop, "budget": step / steps, "updates": step, "cpu_seconds": round(seconds, 1), "sampling_steps": n}
                print(json.dumps(about | figures), flush=True)

        torch.manual_seed(options.seed)
        network = UNet(UNetConfig(width=32, factors=(1, 2), patch=2, n_classes=10, duration=True))
        train_generator(network, train, held_out, objective=objective, steps=steps, seed=options.seed, hooks=[Look(steps, say)])


if __name__ == "__main__":
    main()

"""Quality of generated pictures against CPU-seconds of training, and the speed of sampling: aimt, and a plain diffusers loop.

    pip install diffusers
    python benchmarks/flow_matching.py [--data digits] [--seconds 60] [--samples 500]

Networks of about 600,000 weights, conditional on the class, batches of 64, one thread. The loops of diffusers follow its tutorial "Train a
diffusion model": a `UNet2DModel` that predicts the noise of 1,000 steps, AdamW at the tutorial's rate of 1e-4 and at 1e-3, where a
network this small learns faster; both in bf16 when aimt trains in bf16. The trainings take turns step by step in one process, so that
all see the same load; each has its own count of CPU-seconds. At the marks, each network makes samples by 24 evaluations (aimt: 12 steps
of Heun; diffusers: 24 of DPM-Solver++), and a judge that was trained on the real pictures tells the class and gives the
features of the Frechet distance to the training pictures. The floor is that distance for held-out pictures. Lines of JSON.
"""

import argparse
import json
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from aimt.models.flow.flow_matching import Condition, sample_flow
from aimt.models.flow.unet import UNet, UNetConfig
from aimt.train.loop.trainer import pick_precision
from aimt.train.networks.generator import GeneratorData, train_generator

BATCH, EVALUATIONS = 64, 24
MARKS = (1 / 8, 1 / 4, 1 / 2, 1.0)  # Of the seconds
BF16 = pick_precision(torch.device("cpu")) == "bf16"


def pictures(name: str) -> tuple[GeneratorData, GeneratorData]:
    """Training and held-out pictures."""
    if name == "digits":
        from sklearn.datasets import load_digits

        digits = load_digits()
        x = F.interpolate(torch.tensor(digits.images, dtype=torch.float32)[:, None] / 8 - 1, size=16, mode="bilinear")
        y, n = torch.tensor(digits.target), 1400
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
        x, y = x[order], y[order]
    else:
        from aimt.data.sources.catalog import load_dataset

        frame = load_dataset("fashion-mnist")
        x, y = torch.tensor(np.stack(frame["image"]))[:, None], torch.tensor(frame["label"].to_numpy())
        n = int((frame["split"] == "train").sum())
    return GeneratorData(x[:n], y[:n]), GeneratorData(x[n:], y[n:])


class Judge(nn.Module):
    """A small convolutional network; its last hidden layer are the features."""

    def __init__(self) -> None:
        super().__init__()
        widths = [1, 16, 32, 64]
        layers = [m for a, b in zip(widths, widths[1:], strict=False) for m in (nn.Conv2d(a, b, 3, 2, 1), nn.ReLU())]
        self.features = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 64), nn.ReLU())
        self.head = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def train_judge(data: GeneratorData, steps: int) -> Judge:
    torch.manual_seed(0)
    judge = Judge()
    optimizer = torch.optim.AdamW(judge.parameters(), 3e-3)
    for _ in range(steps):
        batch = data.rows(torch.randint(len(data), (BATCH,)))
        loss = F.cross_entropy(judge(batch["x"] + 0.1 * torch.randn_like(batch["x"])), batch["label"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return judge.eval()


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of two sets of features."""
    ca, cb = np.cov(a.T), np.cov(b.T)
    roots = np.sqrt(np.maximum(np.linalg.eigvals(ca @ cb).real, 0)).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(ca) + np.trace(cb) - 2 * roots)


def autocast() -> torch.autocast | nullcontext:
    return torch.autocast("cpu", torch.bfloat16) if BF16 else nullcontext()


class Diffusers:
    """A plain training loop over diffusers, one step at a time."""

    def __init__(self, data: GeneratorData, lr: float):
        from diffusers import DDPMScheduler, UNet2DModel

        torch.manual_seed(0)
        self.data, self.name, self.seconds, self.steps = data, f"diffusers lr {lr:g}", 0.0, 0
        self.side = data.x.shape[-1]
        self.network = UNet2DModel(
            sample_size=self.side,
            in_channels=1,
            out_channels=1,
            layers_per_block=1,
            block_out_channels=(32, 64),
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=8,
            add_attention=False,
            num_class_embeds=10,
        )
        self.scheduler = DDPMScheduler(num_train_timesteps=1000)
        self.optimizer = torch.optim.AdamW(self.network.parameters(), lr)
        self.generator = torch.Generator().manual_seed(1)

    def train_step(self) -> None:
        start = time.process_time()
        batch = self.data.rows(torch.randint(len(self.data), (BATCH,), generator=self.generator))
        noise = torch.randn(batch["x"].shape, generator=self.generator)
        t = torch.randint(1000, (BATCH,), generator=self.generator)
        with autocast():
            predicted = self.network(self.scheduler.add_noise(batch["x"], noise, t), t, class_labels=batch["label"]).sample
            loss = F.mse_loss(predicted.float(), noise)
        loss.backward()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.seconds, self.steps = self.seconds + time.process_time() - start, self.steps + 1

    @torch.no_grad()
    def sample(self, labels: Tensor, steps: int = EVALUATIONS) -> Tensor:
        from diffusers import DPMSolverMultistepScheduler

        scheduler = DPMSolverMultistepScheduler.from_config(self.scheduler.config)
        scheduler.set_timesteps(steps)
        self.network.eval()
        x = torch.randn((len(labels), 1, self.side, self.side), generator=torch.Generator().manual_seed(2))
        for t in scheduler.timesteps:
            with autocast():
                predicted = self.network(x, t, class_labels=labels).sample.float()
            x = scheduler.step(predicted, t, x).prev_sample
        self.network.train()
        return x


def ours(network: nn.Module, labels: Tensor, side: int, **options: object) -> Tensor:
    with autocast():
        shape, generator = (len(labels), 1, side, side), torch.Generator().manual_seed(2)
        return sample_flow(network, shape, Condition(labels), generator=generator, **({"steps": 12} | options))


class Race:
    """A hook of the `Trainer`: after each step the peers train until they have used as many CPU-seconds; judges samples at the marks."""

    def __init__(self, peers: list[Diffusers], marks: list[float], judge: Callable[[str, int, float, Callable[[Tensor], Tensor]], None]):
        self.peers, self.marks, self.judge = peers, marks, judge
        self.elsewhere, self.began = 0.0, time.process_time()
        self.due = {name: iter(marks) for name in ("aimt", *(p.name for p in peers))}
        self.next = {name: next(marks) for name, marks in self.due.items()}

    def clock(self) -> float:
        """CPU-seconds of aimt's training alone."""
        return time.process_time() - self.elsewhere

    def on_start(self, trainer) -> None:
        self.began = self.clock()

    def on_step(self, trainer, row) -> None:
        start, used = time.process_time(), self.clock() - self.began
        if used >= self.next["aimt"]:
            self.look("aimt", trainer, row["step"], used)
        for peer in self.peers:
            while peer.seconds < used and self.next[peer.name] < float("inf"):
                peer.train_step()
                if peer.seconds >= self.next[peer.name]:
                    self.judge(peer.name, peer.steps, peer.seconds, peer.sample)
                    self.next[peer.name] = next(self.due[peer.name], float("inf"))
        self.elsewhere += time.process_time() - start

    def look(self, name: str, trainer, step: int, used: float) -> None:
        with trainer.ema.swap(trainer.model):
            self.judge(name, step, used, lambda labels: ours(trainer.model, labels, trainer.batches.source.data.x.shape[-1]))
        self.next[name] = next(self.due[name], float("inf"))


def speed_of_sampling(network: nn.Module, peer: Diffusers, labels: Tensor, rounds: int = 3) -> Iterator[dict[str, object]]:
    """CPU-seconds at equal steps with one evaluation each, and of one step, in turn; the best of the rounds counts."""
    side = peer.side
    ways = {
        "aimt, 24 steps": lambda: ours(network, labels, side, steps=EVALUATIONS, method="euler"),
        "diffusers, 24 steps": lambda: peer.sample(labels),
        "aimt, 1 step": lambda: ours(network, labels, side, steps=1, method="mean"),
    }
    best = dict.fromkeys(ways, float("inf"))
    for _ in range(rounds):
        for name, way in ways.items():
            start = time.process_time()
            way()
            best[name] = min(best[name], time.process_time() - start)
    for name, seconds in best.items():
        yield {
            "what": "sampling",
            "way": name,
            "ms_per_picture": round(1000 * seconds / len(labels), 3),
            "times_as_fast_as_diffusers": round(best["diffusers, 24 steps"] / seconds, 2),
        }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", choices=("digits", "fashion-mnist"), default="digits")
    parser.add_argument("--seconds", type=float, default=60.0, help="CPU-seconds of each training")
    parser.add_argument("--samples", type=int, default=500)
    options = parser.parse_args()
    torch.set_num_threads(1)
    say = lambda **row: print(json.dumps(row), flush=True)
    train, held_out = pictures(options.data)
    judge = train_judge(train, 600 if options.data == "digits" else 1500)
    with torch.no_grad():
        real = judge.features(train.rows(slice(0, 5000))["x"]).double().numpy()
        some = held_out.rows(slice(0, options.samples))
        floor = frechet(judge.features(some["x"]).double().numpy(), real)
        accuracy = float((judge(some["x"]).argmax(1) == some["label"]).float().mean())
    say(what="real", data=options.data, held_out=len(some["x"]), judge_accuracy=round(accuracy, 4), frechet=round(floor, 2), bf16=BF16)
    labels = torch.arange(options.samples) % 10

    @torch.no_grad()
    def look(name: str, step: int, used: float, sample: Callable[[Tensor], Tensor]) -> None:
        x = sample(labels).clamp(-1, 1)
        right = float((judge(x).argmax(1) == labels).float().mean())
        distance = frechet(judge.features(x).double().numpy(), real)
        figures = {"judge_accuracy": round(right, 4), "frechet": round(distance, 2)}
        say(what="training", loop=name, cpu_seconds=round(used, 1), steps=step, **figures)

    peers = [Diffusers(train, lr) for lr in (1e-4, 1e-3)]
    race = Race(peers, [0.94 * options.seconds * m for m in MARKS], look)
    torch.manual_seed(0)
    network = UNet(UNetConfig(width=32, factors=(1, 2), patch=2, n_classes=10, duration=True))
    say(what="weights", aimt=network.n_parameters(), diffusers=sum(p.numel() for p in peers[0].network.parameters()))
    train_generator(network, train, held_out, time_limit=options.seconds, clock=race.clock, hooks=[race])
    for row in speed_of_sampling(network, peers[0], labels[:250]):
        say(**row)


if __name__ == "__main__":
    main()

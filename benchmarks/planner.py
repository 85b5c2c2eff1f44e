"""Forecast against measurement: memory and time of training runs on this machine, each in a process of its own.

    python benchmarks/planner.py [--steps 60] [--set check|tune] [--only 0 3 ...]

Memory is the growth of the peak over a process that has imported everything and trained a tiny model for two steps.
Time is the process's CPU-seconds for all steps after the 20 warm-up steps that correct the forecast. "before" is the
error of the time that was forecast before the first step. The planner was developed on the configurations of `--set tune`;
the published figures are those of `--set check`.
"""

import argparse
import json
import os
import subprocess
import sys

MODERN = {"tune": [], "check": []}


def add(name: str, rows: int, seq_len: int, precision: str = "fp32", optimizer: str = "adamw", **config) -> None:
    """One training to forecast."""
    MODERN[name].append(
        {"rows": rows, "seq_len": seq_len, "precision": precision, "optimizer": optimizer, "config": {"context": seq_len} | config}
    )


GPT2 = {"norm": "layer", "positions": "learned", "mlp": "gelu_tanh", "bias": True, "qk_norm": False}
add("tune", 64, 128, vocab_size=65, n_layer=4, n_head=4, n_embd=128)
add(
    "tune",
    16,
    128,
    "bf16",
    "muon",
    vocab_size=120,
    n_layer=4,
    n_head=5,
    n_embd=320,
    value_embeddings=True,
    ngram_orders=(2, 3),
    ngram_buckets=16_000,
)
add("tune", 4, 384, vocab_size=6000, n_layer=3, n_head=5, n_embd=320, **GPT2)
add("tune", 16, 256, "bf16", vocab_size=4096, n_layer=2, n_head=8, n_embd=256)
add("tune", 6, 384, vocab_size=1500, n_layer=6, n_head=6, n_embd=192, checkpoint_blocks=True)
add("tune", 24, 128, vocab_size=3000, n_layer=3, n_head=5, n_embd=320, mlp="swiglu", n_kv_head=1)
add("tune", 6, 256, "bf16", vocab_size=20000, n_layer=2, n_head=5, n_embd=320, tied=False)
add("check", 48, 128, "bf16", vocab_size=65, n_layer=4, n_head=4, n_embd=128)
add(
    "check",
    16,
    128,
    "bf16",
    "muon",
    vocab_size=65,
    n_layer=6,
    n_head=6,
    n_embd=384,
    value_embeddings=True,
    ngram_orders=(2, 3),
    ngram_buckets=20_000,
)
add("check", 4, 512, vocab_size=8192, n_layer=4, n_head=8, n_embd=256, **GPT2)
add("check", 8, 512, vocab_size=2048, n_layer=8, n_head=8, n_embd=256, checkpoint_blocks=True)
add("check", 32, 128, vocab_size=2048, n_layer=4, n_head=8, n_embd=256, mlp="swiglu", n_kv_head=2)
add("check", 8, 256, "bf16", vocab_size=16384, n_layer=3, n_head=6, n_embd=384, tied=False)

CHILD = """
import json, sys, time
import torch
from aimt.core.hardware import peak_memory_mb
from aimt.models.text.gpt import GPT, GPTConfig, gpt_loss
from aimt.train.loop.trainer import TrainConfig, Trainer
from aimt.train.networks.resource_estimate import plan_network

job, steps = json.loads(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(1)
config = GPTConfig(**job["config"])

class Clock:
    def __init__(self):
        self.times = [time.process_time()]
    def on_step(self, trainer, row):
        self.times.append(time.process_time())

def batches(config, rows, seq_len):
    generator = torch.Generator().manual_seed(0)
    while True:
        ids = torch.randint(config.vocab_size, (rows, seq_len + 1), generator=generator)
        yield {"ids": ids[:, :-1], "targets": ids[:, 1:]}

def train(config, rows, seq_len, steps):
    settings = TrainConfig(steps=steps, lr=1e-4, optimizer=job["optimizer"], precision=job["precision"], device="cpu")
    clock = Clock()
    Trainer(GPT(config), batches(config, rows, seq_len), gpt_loss, settings, hooks=[clock]).fit()
    return [b - a for a, b in zip(clock.times, clock.times[1:])]

if sys.argv[3] == "plan":
    start = time.process_time()
    plan = plan_network(config, batch_size=job["rows"], seq_len=job["seq_len"], steps=steps, optimizer=job["optimizer"],
                        precision=job["precision"], device="cpu", rowwise_tables=False)
    print(json.dumps(plan | {"planning_seconds": time.process_time() - start}))
else:
    tiny = GPTConfig(**job["config"] | {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_kv_head": None, "vocab_size": 65})
    train(tiny, 1, 16, 2)
    idle = peak_memory_mb()
    seconds = train(config, job["rows"], job["seq_len"], steps)
    print(json.dumps({"memory_mb": peak_memory_mb() - idle, "each": seconds}))
"""


def run(job: dict, steps: int, what: str) -> dict:
    """Plan or measure in a fresh process."""
    command = [sys.executable, "-c", CHILD, json.dumps(job), str(steps), what]
    done = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--set", choices=list(MODERN), default="check")
    parser.add_argument("--only", type=int, nargs="*", help="numbers of the configurations, from 0")
    options = parser.parse_args()
    from aimt.train.networks.resource_estimate import compare_plan, correct

    print(f"{'model':34} {'memory MB':>17} {'error':>7} {'seconds':>15} {'error':>7} {'before':>7} {'live MB':>8}")
    errors = []
    jobs = [job for n, job in enumerate(MODERN[options.set]) if options.only is None or n in options.only]
    for job in jobs:
        plan, measured = run(job, options.steps, "plan"), run(job, options.steps, "measure")
        each, config = measured["each"], job["config"]
        corrected = correct(plan, each[:20])
        truth = {"memory_mb": measured["memory_mb"], "seconds": sum(each[20:]) / (len(each) - 20) * len(each)}
        error = compare_plan(corrected, truth)["error"]
        errors.append(error)
        name = (
            f"{config['n_layer']}L/{config['n_embd']} V{config['vocab_size']} {job['rows']}x{job['seq_len']} {job['precision']}"
            f" {job['optimizer']}"
        )
        memory, seconds = (
            f"{plan['memory_mb']['total']:.0f} / {truth['memory_mb']:.0f}",
            f"{corrected['seconds']:.1f} / {truth['seconds']:.1f}",
        )
        print(
            f"{name:34} {memory:>17} {error['memory_mb']:+7.1%} {seconds:>15} {error['seconds']:+7.1%} {error['first_seconds']:+7.0%}"
            f" {plan['memory_mb'].get('live', 0):8.0f}",
            flush=True,
        )
    for key, what in (("memory_mb", "memory"), ("seconds", "time after 20 warm-up steps"), ("first_seconds", "time before the first step")):
        print(f"largest error of {what}: {max(abs(e[key]) for e in errors):.1%}")


if __name__ == "__main__":
    main()

"""Training a GPT of 124 million weights on one GPU: tokens a second, share of the card's peak (MFU), against nanoGPT's loop.

    python benchmarks/gpu.py [--nanogpt FOLDER] [--batch 32] [--steps 60] [--mode default] [--accumulation 1]
    python benchmarks/gpu.py --tiny [--nanogpt FOLDER]          the same way with a tiny model on a CPU, to try the script

Context 1024, vocabulary 50304, bf16, torch.compile, fused AdamW, random tokens. FOLDER is a clone of nanoGPT; its `train.py`
runs as it is, in the same call, on the same tokens, with the same model and batch. Both loops run in processes of their own, in
turn; the first third of the steps (compiling) does not count. MFU is 6 operations per weight of a matrix and token, plus
12 x layers x width x context for attention, over the peak in the data sheet. --mode reduce-overhead uses CUDA graphs.
Peak for another card: --peak-tflops.
"""

import argparse
import json
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from aimt.data.text.token_batches import TokenBatches
from aimt.data.text.token_files import Tokens
from aimt.models.text.gpt import GPT, GPTConfig, gpt_loss
from aimt.train.loop.trainer import TrainConfig, Trainer
from aimt.train.networks.resource_estimate import GPUS, flops_per_token
from aimt.train.networks.step_time import measure_peak

VOCABULARY = 50304  # GPT-2's 50257, rounded up


def shape(args: argparse.Namespace) -> GPTConfig:
    """The model that both loops train: GPT-2 small without biases, as nanoGPT has it."""
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 32, "context": 64} if args.tiny else {}
    return GPTConfig.preset("gpt2", **{"vocab_size": VOCABULARY, "bias": False} | sizes)


def peak_flops(args: argparse.Namespace) -> tuple[str, float]:
    """The card's name and its bf16 peak; on a CPU the peak that a matrix product reaches."""
    if args.tiny:
        return "CPU", measure_peak("fp32")
    name = torch.cuda.get_device_name()
    if args.peak_tflops:
        return name, 1e12 * args.peak_tflops
    fits = [g for g in GPUS if g["name"].split()[0] in name.split()]
    fits += [g for g in GPUS if " ".join(g["name"].split()[:2]) in name]
    if not fits:
        raise SystemExit(f"the peak of {name} is not known here: give it with --peak-tflops")
    return name, 1e12 * fits[-1]["tflops"]


def aimt_seconds(args: argparse.Namespace, tokens: np.ndarray) -> dict[str, float]:
    """Median seconds of a step of aimt's Trainer."""
    torch.set_float32_matmul_precision("high")
    config = shape(args)
    model = GPT(config)
    if args.compile and args.mode != "default":
        model.compile(mode=args.mode)
    batches = TokenBatches(Tokens.from_array(tokens), args.batch, config.context)
    settings = TrainConfig(
        args.steps,
        lr=6e-4,
        accumulation=args.accumulation,
        device="cpu" if args.tiny else "cuda",
        precision="fp32" if args.tiny else "bf16",
        compile=args.compile and args.mode == "default",
        max_retries=0,
        save_every=10**9,
    )
    rows = Trainer(model, batches, gpt_loss, settings).fit().steps
    times = np.diff([row["seconds"] for row in rows])[args.steps // 3 :]
    memory = 0.0 if args.tiny else torch.cuda.max_memory_allocated() / 1e9
    return {"seconds": statistics.median(times), "loss": rows[-1]["loss"], "memory_gb": memory}


def nanogpt_seconds(args: argparse.Namespace, tokens: np.ndarray) -> dict[str, float]:
    """Median seconds of a step of nanoGPT's train.py, from its own log."""
    config = shape(args)
    with tempfile.TemporaryDirectory() as folder:
        for name in ("train.py", "model.py", "configurator.py"):
            shutil.copy(args.nanogpt / name, folder)
        data = Path(folder) / "data" / "random"
        data.mkdir(parents=True)
        for part in ("train", "val"):
            tokens.tofile(data / f"{part}.bin")
        device = ["--device=cpu", "--dtype=float32"] if args.tiny else ["--device=cuda", "--dtype=bfloat16"]
        command = [
            sys.executable,
            "train.py",
            *device,
            "--dataset=random",
            f"--compile={args.compile}",
            f"--batch_size={args.batch}",
            f"--block_size={config.context}",
            f"--n_layer={config.n_layer}",
            f"--n_head={config.n_head}",
            f"--n_embd={config.n_embd}",
            f"--gradient_accumulation_steps={args.accumulation}",
            f"--max_iters={args.steps}",
            "--eval_interval=1000000",
            "--eval_iters=1",
            "--log_interval=1",
            "--always_save_checkpoint=False",
        ]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"nanoGPT's loop failed:\n{done.stderr[-2000:]}")
    lines = re.findall(r"iter (\d+): loss ([\d.]+), time ([\d.]+)ms", done.stdout)
    times = [float(ms) / 1e3 for _, _, ms in lines][args.steps // 3 + 1 :]
    return {"seconds": statistics.median(times), "loss": float(lines[-1][1])}


def child(args: argparse.Namespace) -> dict[str, float]:
    """aimt's loop in a process of its own."""
    done = subprocess.run([sys.executable, __file__, *sys.argv[1:], "--child"], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"aimt's loop failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nanogpt", type=Path, help="a clone of nanoGPT, to compare with")
    parser.add_argument("--batch", type=int, default=None, help="rows of a batch (32)")
    parser.add_argument("--steps", type=int, default=None, help="steps, the first third of which does not count (60)")
    parser.add_argument("--accumulation", type=int, default=1)
    parser.add_argument("--mode", default="default", choices=["default", "reduce-overhead", "max-autotune", "max-autotune-no-cudagraphs"])
    parser.add_argument("--rounds", type=int, default=1, help="each loop so often, in turn; the best counts")
    parser.add_argument("--peak-tflops", type=float)
    parser.add_argument("--no-compile", dest="compile", action="store_false")
    parser.add_argument("--tiny", action="store_true", help="a tiny model on the CPU, to try the script")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    args.batch, args.steps = args.batch or (2 if args.tiny else 32), args.steps or (9 if args.tiny else 60)
    args.compile = args.compile and not args.tiny
    return args


def main() -> None:
    args = arguments()
    if not (args.tiny or torch.cuda.is_available()):
        raise SystemExit("no CUDA GPU here, and this benchmark is about one. Try the script itself with --tiny")
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 200_000 if args.tiny else 20_000_000).astype(np.uint16)
    if args.child:
        print(json.dumps(aimt_seconds(args, tokens)))
        return
    card, peak = peak_flops(args)
    config = shape(args)
    per_step = args.batch * args.accumulation * config.context
    loops = {"nanoGPT": lambda: nanogpt_seconds(args, tokens)} if args.nanogpt else {}
    loops["aimt"] = lambda: child(args)
    best: dict[str, dict[str, float]] = {}
    for _ in range(args.rounds):
        for name, loop in loops.items():
            found = loop()
            best[name] = min(found, best.get(name, found), key=lambda r: r["seconds"])
    for name, found in best.items():
        speed = per_step / found["seconds"]
        line = {
            "card": card,
            "torch": torch.__version__,
            "loop": name,
            "tokens_per_step": per_step,
            "ms_per_step": 1e3 * found["seconds"],
            "tokens_per_second": speed,
            "mfu": flops_per_token(config, config.context) * speed / peak,
        } | found
        line["ratio"] = best["nanoGPT"]["seconds"] / found["seconds"] if "nanoGPT" in best else 1.0
        print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


if __name__ == "__main__":
    main()

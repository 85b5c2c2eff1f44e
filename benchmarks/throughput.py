"""Tokens per CPU-second in training: nanoGPT's loop, a plain loop over transformers, and aimt's, at equal model and batch.

    python benchmarks/throughput.py --nanogpt FOLDER --text TEXT [--rounds 3] [--steps 200]

FOLDER is a clone of nanoGPT. The model is that of nanoGPT's documented CPU run: 4 layers, 4 heads, width 128, context 64,
batch 12, characters, no dropout, no biases where the library allows it. One thread. Each loop runs in a process of its own; the
speed is the difference between a long and a short run, so that imports and evaluations do not count. The rounds go
through all loops in turn; the best round of each counts. `aimt fp32` is aimt's loop without bf16.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SHAPE = {"n_layer": 4, "n_head": 4, "n_embd": 128}
BATCH, CONTEXT = 12, 64
LOOPS = ("nanoGPT", "transformers", "aimt fp32", "aimt")


def cpu_seconds(command: list[str], folder: Path) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def command(loop: str, steps: int, text: Path) -> list[str]:
    if loop != "nanoGPT":
        return [sys.executable, str(Path(__file__).resolve()), "--text", str(text), "--loop", loop, "--steps", str(steps)]
    shape = [f"--{k}={v}" for k, v in SHAPE.items()]
    return [
        sys.executable,
        "train.py",
        "config/train_shakespeare_char.py",
        "--device=cpu",
        "--compile=False",
        "--eval_iters=1",
        "--eval_interval=100000",
        "--log_interval=1",
        f"--block_size={CONTEXT}",
        f"--batch_size={BATCH}",
        *shape,
        f"--max_iters={steps}",
        f"--lr_decay_iters={steps}",
        "--dropout=0.0",
    ]


def speed(loop: str, steps: int, text: Path, folder: Path) -> float:
    """Tokens per CPU-second."""
    short = 20
    seconds = cpu_seconds(command(loop, short + steps, text), folder) - cpu_seconds(command(loop, short, text), folder)
    return steps * BATCH * CONTEXT / seconds


def characters(text: Path):
    import numpy as np

    codes = np.frombuffer(text.read_text(encoding="utf-8").encode("utf-32-le"), dtype=np.uint32)
    letters, ids = np.unique(codes, return_inverse=True)
    return ids[: int(0.9 * len(ids))].astype(np.uint16), len(letters)


def transformers_loop(text: Path, steps: int) -> None:
    """What one writes without thinking of speed: random windows, forward, backward, clip, AdamW, schedule."""
    import numpy as np
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    ids, vocab_size = characters(text)
    config = GPT2Config(
        vocab_size=vocab_size,
        n_positions=CONTEXT,
        resid_pdrop=0.0,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        use_cache=False,
        bos_token_id=0,
        eos_token_id=0,
        **SHAPE,
    )
    model = GPT2LMHeadModel(config)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99), weight_decay=0.1)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng = np.random.default_rng(0)
    for _ in range(steps):
        starts = rng.integers(0, len(ids) - CONTEXT, BATCH)
        rows = torch.from_numpy(np.stack([ids[s : s + CONTEXT] for s in starts]).astype(np.int64))
        loss = model(input_ids=rows, labels=rows).loss
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        loss.item()


def aimt_loop(text: Path, steps: int, precision: str) -> None:
    """nanoGPT's model (learned positions, LayerNorm, GELU, no biases) in aimt's `Trainer`."""
    from aimt.data.text.token_batches import TokenBatches
    from aimt.data.text.token_files import Tokens
    from aimt.models.text.gpt import GPT, GPTConfig, gpt_loss
    from aimt.train.loop.trainer import TrainConfig, Trainer
    from aimt.train.networks.pretrain import keep_memory

    keep_memory()
    ids, vocab_size = characters(text)
    config = GPTConfig(
        vocab_size=vocab_size,
        context=CONTEXT,
        norm="layer",
        positions="learned",
        mlp="gelu",
        bias=False,
        qk_norm=False,
        init="gpt2",
        **SHAPE,
    )
    batches = TokenBatches(Tokens.from_array(ids), BATCH, CONTEXT)
    settings = TrainConfig(steps=steps, lr=1e-3, betas=(0.9, 0.99), schedule="cosine", precision=precision, save_every=10**6)
    Trainer(GPT(config), batches, gpt_loss, settings).fit()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nanogpt", type=Path)
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--loop", choices=LOOPS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.loop:
        import torch

        torch.set_num_threads(1)
        if args.loop == "transformers":
            return transformers_loop(args.text, args.steps)
        return aimt_loop(args.text, args.steps, "fp32" if args.loop == "aimt fp32" else "auto")
    text, best = args.text.resolve(), {}
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "nanoGPT"
        shutil.copytree(args.nanogpt, place, ignore=shutil.ignore_patterns(".git", "out*"))
        data = place / "data" / "shakespeare_char"
        shutil.copy(text, data / "input.txt")
        subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, capture_output=True)
        for r in range(args.rounds):
            for loop in LOOPS:
                rate = speed(loop, args.steps, text, place)
                best[loop] = max(rate, best.get(loop, 0))
                print(json.dumps({"round": r, "loop": loop, "tokens_per_cpu_second": round(rate)}), flush=True)
    print("\n| loop | tokens per CPU-s | aimt is so many times as fast | target |\n|---|---|---|---|")
    for loop, target in zip(LOOPS, (1.3, 1.9, "", ""), strict=True):
        print(f"| {loop} | {best[loop]:,.0f} | {best['aimt'] / best[loop]:.2f} | {target} |")


if __name__ == "__main__":
    main()

"""Character Shakespeare: aimt's recipe against nanoGPT's documented CPU run and a counted 5-gram.

    python benchmarks/shakespeare.py --text tinyshakespeare.txt --nanogpt FOLDER [--seeds 3] [--long] [--only short]

FOLDER is a clone of nanoGPT. The last tenth of the text is held out, in all of it. Everything runs in a process of its own on
one thread, and its CPU-seconds are those of the whole process: import, tokens, training and evaluation of all held-out text.
`short` has at most a tenth of nanoGPT's CPU time, `plain` (no n-gram embeddings) a sixth, `early` 45 s, `whole` all of it; `--long` adds
15 minutes on two threads. Prints one line of JSON for each run, and a table with the worst seed of each at the end.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TARGETS = {"short": 1.88, "plain": 1.88, "early": 1.676, "whole": 1.50, "long": 1.47}  # nats per character
NANOGPT = """config/train_shakespeare_char.py --device=cpu --compile=False --eval_iters=20 --log_interval=1 --block_size=64
 --batch_size=12 --n_layer=4 --n_head=4 --n_embd=128 --max_iters=2000 --lr_decay_iters=2000 --dropout=0.0""".split()


def measured(command: list[str], threads: int, folder: Path | str = ".") -> tuple[float, str]:
    """CPU-seconds and output of a process, with everything it starts."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout


def nanogpt(clone: Path, text: Path, folder: Path) -> dict:
    """nanoGPT's CPU run as its README gives it, on a copy of the clone."""
    place = folder / "nanoGPT"
    shutil.copytree(clone, place, ignore=shutil.ignore_patterns(".git", "out*"))
    data = place / "data" / "shakespeare_char"
    shutil.copy(text, data / "input.txt")
    subprocess.run([sys.executable, "prepare.py"], cwd=data, check=True, capture_output=True)
    seconds, printed = measured([sys.executable, "train.py", *NANOGPT], 1, place)
    best = min(float(x) for x in re.findall(r"val loss ([0-9.]+)", printed))
    speed = [float(x) for x in re.findall(r"time ([0-9.]+)ms", printed)][20:]
    return {
        "name": "nanoGPT",
        "nats": best,
        "cpu_seconds": round(seconds, 1),
        "tokens_per_second": round(768e3 / sorted(speed)[len(speed) // 2]),
    }


def ours(name: str, text: Path, budget: float, seed: int, threads: int, changes: dict) -> dict:
    """One run of the recipe, sized for so many CPU-seconds (one thread) or seconds (more)."""
    order = json.dumps({"text": str(text), "budget": budget, "seed": seed, "threads": threads, "changes": changes})
    seconds, printed = measured([sys.executable, __file__, "--child", order], threads)
    return {
        "name": name,
        "seed": seed,
        "budget": round(budget, 1),
        **json.loads(printed.splitlines()[-1]),
        "cpu_seconds": round(seconds, 1),
    }


def child(order: dict) -> None:
    """What happens in the process that is measured."""
    import time

    import torch

    torch.set_num_threads(order["threads"])
    from aimt.data.text.tokenizer import train_tokenizer
    from aimt.data.text.token_files import write_tokens
    from aimt.train.networks.pretrain import train_text

    clock = time.process_time if order["threads"] == 1 else time.perf_counter
    began = 0.0 if order["threads"] == 1 else clock()
    with tempfile.TemporaryDirectory() as folder:
        tokenizer = train_tokenizer(order["text"], "char")
        tokens = write_tokens(order["text"], tokenizer, folder)
        left = 0.995 * order["budget"] - 1.5 - (clock() - began)  # the rest is for the end of the process and for surprises
        trained = train_text(
            tokens, tokenizer, time_limit=left, threads=order["threads"], seed=order["seed"], plan=False, clock=clock, **order["changes"]
        )
        m = trained.measured
        assert trained.history.evals
        print(
            json.dumps(
                {
                    "nats": round(m["valid_loss"], 4),
                    "steps": m["steps"],
                    "parameters": m["parameters"],
                    "tokens_per_second": round(m["tokens_per_second"]),
                    "precision": m["precision"],
                    "curve": [(round(e["seconds"], 1), round(e["valid_loss"], 4)) for e in trained.history.evals],
                }
            )
        )


def five_gram(text: Path) -> dict:
    """The counted baseline."""
    code = (
        "import sys, numpy as np; from aimt.models.text.ngram import NGram\n"
        "u = np.frombuffer(open(sys.argv[1], encoding='utf-8').read().encode('utf-32-le'), dtype=np.uint32)\n"
        "chars, ids = np.unique(u, return_inverse=True); n = int(0.9 * len(ids))\n"
        "print(NGram(5).fit(ids[:n], len(chars)).nats(ids[n:]))"
    )
    seconds, printed = measured([sys.executable, "-c", code, str(text)], 1)
    return {"name": "5-gram", "nats": round(float(printed), 4), "cpu_seconds": round(seconds, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--nanogpt", type=Path, help="a clone; without it --nanogpt-seconds is used")
    parser.add_argument("--nanogpt-seconds", type=float, help="CPU-seconds of its run, if it is known")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--long", action="store_true", help="also 15 minutes on two threads")
    parser.add_argument("--minutes", type=float, default=15.0, help="of the long run")
    parser.add_argument("--known", type=Path, help="an earlier output of this script: what is in it is not run again")
    parser.add_argument("--only", help="short, plain, early, whole or long")
    parser.add_argument("--child", type=json.loads, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        return child(args.child)
    earlier = args.known.read_text(encoding="utf-8").splitlines() if args.known else []
    known = {(r["name"], r.get("seed")): r for r in (json.loads(x) for x in earlier if x.startswith("{"))}
    text, rows = args.text.resolve(), [known.get(("5-gram", None)) or five_gram(args.text)]
    print(json.dumps(rows[0]))
    with tempfile.TemporaryDirectory() as folder:
        if args.nanogpt:
            rows.append(known.get(("nanoGPT", None)) or nanogpt(args.nanogpt, text, Path(folder)))
            print(json.dumps(rows[-1]), flush=True)
    whole = rows[-1]["cpu_seconds"] if args.nanogpt else args.nanogpt_seconds
    if not whole:
        raise SystemExit("Give --nanogpt FOLDER or --nanogpt-seconds")
    runs = {
        "short": (0.085 * whole, 1, {}),
        "plain": (0.162 * whole, 1, {"ngram_orders": ()}),
        "early": (45.0, 1, {}),
        "whole": (whole, 1, {}),
    }
    if args.long or args.only == "long":
        runs["long"] = (60 * args.minutes, 2, {})
    for name, (budget, threads, changes) in runs.items():
        for seed in range(args.seeds if args.only in (None, name) else 0):
            rows.append(known.get((name, seed)) or ours(name, text, budget, seed, threads, changes))
            print(json.dumps(rows[-1]), flush=True)
    print("\n| run | worst nats | target | most CPU-s | share of nanoGPT's |\n|---|---|---|---|---|")
    for name in dict.fromkeys(r["name"] for r in rows):
        mine = [r for r in rows if r["name"] == name]
        nats, seconds = max(r["nats"] for r in mine), max(r["cpu_seconds"] for r in mine)
        print(f"| {name} | {nats:.3f} | {TARGETS.get(name, '')} | {seconds:.1f} | {seconds / whole:.3f} |")


if __name__ == "__main__":
    main()

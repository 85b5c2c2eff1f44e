"""Tokens a second when a GPT-2 of 124 million weights writes on a CPU, against `transformers`, and what rounding costs.

    python benchmarks/sampling.py [--text tinyshakespeare.txt] [--new-tokens 200] [--repeats 5] [--steps 500] [--threads 1]

All contenders take turns in every repeat; the ratios are medians over the repeats, of the time per token against
`transformers` in float32 in the same repeat. Both sample with temperature 0.8 and top-k 50. The bandwidth is that of
reading 256 MB, measured in every repeat. With ``--text`` a small model is trained on it (the last tenth held out) and
the perplexity of its rounded copies is measured. Run on idle cores.
"""

import argparse
import json
import math
import statistics
import tempfile
import time
from pathlib import Path

import torch

from aimt.generate.text.sampling import Sampling, generate_ids
from aimt.generate.text.speculative import speculate_ids
from aimt.models.text.gpt import GPT, GPTConfig
from aimt.models.layers.quantization import Int4Linear, Int8Linear, n_bytes, quantize

LIMITS = {"bf16": 1.35, "int8": 2.2, "int4": 4.0, "bf16, batch 16": 1.5}


def show(**line) -> None:
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in line.items()}), flush=True)


def bandwidth() -> float:
    """GB/s of reading memory that was written before."""
    x = torch.ones(64_000_000)
    start = time.process_time()
    for _ in range(4):
        x.sum()
    return 4 * 4 * x.numel() / (time.process_time() - start) / 1e9


def hf_copy(model: GPT):
    """The same weights in `transformers`."""
    from transformers import GPT2LMHeadModel
    from transformers.utils import logging

    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        return GPT2LMHeadModel.from_pretrained(folder).eval()


@torch.no_grad()
def run_theirs(model, ids: torch.Tensor, n: int) -> None:
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=n,
        min_new_tokens=n,
        do_sample=True,
        top_k=50,
        temperature=0.8,
        pad_token_id=0,
    )


def run_ours(model, ids: torch.Tensor, n: int) -> None:
    for _ in generate_ids(model, ids.tolist(), Sampling(max_new_tokens=n, temperature=0.8, top_k=50)):
        pass


def seconds(call, *args) -> tuple[float, float]:
    wall, cpu = time.perf_counter(), time.process_time()
    call(*args)
    return time.perf_counter() - wall, time.process_time() - cpu


def speed(new_tokens: int, repeats: int) -> None:
    torch.manual_seed(0)
    model = GPT(GPTConfig.preset("gpt2")).eval()
    theirs = hf_copy(model)
    one, many = torch.randint(0, 50256, (1, 16)), torch.randint(0, 50256, (16, 16))
    copies = {kind: quantize(model, kind) for kind in ("bf16", "int8", "int4")}
    few = max(8, new_tokens // 8)
    contenders = {
        "transformers": (run_theirs, theirs, one, new_tokens),
        "fp32": (run_ours, model, one, new_tokens),
        **{kind: (run_ours, copy, one, new_tokens) for kind, copy in copies.items()},
        "transformers, batch 16": (run_theirs, theirs, many, few),
        "fp32, batch 16": (run_ours, model, many, few),
        "bf16, batch 16": (run_ours, copies["bf16"], many, few),
        "int8, batch 16": (run_ours, copies["int8"], many, few),
    }
    for call, model_, ids, _ in contenders.values():
        seconds(call, model_, ids, 3)
    rows: list[dict] = []
    gb: list[float] = []
    for _ in range(repeats):
        gb.append(bandwidth())
        rows.append({name: seconds(*arguments) for name, arguments in contenders.items()})
    show(what="reading memory, GB/s", median=statistics.median(gb), lowest=min(gb), highest=max(gb), threads=torch.get_num_threads())
    sizes = {"transformers": n_bytes(model), "fp32": n_bytes(model)} | {kind: n_bytes(copy) for kind, copy in copies.items()}
    for name, (_, _, ids, n) in contenders.items():
        peer = "transformers, batch 16" if "batch" in name else "transformers"
        wall, cpu = (statistics.median(len(ids) * n / row[name][i] for row in rows) for i in (0, 1))
        ratio, ratio_cpu = (statistics.median(row[peer][i] / row[name][i] for row in rows) for i in (0, 1))
        line = {"what": name, "tokens/s": wall, "tokens/CPU-s": cpu, "ratio": ratio, "ratio_cpu": ratio_cpu}
        if name in sizes:
            line |= {"MB": sizes[name] / 1e6, "GB/s": sizes[name] * cpu / 1e9}
        show(**line, **({"limit": LIMITS[name]} if name in LIMITS else {}))


def train(path: Path, steps: int, folder: Path, **size):
    """A GPT with a vocabulary of 1,024 tokens, trained by the real loop; its held-out tokens."""
    from aimt.data.text.tokenizer import train_tokenizer
    from aimt.data.text.token_batches import TokenBatches
    from aimt.data.text.token_files import write_tokens
    from aimt.models.text.gpt import gpt_loss
    from aimt.train.loop.trainer import TrainConfig, Trainer

    tokenizer = train_tokenizer(path, "bpe", 1024)
    files = write_tokens(path, tokenizer, folder / "tokens")
    torch.manual_seed(0)
    model = GPT(GPTConfig(vocab_size=tokenizer.vocab_size, context=128, **size))
    batches = TokenBatches(files.train, 16, 128)
    history = Trainer(model, batches, gpt_loss, TrainConfig(steps=steps, lr=3e-3)).fit()
    return model.eval(), torch.from_numpy(files.valid[: len(files.valid)].astype("int64")), history


@torch.no_grad()
def nats(model, tokens: torch.Tensor, n: int = 32_768) -> float:
    """Mean loss on held-out tokens, each predicted once in windows of 128."""
    n = min(n, (len(tokens) - 1) // 2048 * 2048)
    total = 0.0
    for start in range(0, n, 2048):
        x, y = tokens[start : start + 2048].view(16, 128), tokens[start + 1 : start + 2049]
        z = model.logits(model.hidden(x)).float().flatten(0, 1)
        total += float(torch.nn.functional.cross_entropy(z, y, reduction="sum"))
    return total / n


def quality(path: Path, steps: int) -> None:
    Int8Linear.MANY = Int4Linear.MANY = 10**9  # measure the kernels that write, not the way of long prompts
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        model, valid, _ = train(path, steps, Path(folder), n_layer=4, n_head=4, n_embd=256)
        before = nats(model, valid)
        spent = time.process_time() - start
        show(what="trained model", nats=before, perplexity=math.exp(before), MB=n_bytes(model) / 1e6, cpu_s=spent)
        for kind, group in (("bf16", 32), ("int8", 32), ("int4", 32), ("int4", 128), ("int4", 256)):
            small = quantize(model, kind, group=group)
            rise = math.exp(nats(small, valid) - before) - 1
            limit = {"int8": 0.01, "int4": 0.04}.get(kind)
            show(
                what=f"{kind} groups of {group}" if kind == "int4" else kind,
                perplexity_rise=rise,
                limit=limit,
                size=n_bytes(small) / n_bytes(model),
            )
        draft, _, _ = train(path, steps, Path(folder), n_layer=1, n_head=2, n_embd=64)
        with_draft(model, draft, valid[:64].tolist())


def with_draft(model, draft, prompt: list[int]) -> None:
    settings, counts = Sampling(max_new_tokens=300, temperature=0.8), {}
    plain = seconds(lambda: list(generate_ids(model, [prompt], settings)))[1]
    fast = seconds(lambda: list(speculate_ids(model, draft, prompt, settings, counts=counts)))[1]
    kept = counts["kept"] / counts["guessed"]
    show(what="speculative, small model with a smaller draft", ratio_cpu=plain / fast, kept=kept, tokens_per_round=300 / counts["rounds"])
    greedy = Sampling(max_new_tokens=300, temperature=0)
    same = [s[0] for s in generate_ids(model, [prompt], greedy)] == list(speculate_ids(model, draft, prompt, greedy))
    show(what="speculative greedy identical over 300 tokens", value=same)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=Path, help="a text to train a small model on, for the perplexity")
    parser.add_argument("--new-tokens", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    speed(args.new_tokens, args.repeats)
    if args.text:
        quality(args.text, args.steps)
    else:
        print("no --text: perplexity not measured")


if __name__ == "__main__":
    main()

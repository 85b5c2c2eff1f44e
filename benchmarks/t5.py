"""Training of T5: tokens per second of `aimt.models.text.t5` and of `transformers` at equal settings, on one CPU core.

    python benchmarks/t5.py [--rounds 5] [--threads 1] [--size tiny|small]

Both train the same random batches without dropout, with fused AdamW, first in fp32 and then in bf16 autocast, as
`aimt.train.loop.trainer` does on a CPU. The two take turns, and the fastest step of each counts; with one thread its processor time,
so that another program on the machine does not decide. Also the same pairs of uneven length, padded and packed. Prints one
JSON line per measurement.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
import transformers

from aimt.data.text.span_corruption import pack_pairs, pad_pairs
from aimt.models.text.t5 import T5, t5_loss
from aimt.models.text.t5_config import T5Config, config_to_json

SIZES = {
    "tiny": ({"vocab_size": 8192, "n_layer": 4, "n_head": 4, "d_model": 256, "d_kv": 64, "d_ff": 1024}, 16, 128, 32),
    "small": ({}, 8, 256, 64),  # t5-small
}  # Settings, rows, tokens to read and to write


def step_of(model: torch.nn.Module, loss_of: Callable, bf16: bool) -> Callable[[], float]:
    """One update, and its time in seconds."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=1e-4, fused=True)

    def step() -> float:
        clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
        start = clock()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return clock() - start

    return step


def fastest(steps: list[Callable[[], float]], rounds: int) -> list[float]:
    """The fastest step of each, taken in turns."""
    times = [[step() for step in steps] for _ in range(rounds + 1)][1:]
    return [min(column) for column in zip(*times, strict=True)]


def against_transformers(size: str, rounds: int) -> None:
    settings, B, S, L = SIZES[size]
    config = T5Config(**settings)
    ids, targets = torch.randint(2, config.vocab_size, (B, S)), torch.randint(2, config.vocab_size, (B, L))
    for bf16 in (False, True):
        theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**config_to_json(config)))
        seconds = fastest(
            [
                step_of(T5(config), lambda m: t5_loss(m, {"ids": ids, "targets": targets}), bf16),
                step_of(theirs, lambda m: m(input_ids=ids, labels=targets).loss, bf16),
            ],
            rounds,
        )
        ours, other = (round(B * (S + L) / s) for s in seconds)
        print(
            json.dumps(
                {
                    "size": size,
                    "precision": "bf16" if bf16 else "fp32",
                    "aimt_tokens_per_s": ours,
                    "transformers_tokens_per_s": other,
                    "ratio": round(ours / other, 2),
                }
            ),
            flush=True,
        )


def packed_against_padded(size: str, rounds: int) -> None:
    settings, B, S, L = SIZES[size]
    config = T5Config(**settings)
    torch.manual_seed(0)
    lengths = zip(torch.randint(4, S, (4 * B,)).tolist(), torch.randint(2, L, (4 * B,)).tolist(), strict=True)
    draw = lambda n: torch.randint(2, config.vocab_size, (n,)).tolist()
    pairs = [(draw(n), draw(m)) for n, m in lengths]
    model, seconds, tokens = T5(config), {}, sum(len(r) + len(w) for r, w in pairs)
    batches = {"padded": pad_pairs(pairs, pad_id=0), "packed": pack_pairs(pairs, pad_id=0, read_len=S, write_len=L)}
    for name, batch in batches.items():
        seconds[name] = fastest([step_of(model, lambda m, b=batch: t5_loss(m, b), True)], max(1, rounds // 2))[0]
    print(
        json.dumps(
            {"size": size, "pairs": len(pairs), "precision": "bf16"}
            | {f"{name}_tokens_per_s": round(tokens / s) for name, s in seconds.items()}
            | {"ratio": round(seconds["padded"] / seconds["packed"], 2)}
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", choices=SIZES, default="tiny")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    against_transformers(options.size, options.rounds)
    packed_against_padded(options.size, options.rounds)


if __name__ == "__main__":
    main()

"""Fine-tuning of BERT: tokens per second of `aimt.models.bert` and of `transformers` at equal settings, on one CPU core.

    python benchmarks/finetune.py [--rounds 3] [--threads 1] [--size tiny|minilm|base] [--dropout 0.1]

Both classify the same texts of uneven length (16 to 128 tokens) in batches of 16, with dropout and fused AdamW: first padded, as
the Trainer of `transformers` does it; then ours with the same texts packed into full rows. The ways take turns, and the fastest
step of each counts, so that another program on the machine does not decide. Prints one JSON line per measurement; a
token is a token of a text, and padding does not count.
"""

import argparse
import json
import time
from collections.abc import Callable

import torch
import transformers

from aimt.models.bert import BERTConfig, BERTForClassification, config_to_json


def texts_of(n: int, vocab_size: int, longest: int) -> list[torch.Tensor]:
    """Random texts of uneven length."""
    lengths = torch.randint(longest // 8, longest + 1, (n,))
    return [torch.randint(5, vocab_size, (int(m),)) for m in lengths]


def padded(texts: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.nn.utils.rnn.pad_sequence(texts, batch_first=True)
    return ids, torch.nn.utils.rnn.pad_sequence([torch.ones_like(t) for t in texts], batch_first=True).bool()


def packed(texts: list[torch.Tensor], width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows filled first-fit, the longest first; the number of each token's text, and the order of the texts."""
    rows: list[list[int]] = []
    for i in sorted(range(len(texts)), key=lambda i: -len(texts[i])):
        fits = [row for row in rows if sum(len(texts[j]) for j in row) + len(texts[i]) <= width]
        (fits[0] if fits else rows.append([]) or rows[-1]).append(i)
    ids, documents = torch.zeros(len(rows), width, dtype=torch.int64), torch.full((len(rows), width), -1)
    for r, row in enumerate(rows):
        flat = torch.cat([texts[i] for i in row])
        ids[r, : len(flat)] = flat
        documents[r, : len(flat)] = torch.cat([torch.full((len(texts[i]),), i) for i in row])
    return ids, documents, torch.tensor([i for row in rows for i in row])


def step_of(model: torch.nn.Module, loss_of: Callable, bf16: bool) -> Callable[[], float]:
    """One update, and its time in seconds."""
    optimizer = torch.optim.AdamW(model.train().parameters(), lr=5e-5, fused=True)

    def step() -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss = loss_of(model)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return time.perf_counter() - start

    return step


def measure(size: str, dropout: float, rounds: int, bf16: bool) -> dict[str, float]:
    torch.manual_seed(0)
    config = BERTConfig.preset(size, vocab_size=8192, context=128, dropout=dropout, attn_dropout=dropout, labels=("a", "b"))
    texts, targets = texts_of(16, config.vocab_size, 128), torch.randint(2, (16,))
    ids, mask = padded(texts)
    rows, documents, order = packed(texts, 128)
    theirs = transformers.BertForSequenceClassification(
        transformers.BertConfig(**config_to_json(config, "BertForSequenceClassification"))
    )
    steps = [
        step_of(theirs, lambda m: m(input_ids=ids, attention_mask=mask.long(), labels=targets).loss, bf16),
        step_of(BERTForClassification(config), lambda m: m(ids, mask, targets=targets), bf16),
        step_of(BERTForClassification(config), lambda m: m(rows, documents=documents, targets=targets[order]), bf16),
    ]
    times = [[step() for step in steps] for _ in range(rounds + 1)][1:]
    n_tokens = int(mask.sum())
    return {name: n_tokens / min(t[i] for t in times) for i, name in enumerate(("transformers", "padded", "packed"))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", default="minilm")
    parser.add_argument("--dropout", type=float, default=0.1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    for bf16 in (False, True):
        speed = measure(options.size, options.dropout, options.rounds, bf16)
        print(json.dumps({
            "model": options.size, "dtype": "bf16" if bf16 else "fp32", "dropout": options.dropout,
            **{f"{name}_tokens_per_s": round(v) for name, v in speed.items()},
            "ratio_padded": round(speed["padded"] / speed["transformers"], 2),
            "ratio_packed": round(speed["packed"] / speed["transformers"], 2),
        }), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()

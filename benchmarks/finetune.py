"""Fine-tuning of BERT and T5: tokens per second of `aimt.train.networks.finetune` and of the `Trainer` of `transformers`, on one CPU core.

    python benchmarks/finetune.py [--family bert|t5|both] [--rounds 3] [--steps 12] [--threads 1] [--size tiny|real] [--families]

Needs `pip install accelerate` for the peer. Both get the same examples of uneven length in batches of the same number, the same
schedule, dropout, clipping and fused AdamW, and no evaluation: their `Trainer` with its collator, which pads to the
longest of a batch; ours as `aimt finetune` runs it, several examples packed to a row. The two take turns, and the
fastest run of each counts; with one thread its processor time, so that another program on the machine does not decide.
A token is a token of an example, and padding does not count. With ``--families`` also the throughput of CLIP and DeepSpeech.
Prints one JSON line per measurement.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable

import numpy as np
import torch
import transformers

from aimt.data.text.span_corruption import pad_pairs
from aimt.jobs.families.bert import BERT_FAMILY, TextBatches
from aimt.jobs.families.t5 import T5_FAMILY, TextPairBatches
from aimt.models.text import bert, text_classification
from aimt.models.text import t5, t5_config
from aimt.train.networks.finetune import finetune

BATCH, LONGEST, WRITTEN = 16, 128, 48
SIZES = {
    "bert": {"tiny": "tiny", "real": "minilm"},
    "t5": {"tiny": {"n_layer": 3, "n_head": 4, "d_model": 192, "d_kv": 48, "d_ff": 768}, "real": {}},  # real: t5-small
}


def clock() -> float:
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def rows_of(n: int, vocab_size: int, longest: int, rng: np.random.Generator) -> list[list[int]]:
    """Random examples of uneven length."""
    return [rng.integers(5, vocab_size, rng.integers(longest // 8, longest + 1)).tolist() for _ in range(n)]


class Examples(torch.utils.data.Dataset):
    """What their `Trainer` reads."""

    def __init__(self, examples: list):
        self.examples = examples

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, i: int):
        return self.examples[i]


def their_run(model: torch.nn.Module, examples: list, collate: Callable, steps: int, bf16: bool) -> float:
    """Seconds of their `Trainer`."""
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            folder,
            max_steps=steps,
            per_device_train_batch_size=BATCH,
            learning_rate=5e-5,
            weight_decay=0.01,
            warmup_steps=0.1,
            optim="adamw_torch_fused",
            use_cpu=True,
            bf16=bf16,
            logging_strategy="no",
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
            seed=0,
        )
        trainer = transformers.Trainer(model, arguments, data_collator=collate, train_dataset=Examples(examples))
        trainer.remove_callback(transformers.PrinterCallback)
        start = clock()
        trainer.train()
        return clock() - start


def our_run(model: torch.nn.Module, batches, loss: Callable, family: str, steps: int, bf16: bool) -> float:
    """Seconds of ours."""
    start = clock()
    finetune(model, batches, loss, family=family, steps=steps, lr=5e-5, precision="bf16" if bf16 else "fp32", device="cpu", seed=0)
    return clock() - start


def bert_ways(size: str, n: int, steps: int, bf16: bool) -> tuple[dict[str, Callable[[], float]], int]:
    """A run of each of the two, and the tokens of the examples."""
    rng = np.random.default_rng(0)
    config = bert.BERTConfig.preset(SIZES["bert"][size], vocab_size=8192, context=LONGEST, dropout=0.1, attn_dropout=0.1, labels=("a", "b"))
    rows, targets = rows_of(n, config.vocab_size, LONGEST, rng), rng.integers(0, 2, n).tolist()

    def collate(some):
        width = max(len(r) for r, _ in some)
        ids = torch.tensor([r + [0] * (width - len(r)) for r, _ in some])
        mask = torch.tensor([[1] * len(r) + [0] * (width - len(r)) for r, _ in some])
        return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([y for _, y in some])}

    def theirs() -> float:
        model = transformers.BertForSequenceClassification(
            transformers.BertConfig(**bert.config_to_json(config, "BertForSequenceClassification"))
        )
        return their_run(model, list(zip(rows, targets, strict=True)), collate, steps, bf16)

    def ours() -> float:
        model = text_classification.BERTForClassification(config)
        return our_run(model, TextBatches(rows, targets, BATCH), BERT_FAMILY.loss, "bert", steps, bf16)

    return {"transformers": theirs, "aimt": ours}, sum(map(len, rows))


def t5_ways(size: str, n: int, steps: int, bf16: bool) -> tuple[dict[str, Callable[[], float]], int]:
    """The same for T5; the tokens that are read and those that are written."""
    rng = np.random.default_rng(0)
    config = t5_config.T5Config(**({"vocab_size": 8192} if size == "tiny" else {}) | SIZES["t5"][size] | {"dropout": 0.1})
    pairs = list(zip(*(rows_of(n, config.vocab_size, longest, rng) for longest in (LONGEST, WRITTEN)), strict=True))

    def collate(some):
        batch = pad_pairs(some, pad_id=0)
        return {"input_ids": batch["ids"], "attention_mask": batch["mask"].long(), "labels": batch["targets"]}

    def theirs() -> float:
        model = transformers.T5ForConditionalGeneration(transformers.T5Config(**t5_config.config_to_json(config)))
        return their_run(model, pairs, collate, steps, bf16)

    def ours() -> float:
        return our_run(t5.T5(config), TextPairBatches(pairs, BATCH, pad_id=0), T5_FAMILY.loss, "t5", steps, bf16)

    return {"transformers": theirs, "aimt": ours}, sum(len(a) + len(b) for a, b in pairs)


def compare(family: str, size: str, rounds: int, steps: int) -> None:
    for bf16 in (False, True):
        ways, tokens = (bert_ways if family == "bert" else t5_ways)(size, steps * BATCH, steps, bf16)  # one pass: all are read once
        runs = [{name: run() for name, run in ways.items()} for _ in range(rounds)]
        speed = {name: tokens / min(r[name] for r in runs) for name in ways}
        print(
            json.dumps(
                {"family": family, "size": size, "precision": "bf16" if bf16 else "fp32", "examples": steps * BATCH}
                | {f"{name}_tokens_per_s": round(v) for name, v in speed.items()}
                | {"ratio": round(speed["aimt"] / speed["transformers"], 2), "limit": 1.3}
            ),
            flush=True,
        )


def other_families(steps: int) -> None:
    """Training steps of small CLIP and DeepSpeech networks on random examples: how many per second."""
    from aimt.models.image.clip import CLIP
    from aimt.models.image.clip_towers import CLIPConfig, Tower
    from aimt.models.audio.deepspeech import DeepSpeech, speech_loss
    from aimt.models.audio.speech_features import DeepSpeechConfig
    from aimt.train.networks.contrastive import clip_loss

    config = CLIPConfig(
        Tower(128, 4, 4, mlp="gelu"), Tower(128, 3, 4, mlp="gelu"), width=128, image_size=64, patch_size=16, vocab_size=2000, context=24
    )
    pairs = {"pixels": torch.randn(64, 3, 64, 64), "ids": torch.randint(3, 2000, (64, 24)), "group": torch.arange(64)}
    speech = DeepSpeechConfig(n_hidden=256)
    sounds = {
        "frames": torch.randn(8, 200, 26),
        "lengths": torch.full((8,), 200),
        "targets": torch.randint(0, 28, (8, 30)),
        "target_lengths": torch.full((8,), 30),
    }
    for name, model, batch, loss, unit, n in (
        ("clip", CLIP(config), pairs, clip_loss, "pairs", 64),
        ("deepspeech", DeepSpeech(speech), sounds, speech_loss, "seconds of sound", 8 * 200 * 0.02),
    ):
        seconds = our_run(model, [batch] * steps, loss, name, steps, False)
        print(
            json.dumps(
                {"family": name, "weights": sum(p.numel() for p in model.parameters()), f"{unit} per s": round(n * steps / seconds, 1)}
            ),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--family", choices=["bert", "t5", "both"], default="both")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--size", choices=["tiny", "real"], default="real")
    parser.add_argument("--families", action="store_true", help="also CLIP and DeepSpeech")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    transformers.utils.logging.set_verbosity_error()
    for family in ("bert", "t5") if options.family == "both" else (options.family,):
        compare(family, options.size, options.rounds, options.steps)
    if options.families:
        other_families(options.steps)


if __name__ == "__main__":
    main()

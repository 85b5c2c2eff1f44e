"""LoRA, four bits and fine-tuning: files of others, faults, resuming, and what the notebooks' own checks leave open."""

import copy
import json
import math
import os
import pickle

import numpy as np
import pytest

torch = pytest.importorskip("torch")
import torch.nn.functional as F  # noqa: E402
from torch import nn  # noqa: E402

from aimt.core.errors import AimtError, DataError, ModelFormatError, ProblemError, RunError  # noqa: E402
from aimt.data.text.tokenizer import train_tokenizer  # noqa: E402
from aimt.models.layers import lora, nf4  # noqa: E402
from aimt.models.text.gpt import GPT, GPT2_RULES, GPTConfig, gpt_loss  # noqa: E402
from aimt.models.layers.transformer import Block, BlockConfig, LayerNorm  # noqa: E402
from aimt.models.layers.pretrained import KeyRule, load_weights, save_weights  # noqa: E402
from aimt.train.networks import finetune as ft  # noqa: E402
from aimt.train.networks import instruction_tuning, layer_rates  # noqa: E402
from aimt.train.loop.trainer import TrainConfig, Trainer  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_drawing")

torch.set_num_threads(1)
CONFIG = GPTConfig(40, 2, 2, 16, 24)
IDS = torch.arange(24).view(2, 12) % 40


def shaken(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model with weights, corrections included, that are large enough to show mistakes."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=g), alpha=0.1)
    return model


def adapted(config: GPTConfig = CONFIG, **options) -> tuple[GPT, GPT]:
    """A base and the same with trained-looking corrections; the base weights are equal."""
    torch.manual_seed(0)
    base = shaken(GPT(config)).eval()
    model = copy.deepcopy(base)
    lora.add_lora(model, **({"rank": 3} | options))
    g = torch.Generator().manual_seed(1)
    for _, p in lora.lora_parameters(model):
        p.data.normal_(std=0.1, generator=g)
    return base, model


def steps_of(model: nn.Module, n: int = 8):
    """Batches that can be learned: count upwards."""
    for i in range(n):
        start = torch.randint(40, (4, 1), generator=torch.Generator().manual_seed(i))
        ids = (start + torch.arange(13)) % 40
        yield {"ids": ids[:, :-1], "targets": ids[:, 1:]}


COUNTING = list(steps_of(None, 30))
QUIET = {"precision": "fp32", "device": "cpu"}


# ---- LoRA


@pytest.mark.parametrize("targets", ["attention", "all", ["mlp.up", "blocks.1.attn.out"]])
def test_merged_is_unmerged(targets):
    base, model = adapted(GPTConfig.preset("gpt2", vocab_size=40, n_layer=2, n_head=2, n_embd=16, context=24), targets=targets)
    layers = lora.lora_layers(model).values()
    with torch.no_grad():
        for layer in layers:  # a layer by itself: to 1e-6 of its largest output
            x = torch.randn(50, layer.in_features, generator=torch.Generator().manual_seed(2))
            apart = layer(x)
            layer.merge()
            assert (apart - layer(x)).abs().max() < 1e-6 * apart.abs().max()
            layer.unmerge()
        for dtype, bound in ((torch.float32, 5e-6), (torch.float64, 1e-13)):  # layers on layers make rounding larger
            base, model = base.to(dtype), model.to(dtype)
            apart = model(IDS)
            lora.merge_lora(model)
            lora.merge_lora(model)  # twice is once
            together = model(IDS)
            lora.unmerge_lora(model)
            assert (apart - base(IDS)).abs().max() > 0.01
            assert (apart - together).abs().max() <= bound * max(1.0, float(apart.abs().max()))
            assert torch.equal(model(IDS), apart)
        lora.remove_lora(model)
        assert torch.equal(model(IDS), base(IDS))
    assert list(model.state_dict()) == list(base.state_dict())


def test_only_the_corrections_learn():
    base, model = adapted(targets="all", rank=2)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    Trainer(model, COUNTING, gpt_loss, TrainConfig(steps=5, lr=1e-2, **QUIET)).fit()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, before[n])}
    assert changed == {n for n, _ in lora.lora_parameters(model)}


def test_writing_with_a_cache():
    """Token by token with a cache: the same as all at once, with corrections and with them merged."""
    _, model = adapted(targets="all")
    with torch.no_grad():
        whole = model(IDS)
        for merged in (False, True):
            if merged:
                lora.remove_lora(model, merge=True)
            cache = model.new_cache(2, 24)
            pieces = torch.cat([model(part, cache=cache) for part in IDS.split([7, 1, 4], dim=1)], 1)
            assert (whole - pieces).abs().max() < 1e-5


def test_dropout_is_for_training_only():
    _, model = adapted(dropout=0.5)
    model.eval()
    assert torch.equal(model(IDS), model(IDS))
    model.train()
    assert not torch.equal(model(IDS), model(IDS))


def test_bf16_and_half_weights():
    base, model = adapted(targets="all")
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        low = model(IDS).float()
    assert (low - model(IDS)).abs().max() < 0.1 * model(IDS).abs().max()
    layer = lora.LoRALinear(nn.Linear(4, 6).bfloat16(), 2)  # a base in half precision, corrections in full
    assert layer(torch.randn(3, 4).bfloat16()).dtype == torch.bfloat16 and layer.lora_A.dtype == torch.float32
    layer.merge()
    assert layer.base.weight.dtype == torch.bfloat16


def test_tied_head_is_left_alone():
    model = nn.ModuleDict({"embed": nn.Embedding(9, 4), "body": nn.Linear(4, 4), "out": nn.Linear(4, 9, bias=False)})
    model["out"].weight = model["embed"].weight
    assert list(lora.linear_layers(model, "all")) == ["body"]
    lora.add_lora(model, 2, targets=["out"])  # by name it can be done
    nn.init.ones_(model["out"].lora_B)
    table = model["embed"].weight.clone()
    lora.remove_lora(model, merge=True)
    assert torch.equal(model["embed"].weight, table) and not torch.equal(model["out"].weight, table)


def test_new_head_is_trained_and_saved(tmp_path):
    model = nn.ModuleDict({"attn": nn.Linear(4, 4), "classifier": nn.Linear(4, 2)})
    base = copy.deepcopy(model)
    lora.add_lora(model, 2, targets="all", train=["classifier"])
    assert isinstance(model["classifier"], nn.Linear) and model["classifier"].weight.requires_grad
    shaken(model)
    model["attn"].base.load_state_dict(base["attn"].state_dict())
    lora.save_adapters(model, tmp_path)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["modules_to_save"] == ["classifier"]
    again = copy.deepcopy(base)
    lora.load_adapters(again, tmp_path)
    x = torch.randn(3, 4)
    assert torch.equal(again["classifier"](again["attn"](x)), model["classifier"](model["attn"](x)))
    assert again["classifier"].weight.requires_grad and not again["attn"].base.weight.requires_grad


# ---- files, in the names of peft


def test_names_of_peft(tmp_path):
    """Checked once against peft 0.21.2, in both directions; the names are fixed here."""
    again, model = adapted(targets="all")
    lora.save_adapters(model, tmp_path, rules=GPT2_RULES, prefix="transformer.", base="gpt2")
    tensors = load_weights(tmp_path / "adapter_model.safetensors")
    assert {tuple(t.shape) for n, t in tensors.items() if "c_attn.lora_B" in n} == {(48, 3)}
    layers = {n.removeprefix("base_model.model.transformer.h.0.").split(".lora_")[0] for n in tensors if ".h.0." in n}
    assert layers == {"attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"}
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    wanted = {
        "peft_type": "LORA",
        "r": 3,
        "lora_alpha": 16.0,
        "fan_in_fan_out": True,
        "bias": "none",
        "rank_pattern": {},
        "alpha_pattern": {},
        "base_model_name_or_path": "gpt2",
        "modules_to_save": None,
    }
    assert {k: settings[k] for k in wanted} == wanted
    assert len(settings["target_modules"]) == 8 and "transformer.h.1.mlp.c_fc" in settings["target_modules"]
    lora.load_adapters(again, tmp_path, rules=GPT2_RULES, prefix="transformer.")
    assert torch.equal(again(IDS), model(IDS))


def test_ranks_of_their_own(tmp_path):
    """Layers of different rank and alpha, and rank-stabilised scales, as peft writes them."""
    base, model = adapted(targets=["attn.qkv"])
    layer = model.blocks[1].attn
    layer.qkv = lora.LoRALinear(layer.qkv.base, 5, alpha=7.0)
    shaken(layer.qkv)
    layer.qkv.base.load_state_dict(base.blocks[1].attn.qkv.state_dict())
    lora.save_adapters(model, tmp_path)
    settings = json.loads((tmp_path / "adapter_config.json").read_text())
    assert len(settings["rank_pattern"]) == len(settings["alpha_pattern"]) == 1
    again = copy.deepcopy(base)
    lora.load_adapters(again, tmp_path)
    assert torch.allclose(again(IDS), model(IDS), atol=1e-5)
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings | {"use_rslora": True}))
    again = copy.deepcopy(base)
    lora.load_adapters(again, tmp_path)
    ratio = again.blocks[0].attn.qkv.scale / model.blocks[0].attn.qkv.scale
    assert math.isclose(ratio, math.sqrt(3), rel_tol=1e-6)


def _without_a(tensors):
    return {n: t for n, t in tensors.items() if not n.endswith("0.attn.qkv.lora_A.weight")}


def _cut(path):
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (lambda d, t: (d / "adapter_config.json").unlink(), "adapter_config.json"),
        (lambda d, t: (d / "adapter_config.json").write_text("{"), "damaged"),
        (lambda d, t: (d / "adapter_config.json").write_text('{"peft_type": "LOHA", "lora_alpha": 1}'), "'LOHA'"),
        (lambda d, t: (d / "adapter_config.json").write_text('{"peft_type": "LORA"}'), "lora_alpha"),
        (lambda d, t: (d / "adapter_model.safetensors").unlink(), "missing"),
        (lambda d, t: _cut(d / "adapter_model.safetensors"), "safetensors"),
        (lambda d, t: save_weights(d / "adapter_model.safetensors", _without_a(t)), "do not fit together"),
        (
            lambda d, t: save_weights(d / "adapter_model.safetensors", t | {"base_model.model.x.lora_magnitude_vector": torch.ones(1)}),
            "not supported",
        ),
        (lambda d, t: save_weights(d / "adapter_model.safetensors", t | {"base_model.model.new.weight": torch.ones(1)}), "new.weight"),
        (
            lambda d, t: save_weights(d / "adapter_model.safetensors", {n.replace("blocks", "layers"): v for n, v in t.items()}),
            "another network",
        ),
    ],
)
def test_bad_adapters(tmp_path, fault, message):
    base, model = adapted()
    lora.save_adapters(model, tmp_path)
    fault(tmp_path, load_weights(tmp_path / "adapter_model.safetensors"))
    before = base(IDS)
    with pytest.raises(ModelFormatError, match=message):
        lora.load_adapters(base, tmp_path)
    assert torch.equal(base(IDS), before) and not lora.lora_layers(base)  # nothing has happened


def test_pickle_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path}/ran",)

    base, model = adapted()
    lora.save_adapters(model, tmp_path)
    tensors = load_weights(tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_model.safetensors").unlink()
    torch.save(tensors, tmp_path / "adapter_model.bin")
    lora.load_adapters(copy.deepcopy(base), tmp_path)  # tensors alone are fine
    (tmp_path / "adapter_model.bin").write_bytes(pickle.dumps({"a": Evil()}, protocol=2))
    with pytest.raises(ModelFormatError, match="pickle"):
        lora.load_adapters(base, tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_rule_must_name_every_layer(tmp_path):
    _, model = adapted()
    with pytest.raises(ModelFormatError, match="no rule"):
        lora.save_adapters(model, tmp_path, rules=[KeyRule("other.weight", "x.weight")])


# ---- four bits


def test_four_bits_give_the_gradients_of_the_rounded_weights():
    base = shaken(GPT(CONFIG))
    four = copy.deepcopy(base)
    nf4.quantize_nf4(four)
    rounded = copy.deepcopy(base)
    for name, layer in lora.linear_layers(rounded).items():
        layer.weight.data.copy_(four.get_submodule(name).weight)
    grads = []
    for model in (four, rounded):
        torch.manual_seed(0)
        lora.add_lora(model, 3, targets="all")
        shaken_b = torch.Generator().manual_seed(2)
        for _, p in lora.lora_parameters(model):
            p.data.normal_(generator=shaken_b)
        gpt_loss(model, COUNTING[0]).backward()
        grads.append([p.grad for _, p in lora.lora_parameters(model)])
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*grads, strict=True))


def test_backward_keeps_no_dequantised_weights():
    layer = nf4.NF4Linear(nn.Linear(96, 80))
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
        layer(torch.randn(3, 96, requires_grad=True)).sum().backward()
    assert max(kept, default=0) < 96 * 80


@pytest.mark.parametrize(("shape", "block"), [((5, 7), 64), ((64, 64), 64), ((130, 33), 32), ((1, 1), 2)])
def test_round_trip_of_blocks(shape, block):
    w = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    for double in (False, True):
        layer = nn.Linear(shape[1], shape[0])
        layer.weight.data.copy_(w)
        four = nf4.NF4Linear(layer, block=block, double=double)
        gap = (nf4.nf4_values()[1:] - nf4.nf4_values()[:-1]).max() / 2
        assert four.weight.shape == w.shape and (four.weight - w).abs().max() <= (float(gap) + 0.02) * w.abs().max()
    assert torch.equal(nf4.NF4Linear(four_again(four), block=block, double=False).weight.sign(), four.weight.sign())


def four_again(layer) -> nn.Linear:
    plain = nn.Linear(layer.in_features, layer.out_features)
    plain.weight.data.copy_(layer.weight)
    return plain


def test_bits_per_weight():
    layer = nf4.NF4Linear(nn.Linear(512, 512, bias=False))
    stored = sum(b.numel() * b.element_size() for n, b in layer.named_buffers() if n != "pairs")
    assert 4.12 < 8 * stored / 512**2 < 4.13
    loaded = nf4.NF4Linear(nn.Linear(512, 512, bias=False))
    loaded.load_state_dict(layer.state_dict())  # as a checkpoint does
    assert torch.equal(loaded.weight, layer.weight)


# ---- fine-tuning


class Encoder(nn.Module):
    """Numbers in, classes out."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(4, 16)
        self.blocks = nn.ModuleList(Block(BlockConfig(16, 2)) for _ in range(2))
        self.norm = LayerNorm(16)
        self.classifier = nn.Linear(16, 3)

    def forward(self, x):
        h = self.embed(x)
        for block in self.blocks:
            h = block(h)
        return self.classifier(self.norm(h).mean(1))


def task(n: int, seed: int = 0) -> tuple:
    """Three kinds of short sequences, told apart by the one that rises somewhere."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(3, (n,), generator=g)
    x = 0.5 * torch.randn(n, 6, 4, generator=g)
    x[torch.arange(n), torch.randint(6, (n,), generator=g), y] += 3
    return x, y


def batches(n: int, seed: int = 0, size: int = 12) -> list:
    x, y = task(n, seed)
    return [{"x": x[i : i + size], "y": y[i : i + size]} for i in range(0, n, size)]


def class_loss(model, batch):
    return F.cross_entropy(model(batch["x"]), batch["y"])


def accuracy(model):
    x, y = task(200, 9)
    z = model(x)
    return {"valid_loss": F.cross_entropy(z, y), "accuracy": (z.argmax(1) == y).float()}


def test_snapshot_of_the_groups():
    """Which parameters learn how fast and are pulled to zero how strongly. Changes here change every fine-tuning."""
    model = Encoder()
    layer_rates.set_layer_lr(model, decay=0.9, head=["classifier"], head_scale=25)
    rows = [
        (round(r["lr"] / 4e-5, 4), r["weight_decay"], r["weights"], len(r["parameters"]))
        for r in layer_rates.group_table(model, lr=4e-5, weight_decay=0.01)
    ]
    block = 16 * 48 + 16 * 16 + 2 * 16 * 64, 48 + 16 + 64 + 16 + 4 * 16
    assert rows == [
        (25.0, 0.01, 48, 1),
        (25.0, 0.0, 3, 1),
        (1.0, 0.0, 32, 2),
        (0.9, 0.01, block[0], 4),
        (0.9, 0.0, block[1], 8),
        (0.81, 0.01, block[0], 4),
        (0.81, 0.0, block[1], 8),
        (0.729, 0.01, 64, 1),
        (0.729, 0.0, 16, 1),
    ]
    lora.add_lora(model, 2, train=["classifier"])
    named = [n for r in layer_rates.group_table(model, lr=1.0) for n in r["parameters"]]
    assert sorted(named) == sorted(n for n, p in model.named_parameters() if p.requires_grad)


def test_recipes():
    assert set(ft.FINETUNE) == {"bert", "gpt", "t5", "clip", "deepspeech"}
    for recipe in ft.FINETUNE.values():
        assert recipe.why and recipe.source and 0 < recipe.lr < 1e-3
        TrainConfig(steps=1, lr=recipe.lr, schedule=recipe.schedule, warmup=recipe.warmup, betas=recipe.betas)
    assert ft.FINETUNE["clip"].weight_interpolation == 0.5 and ft.FINETUNE["bert"].head_scale > 1


def test_heights_of_towers():
    """Two towers and a temperature, as in CLIP: each counts for itself."""

    class Tower(nn.Module):
        def __init__(self, n):
            super().__init__()
            self.places = nn.Parameter(torch.zeros(3, 4))
            self.blocks = nn.ModuleList(Block(BlockConfig(4, 1)) for _ in range(n))
            self.norm, self.project = LayerNorm(4), nn.Linear(4, 4)

    model = nn.ModuleDict({"image": Tower(3), "text": Tower(2)})
    model.register_parameter("logit_scale", nn.Parameter(torch.tensor(2.6)))
    far = layer_rates.layer_depths(model)
    names = ("logit_scale", "image.places", "image.blocks.0.mlp.up.weight", "text.places", "text.project.weight", "image.norm.bias")
    assert [far[n] for n in names] == [0, 4, 3, 3, 0, 0]
    assert set(layer_rates.stacks(model)) == {"image.blocks", "text.blocks"}


@pytest.mark.parametrize("options", [{}, {"lora": 2}, {"freeze": ["embed", "blocks.0"]}, {"unfreeze_every": 2}])
def test_same_seed_same_result(options):
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(0)
        model = Encoder()
        torch.manual_seed(seed + 77)  # what happened before must not matter
        out = ft.finetune(
            model, batches(48), class_loss, family="bert", head=["classifier"], lr=1e-2, steps=6, seed=seed, **QUIET, **options
        )
        assert out.history.stopped == "steps"
        results.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert torch.equal(results[0], results[1])
    if "lora" in options:
        assert not torch.equal(results[0], results[2])


class StopAt:
    """Interrupts a run."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer, row):
        if trainer.step == self.step:
            trainer.stop()


@pytest.mark.parametrize(
    "options",
    [{"lora": {"rank": 2, "dropout": 0.2}}, {"unfreeze_every": 3, "weight_interpolation": 0.5}, {"lora": {"rank": 2, "nf4": True}}],
)
def test_resumed_is_uninterrupted(tmp_path, options):
    options = {"family": "bert", "head": ["classifier"], "lr": 1e-2, "steps": 12, "save_every": 4, **QUIET} | options

    def fresh():
        torch.manual_seed(0)
        return Encoder()

    whole, again = fresh(), fresh()
    ft.finetune(whole, batches(48), class_loss, **options)
    cut = dict(options, weight_interpolation=1.0)
    ft.finetune(fresh(), batches(48), class_loss, folder=tmp_path, hooks=[StopAt(5)], **cut)
    ft.finetune(again, batches(48), class_loss, folder=tmp_path, resume=True, **options)
    for (name, a), b in zip(whole.named_parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b), name


@pytest.mark.parametrize("options", [{}, {"lora": {"rank": 4, "targets": "all"}}])
def test_five_seeds_do_not_collapse(options):
    for seed in range(5):
        torch.manual_seed(seed)
        model = Encoder()
        lr = {"lr": 2e-2} if options else {"lr": 3e-3}
        out = ft.finetune(
            model,
            batches(96, seed),
            class_loss,
            family="bert",
            head=["classifier"],
            steps=40,
            seed=seed,
            evaluate=accuracy,
            **lr,
            **QUIET,
            **options,
        )
        guesses = model(task(200, 9)[0]).argmax(1)
        assert len(guesses.unique()) == 3 and out.figures["accuracy"]["after"] > 0.7, (seed, out.figures)


def test_what_was_forgotten():
    """The original task is measured with the same care: paired, with an interval."""
    torch.manual_seed(0)
    model = Encoder()
    ft.finetune(model, batches(96), class_loss, family="bert", lr=1e-2, steps=40, **QUIET)
    wrong = [{"x": b["x"], "y": (b["y"] + 1) % 3} for b in batches(96)]
    out = ft.finetune(model, wrong, class_loss, family="bert", lr=1e-2, steps=40, retention_data=accuracy, **QUIET)
    row = out.forgotten["accuracy"]
    assert row["before"] > 0.7 and row["after"] < 0.3 and row["high"] < -0.3 and out.figures == {}
    assert [r["task"] for r in out.rows()] == ["original", "original"]


def test_second_task_on_the_same_adapters(tmp_path):
    """Adapters that were loaded can be trained on; a frozen model cannot, and says so."""
    torch.manual_seed(0)
    base = Encoder()
    first = copy.deepcopy(base)
    ft.finetune(first, batches(48), class_loss, family="bert", head=["classifier"], lora={"rank": 2, "train": ["norm"]}, steps=4, **QUIET)
    assert first.norm.weight.requires_grad and first.classifier.weight.requires_grad
    lora.save_adapters(first, tmp_path)
    again = copy.deepcopy(base)
    lora.load_adapters(again, tmp_path)
    x = task(5)[0]
    assert torch.equal(again(x), first(x))
    out = ft.finetune(again, batches(48), class_loss, family="bert", steps=4, **QUIET)
    assert math.isclose(out.config.lr, 5e-4) and not torch.equal(again(x), first(x))
    lora.remove_lora(again, merge=True)
    again.requires_grad_(False)
    with pytest.raises(ProblemError, match="everything is frozen"):
        ft.finetune(again, batches(48), class_loss, family="bert", steps=4, **QUIET)


def test_average_with_lora_scales_the_correction():
    torch.manual_seed(0)
    base = Encoder()
    outs = {}
    for share in (1.0, 0.5, 0.0):
        model = copy.deepcopy(base)
        ft.finetune(model, batches(48), class_loss, family="bert", lr=1e-2, lora=2, steps=6, weight_interpolation=share, **QUIET)
        lora.remove_lora(model, merge=True)
        outs[share] = model.blocks[0].attn.qkv.weight - base.blocks[0].attn.qkv.weight
    assert outs[1.0].abs().max() > 1e-3 and outs[0.0].abs().max() == 0
    assert torch.allclose(outs[0.5], outs[1.0] / 2, atol=1e-7)


def test_four_bits_by_option():
    model = GPT(GPTConfig(40, 2, 2, 32, 24))
    out = ft.finetune(
        model,
        COUNTING,
        gpt_loss,
        lora={"rank": 4, "targets": "all", "nf4": True, "train": ["embed"]},
        lr=2e-2,
        steps=30,
        evaluate=lambda m: {"loss": gpt_loss(m, COUNTING[-1])},
        **QUIET,
    )
    assert out.figures["loss"]["change"] < -0.5
    assert sum(isinstance(m, nf4.NF4Linear) for m in model.modules()) == 8


def test_patience_keeps_the_best():
    torch.manual_seed(0)
    seen = []

    def rising(model):
        seen.append(model.classifier.weight.detach().clone())
        return {"valid_loss": float(len(seen))}

    model = Encoder()
    out = ft.finetune(model, batches(48), class_loss, family="bert", lr=1e-2, steps=40, patience=2, eval_every=2, evaluate=rising, **QUIET)
    assert out.history.stopped == "patience" and len(out.history.steps) == 6
    assert torch.equal(model.classifier.weight, seen[1])  # of the first evaluation in training; seen[0] is the one before


def test_time_limit_decides_the_steps():
    out = ft.finetune(Encoder(), batches(48), class_loss, family="bert", lr=1e-3, time_limit=0.5, **QUIET)
    assert out.history.stopped == "steps" and len(out.history.steps) != 1000
    few = ft.finetune(Encoder(), batches(48), class_loss, family="bert", lr=1e-3, time_limit=500, steps=7, **QUIET)
    assert len(few.history.steps) == 7
    epochs = ft.finetune(Encoder(), batches(48), class_loss, family="bert", lr=1e-3, **QUIET)
    assert len(epochs.history.steps) == 3 * 4  # three epochs of four batches


def test_the_rate_of_bert_goes_with_the_width():
    """Twice as narrow, twice the rate; a model without a width, and families without one, take the rate as it is."""
    from aimt.models.text.bert import BERTConfig
    from aimt.models.text.text_classification import BERTForClassification

    def rate(width, **options):
        model = BERTForClassification(BERTConfig(20, 1, 2, width, context=8, labels=("a", "b")))
        batch = {"ids": torch.arange(16).view(2, 8), "targets": torch.tensor([0, 1])}
        return ft.finetune(
            model, [batch], lambda m, b: m(b["ids"], targets=b["targets"]), steps=1, **{"family": "bert"} | QUIET | options
        ).config.lr

    assert math.isclose(rate(64), 2 * rate(128)) and math.isclose(rate(64, lora=2), 10 * rate(64))
    assert rate(64, lr=1e-3) == 1e-3 and rate(64, family="gpt") == rate(128, family="gpt") == ft.FINETUNE["gpt"].lr
    assert math.isclose(ft.FINETUNE["bert"].lr * 768 / 64, rate(64))


def test_no_memory_says_what_to_do():
    def greedy(model, batch):
        raise MemoryError

    with pytest.raises(RunError, match="lora=8") as error:
        ft.finetune(Encoder(), batches(48), greedy, family="bert", gradient_checkpointing=True, **QUIET)
    assert "12 rows" in str(error.value)


def test_failures_leave_the_model_plain():
    """After an error neither rates nor recomputation nor freezing by a hook stay behind."""

    def broken(model, batch):
        raise ValueError("no")

    model = Encoder()
    with pytest.raises(ValueError, match="no"):
        ft.finetune(model, batches(48), broken, family="bert", unfreeze_every=2, gradient_checkpointing=True, **QUIET)
    assert all(p.requires_grad and not hasattr(p, "lr_scale") for p in model.parameters())
    assert type(model.blocks[0]) is Block


def test_checkpointing_gives_the_same_training():
    ends = []
    for gradient_checkpointing in (False, True):
        torch.manual_seed(0)
        model = GPT(GPTConfig(40, 2, 2, 16, 24, dropout=0.1))
        ft.finetune(model, COUNTING, gpt_loss, lr=1e-2, steps=4, gradient_checkpointing=gradient_checkpointing, **QUIET)
        ends.append(torch.cat([p.detach().flatten() for p in model.parameters()]))
    assert (ends[0] - ends[1]).abs().max() < 1e-6


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"family": "brt"}, "bert"),
        ({"freeze": ["embd"]}, "embed"),
        ({"head": ["clasifier"]}, "classifier"),
        ({"freeze": ["*"]}, "everything is frozen"),
        ({"lora": 2, "freeze": ["embed"]}, "together"),
        ({"lora": {"rank": 0}}, "rank 0"),
        ({"layerwise_lr_decay": 0.0}, "decay"),
        ({"unfreeze_every": -1}, "every"),
        ({"epochs": 3}, "epochs"),
        ({"steps": 0}, "steps=0"),
        ({"lora": {"targets": "mlp.upp"}}, "mlp.up"),
    ],
)
def test_mistakes(options, message):
    with pytest.raises(AimtError, match=message):
        ft.finetune(Encoder(), batches(24), class_loss, **{"family": "bert", "steps": 2} | QUIET | options)


# ---- conversations


TOKENIZER = train_tokenizer(["abc"], kind="byte", vocab_size=256)


def conversation(i: int) -> list:
    return [
        {"role": "system", "content": "s"},
        {"role": "user", "content": f"q{i}"},
        {"role": "assistant", "content": f"a{i}" * (1 + i % 3)},
        {"role": "user", "content": "more"},
        {"role": "assistant", "content": f"b{i}"},
    ]


def test_answers_only():
    template = {"system": ("<s>", ""), "user": ("<u>", ""), "assistant": ("<a>", "!")}
    e = instruction_tuning.encode_chat(conversation(4), TOKENIZER, template)
    text = TOKENIZER.decode([*e["ids"].tolist()])
    learned = [t for t in e["targets"].tolist() if t != -100]
    assert text == "<s>s<u>q4<a>a4a4!<u>more<a>b4!" and learned[-1] == TOKENIZER.eot_id
    assert TOKENIZER.decode(learned[:-1]) == "a4a4!b4!"
    assert all(t in (-100, n) for t, n in zip(e["targets"][:-1].tolist(), e["ids"][1:].tolist(), strict=True))
    start = instruction_tuning.chat_prompt(conversation(4)[:2], template)
    assert TOKENIZER.encode(start) == e["ids"][: len(start)].tolist()  # the prompt is what training has seen


def test_every_conversation_once_an_epoch():
    packed = instruction_tuning.ChatBatches([conversation(i) for i in range(50)], TOKENIZER, 1, 160, seed=3)
    found = []
    for _ in range(len(packed.rows)):
        batch = next(packed)
        for n in range(int(batch["documents"].max()) + 1):
            found.append(tuple(batch["ids"][batch["documents"] == n].tolist()))
    assert sorted(found) == sorted(tuple(instruction_tuning.encode_chat(conversation(i), TOKENIZER)["ids"].tolist()) for i in range(50))
    assert (batch["targets"][batch["documents"] == -1] == -100).all()


def test_bad_conversations():
    for bad, message in (
        ([{"role": "user", "content": "x"}], "nothing to learn"),
        ([{"role": "asistant", "content": "x"}], "assistant"),
        ([{"content": "x"}], "lacks"),
        ([], "nothing to learn"),
    ):
        with pytest.raises(DataError, match=message):
            instruction_tuning.encode_chat(bad, TOKENIZER)
    with pytest.raises(DataError, match="conversation 1"):
        instruction_tuning.ChatBatches([conversation(0), [{"role": "user", "content": "x"}]], TOKENIZER, 1, 99)
    with pytest.raises(DataError, match="no conversations"):
        instruction_tuning.ChatBatches([], TOKENIZER, 1, 99)


def test_class_weights_of_numpy_and_lists():
    for y in ([0, 0, 1], np.array([0, 0, 1]), torch.tensor([0, 0, 1])):
        assert torch.allclose(ft.class_weights(y, 2), torch.tensor([0.75, 1.5]))
    for y in ([], [0, 3], [-1, 0, 1]):
        with pytest.raises(DataError):
            ft.class_weights(y, 2)

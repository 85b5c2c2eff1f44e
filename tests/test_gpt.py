"""GPT against its oracle, and against damaged, foreign and newer files: what the notebooks' own checks leave open."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")

from aimt.core.errors import ModelFormatError, RunError  # noqa: E402
from aimt.models.layers import transformer as layers  # noqa: E402
from aimt.models.layers.token_loss import token_loss  # noqa: E402
from aimt.models.text.gpt import GPT, GPTConfig, gpt_eval, gpt_loss, ngram_ids  # noqa: E402
from aimt.models.layers.pretrained import FORMAT, load_weights, save_weights  # noqa: E402

torch.set_num_threads(1)
EXACT = GPTConfig.preset("gpt2", vocab_size=211, n_layer=3, n_head=4, n_embd=64, context=64)
MODERN = GPTConfig(211, 3, 4, 64, 64)
KINDS = {
    "gpt2": EXACT,
    "modern": MODERN,
    "grouped": replace(MODERN, n_kv_head=1, mlp="geglu", tied=False, logit_cap=15.0),
    "n-grams": replace(MODERN, ngram_orders=(2, 3, 5), ngram_buckets=300, value_embeddings=True, norm_scale=False),
}


def shaken(config: GPTConfig, seed: int = 0) -> GPT:
    """A model whose weights are large enough to show mistakes."""
    torch.manual_seed(seed)
    model = GPT(config).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape), alpha=0.08)
    return model


def greedy(model: GPT, ids, n: int, *, cached: bool, mask=None):
    """`n` greedy tokens after (B, L) ids, with a cache or by reading everything again."""
    out, cache = ids, model.new_cache(len(ids), ids.shape[1] + n) if cached else None
    new = ids
    for _ in range(n):
        if cached:
            first = new is ids
            z = model(new, cache=cache, mask=mask if first else None)[:, -1]
        else:
            full = None if mask is None else torch.cat([mask, torch.ones(len(ids), out.shape[1] - ids.shape[1]).bool()], 1)
            z = model(out, mask=full)[:, -1]
        new = z.argmax(-1, keepdim=True)
        out = torch.cat([out, new], dim=1)
    return out[:, ids.shape[1] :]


# ---- the oracle


@pytest.fixture(scope="module")
def transformers():
    package = pytest.importorskip("transformers")
    package.utils.logging.set_verbosity_error()
    package.utils.logging.disable_progress_bar()
    return package


def reference(transformers, **changes):
    size = {"vocab_size": 211, "n_layer": 3, "n_head": 4, "n_embd": 64, "n_positions": 64}
    options = size | {"bos_token_id": 0, "eos_token_id": 0}
    torch.manual_seed(1)
    model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**options | changes)).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape), alpha=0.08)
    return model


@pytest.mark.parametrize("changes", [{}, {"n_inner": 96}, {"tie_word_embeddings": False}, {"layer_norm_epsilon": 1e-3}])
def test_parity_with_transformers_both_ways(transformers, tmp_path, changes):
    theirs = reference(transformers, **changes)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = GPT.from_pretrained(tmp_path / "theirs").eval()
    ids = torch.randint(211, (3, 64))
    with torch.no_grad():
        assert theirs(ids).logits.std() > 0.3  # otherwise agreement would mean nothing
        assert (ours(ids) - theirs(ids).logits).abs().max() < 1e-5
        ours.save_pretrained(tmp_path / "ours")
        back = transformers.GPT2LMHeadModel.from_pretrained(tmp_path / "ours").eval()
        assert (back(ids).logits - ours(ids)).abs().max() < 1e-5


def test_gradients_and_loss_equal_those_of_transformers(transformers, tmp_path):
    theirs = reference(transformers)
    theirs.save_pretrained(tmp_path)
    ours, ids = GPT.from_pretrained(tmp_path), torch.randint(211, (2, 33))
    loss = theirs(ids, labels=ids).loss
    loss.backward()
    mine = gpt_loss(ours, {"ids": ids[:, :-1], "targets": ids[:, 1:]})
    mine.backward()
    assert abs(float(loss.detach() - mine.detach())) < 1e-5
    assert torch.allclose(ours.embed.weight.grad, theirs.transformer.wte.weight.grad, atol=1e-5)
    assert torch.allclose(ours.blocks[1].attn.qkv.weight.grad, theirs.transformer.h[1].attn.c_attn.weight.grad.mT, atol=1e-5)
    assert torch.allclose(ours.blocks[2].mlp.down.bias.grad, theirs.transformer.h[2].mlp.c_proj.bias.grad, atol=1e-5)


def test_a_model_in_several_files_and_a_half_precision_one_are_read(transformers, tmp_path):
    theirs = reference(transformers)
    theirs.save_pretrained(tmp_path / "shards", max_shard_size="100KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    ids = torch.randint(211, (1, 20))
    with torch.no_grad():
        assert (GPT.from_pretrained(tmp_path / "shards").eval()(ids) - theirs(ids).logits).abs().max() < 1e-5
        theirs.bfloat16().save_pretrained(tmp_path / "half")
        half = GPT.from_pretrained(tmp_path / "half").eval()
        assert half.embed.weight.dtype == torch.float32
        assert (half(ids) - theirs.float()(ids).logits).abs().max() < 1e-5


# ---- one text, many ways to read it


@pytest.mark.parametrize("name", KINDS)
def test_cached_generation_is_token_identical(name):
    model = shaken(KINDS[name])
    ids = torch.randint(211, (2, 9))
    with torch.no_grad():
        assert torch.equal(greedy(model, ids, 40, cached=True), greedy(model, ids, 40, cached=False))


@pytest.mark.parametrize("name", KINDS)
def test_a_ragged_batch_writes_what_each_text_writes_alone(name):
    model = shaken(KINDS[name])
    lengths = (1, 7, 12)
    texts = [torch.randint(211, (n,)) for n in lengths]
    ids, mask = torch.full((3, 12), 5), torch.zeros(3, 12, dtype=torch.bool)
    for b, t in enumerate(texts):
        ids[b, 12 - len(t) :], mask[b, 12 - len(t) :] = t, True
    with torch.no_grad():
        together = greedy(model, ids, 20, cached=True, mask=mask)
        assert torch.equal(together, greedy(model, ids, 20, cached=False, mask=mask))
        for b, t in enumerate(texts):
            assert torch.equal(together[b : b + 1], greedy(model, t[None], 20, cached=True))
        ids[~mask] = 99  # what stands in the padding does not matter
        assert torch.equal(together, greedy(model, ids, 20, cached=True, mask=mask))


def test_rolling_back_and_selecting_rows_leave_a_cache_as_if_nothing_had_happened():
    model = shaken(KINDS["n-grams"])
    ids, wrong = torch.randint(211, (3, 20)), torch.randint(211, (3, 6))
    with torch.no_grad():
        whole, cache = model(ids), model.new_cache(3, 30)
        model(ids[:, :10], cache=cache)
        for _ in range(3):
            model(wrong, cache=cache)
            cache.truncate(10)
        rows = torch.tensor([2, 0])
        cache.select(rows)
        assert (model(ids[rows, 10:], cache=cache) - whole[rows, 10:]).abs().max() < 1e-5


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_packed_loss_equals_unpacked(name, seed):
    model, rng = shaken(KINDS[name], seed), np.random.default_rng(seed)
    texts = [torch.from_numpy(rng.integers(0, 211, n)) for n in rng.integers(2, 14, 4)]
    nats = sum(float(gpt_loss(model, {"ids": t[None, :-1], "targets": t[None, 1:]}).detach()) * (len(t) - 1) for t in texts)
    packed = {
        "ids": torch.cat([t[:-1] for t in texts])[None],
        "targets": torch.cat([t[1:] for t in texts])[None],
        "documents": torch.cat([torch.full((len(t) - 1,), i) for i, t in enumerate(texts)])[None],
    }
    assert abs(float(gpt_loss(model, packed).detach()) - nats / packed["ids"].numel()) < 1e-6 * max(1, nats)


def test_without_document_numbers_packed_texts_do_see_each_other():
    model, ids = shaken(MODERN), torch.randint(211, (1, 20))
    documents = torch.tensor([[0] * 10 + [1] * 10])
    assert (model(ids) - model(ids, documents=documents))[:, 10:].abs().max() > 1e-2


# ---- training


def test_bf16_training_with_hand_written_gradients_follows_fp32(monkeypatch):
    """The fast path of the CPU learns as the plain one does, in both precisions."""
    data = torch.from_numpy(np.arange(6000) * 7919 % 61 * (np.arange(6000) % 5 > 0))

    def train(hand: bool, half: bool) -> float:
        torch.manual_seed(0)
        monkeypatch.setattr(layers, "by_hand", lambda x: hand)
        model = GPT(GPTConfig(64, 2, 2, 32, 32, ngram_orders=(2,), ngram_buckets=64))
        optimizer, losses = torch.optim.AdamW(model.parameters(), lr=3e-3), []
        for _ in range(60):
            at = torch.randint(len(data) - 33, (8,))
            window = data[at[:, None] + torch.arange(33)]
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                loss = gpt_loss(model, {"ids": window[:, :-1], "targets": window[:, 1:]})
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return float(np.mean(losses[-10:]))

    plain, by_hand, half = train(False, False), train(True, False), train(True, True)
    assert plain < 3.0 < math.log(64)  # it learned something
    assert abs(by_hand - plain) < 0.02
    assert abs(half - plain) < 0.05


def test_dropout_only_acts_in_training_and_keeps_the_fast_path():
    model = shaken(replace(KINDS["n-grams"], dropout=0.3, ngram_dropout=0.3))
    ids = torch.randint(211, (2, 16))
    assert torch.equal(model(ids), model(ids))
    model.train()
    assert (model(ids) - model(ids)).abs().max() > 1e-2
    with torch.autocast("cpu", torch.bfloat16):
        loss = gpt_loss(model, {"ids": ids, "targets": ids})
    names, todo = set(), [loss.grad_fn]
    while todo:
        node = todo.pop()
        if node is not None and node not in names:
            names.add(node)
            todo += [f for f, _ in node.next_functions]
    assert any(n.name().startswith("_Attend") for n in names)


def test_a_compiler_sees_one_graph_and_the_same_numbers():
    """What a GPU will use: the plain ways instead of the hand-written ones, without a break."""
    model, ids = shaken(KINDS["n-grams"]).train(), torch.randint(211, (2, 16))
    loss = gpt_loss(model, {"ids": ids, "targets": ids})
    compiled = torch.compile(model, backend="aot_eager", fullgraph=True)(ids, targets=ids)
    expected = torch.autograd.grad(loss, list(model.parameters()))
    assert abs(float((loss - compiled).detach())) < 1e-5
    got = torch.autograd.grad(compiled, list(model.parameters()))
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(got, expected, strict=True))
    torch.compiler.reset()


def test_recomputed_blocks_give_the_same_gradient_with_less_memory():
    ids = torch.randint(211, (2, 32))
    saved, grads = {}, {}
    for again in (False, True):
        torch.manual_seed(0)
        model = GPT(replace(MODERN, checkpoint_blocks=again)).train()
        total = [0]

        def count(t, total=total):
            total[0] += t.numel()
            return t

        with torch.autograd.graph.saved_tensors_hooks(count, lambda t: t):
            loss = gpt_loss(model, {"ids": ids, "targets": ids})
        loss.backward()
        saved[again], grads[again] = total[0], [p.grad for p in model.parameters()]
    assert saved[True] < saved[False] / 2
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads.values(), strict=True))


def test_loss_in_pieces_equals_the_whole_and_ignores_what_it_should():
    torch.manual_seed(0)
    h, weight = torch.randn(3, 50, 16, requires_grad=True), torch.randn(97, 16, requires_grad=True)
    targets = torch.randint(97, (3, 50))
    targets[1] = -100
    whole = token_loss(h, weight, targets)
    expected = torch.autograd.grad(whole, (h, weight))
    for rows in (1, 7, 64):
        pieces = token_loss(h, weight, targets, max_logits=97 * rows)
        got = torch.autograd.grad(pieces, (h, weight))
        assert abs(float((whole - pieces).detach())) < 5e-6
        assert all((a - b).abs().max() < 1e-6 for a, b in zip(got, expected, strict=True))
    with torch.no_grad():
        assert abs(float(token_loss(h, weight, targets, max_logits=97)) - float(whole.detach())) < 5e-6


def test_ngram_numbers_equal_a_plain_count_and_do_not_look_ahead():
    ids = torch.randint(50, (2, 30))
    rows = ngram_ids(ids, (2, 3), 51**3 + 1, 50)  # room for all: then every n-gram has a number of its own
    for order, column in ((2, 0), (3, 1)):
        seen: dict[tuple, int] = {}
        for b in range(2):
            for t in range(30):
                gram = tuple(int(ids[b, t - s]) if t >= s else None for s in range(order))
                assert seen.setdefault(gram, int(rows[b, t, column])) == int(rows[b, t, column])
        assert len(set(seen.values())) == len(seen)
    changed = ids.clone()
    changed[:, 20:] = 0
    hashed, other = (ngram_ids(i, (2, 3, 5), 64, 50) for i in (ids, changed))
    assert torch.equal(hashed[:, :20], other[:, :20]) and not torch.equal(hashed, other)
    assert int(hashed.min()) >= 0 and int(hashed.max()) < 3 * 64


def test_evaluation_counts_every_token_once_and_leaves_the_mode():
    model, tokens = shaken(MODERN).train(), np.random.default_rng(0).integers(0, 211, 333)
    figures = gpt_eval(model, tokens, batch_size=2, seq_len=32, n_characters=999)
    assert model.training
    model.eval()
    nats, n = 0.0, 0
    for at in range(0, 332, 32):
        part = torch.from_numpy(tokens[at : at + 33])[None]
        nats += float(gpt_loss(model, {"ids": part[:, :-1], "targets": part[:, 1:]}).detach()) * (part.shape[1] - 1)
        n += part.shape[1] - 1
    assert n == 332 and abs(figures["valid_loss"] - nats / n) < 1e-5
    assert abs(figures["bits_per_character"] - figures["valid_loss"] * 333 / 999 / math.log(2)) < 1e-9


# ---- files


@pytest.mark.parametrize("name", ["gpt2", "n-grams"])
def test_every_kind_of_damage_is_refused(tmp_path, name):
    shaken(KINDS[name]).save_pretrained(tmp_path)
    file, whole = tmp_path / "model.safetensors", (tmp_path / "model.safetensors").read_bytes()
    for tenth in range(10):
        file.write_bytes(whole[: len(whole) * tenth // 10])
        with pytest.raises(ModelFormatError):
            GPT.from_pretrained(tmp_path)
    rng = np.random.default_rng(0)
    for _ in range(30):
        damaged = bytearray(whole)
        damaged[rng.integers(len(whole))] ^= 1 << rng.integers(8)
        file.write_bytes(damaged)
        try:
            GPT.from_pretrained(tmp_path)
        except ModelFormatError:
            continue
        assert load_weights(file).keys() and _remarks_only(damaged, whole)
    file.unlink()
    with pytest.raises(ModelFormatError, match="missing"):
        GPT.from_pretrained(tmp_path)


def _remarks_only(a: bytes, b: bytes) -> bool:
    """Whether two files differ only in the free remarks of the header, where nothing depends on the bit."""
    at = next(i for i in range(len(a)) if a[i] != b[i])
    header = int.from_bytes(b[:8], "little")
    return 8 <= at < 8 + header and at < b.index(b"}", 8)


def test_another_model_and_a_newer_version_are_refused(tmp_path):
    shaken(EXACT).save_pretrained(tmp_path / "a")
    shaken(MODERN).save_pretrained(tmp_path / "b")
    (tmp_path / "mixed").mkdir()
    (tmp_path / "mixed" / "config.json").write_bytes((tmp_path / "a" / "config.json").read_bytes())
    (tmp_path / "mixed" / "model.safetensors").write_bytes((tmp_path / "b" / "model.safetensors").read_bytes())
    with pytest.raises(ModelFormatError, match="another kind of model"):
        GPT.from_pretrained(tmp_path / "mixed")
    for folder in ("a", "b"):
        config = tmp_path / folder / "config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"aimt_format": FORMAT + 1}))
        with pytest.raises(ModelFormatError, match="Update aimt"):
            GPT.from_pretrained(tmp_path / folder)
    with pytest.raises(ModelFormatError, match=r"config\.json"):
        GPT.from_pretrained(tmp_path / "nowhere")


def test_a_failed_save_leaves_the_old_weights(tmp_path, monkeypatch):
    model = shaken(MODERN)
    model.save_pretrained(tmp_path)
    before = (tmp_path / "model.safetensors").read_bytes()

    def full(fd):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="disk is full"):
        shaken(MODERN, seed=5).save_pretrained(tmp_path)
    monkeypatch.undo()
    assert (tmp_path / "model.safetensors").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 2  # no temporary file is left
    assert torch.equal(GPT.from_pretrained(tmp_path).embed.weight, model.embed.weight)


def test_weights_of_strange_shapes_survive(tmp_path):
    tensors = {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3), "half": torch.ones(2).half()}
    tensors["view"] = torch.arange(12.0).view(3, 4).T
    save_weights(tmp_path / "x.safetensors", tensors)
    again = load_weights(tmp_path / "x.safetensors")
    assert all(torch.equal(again[n], t) and again[n].dtype == t.dtype for n, t in tensors.items())


def test_importing_aimt_does_not_import_torch():
    code = "import sys, aimt, aimt.core.errors, aimt.core.hardware; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0

"""T5: the same numbers as `transformers` in both directions, every way to read and write, beam search, and bad input."""

import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file

from aimt.core.errors import DataError, ModelFormatError, ProblemError, RunError
from aimt.data.text.span_corruption import SpanBatches, TaskBatches, encode_pairs, pack_pairs, pad_pairs
from aimt.data.text.tokenizer import train_tokenizer
from aimt.generate.text.beam_search import answer_ids, beam_ids, beam_search, generate_beams, seq2seq_step
from aimt.models.text.gpt import GPT, GPTConfig
from aimt.models.text.t5 import T5, memory_mask, shift_right, t5_loss
from aimt.models.text.t5_config import PRESETS, T5Config, config_to_json
from aimt.train.loop.trainer import TrainConfig, Trainer

transformers = pytest.importorskip("transformers")
transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
torch.set_num_threads(1)

SIZE = {"vocab_size": 120, "d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 3, "num_heads": 4}
KINDS = {"v1.0": {"feed_forward_proj": "relu"}, "v1.1": {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}}


def shake(model, std=0.08, seed=0):
    """Weights large enough to tell mistakes."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape), alpha=std)
    return model.eval()


def oracle(folder, kind, **changes):
    """A model of `transformers` in a folder; that of v1.1 with an output layer of its own, which only a file can give."""
    config = transformers.T5Config(**SIZE, **KINDS[kind], decoder_start_token_id=0, **changes)
    shake(transformers.T5ForConditionalGeneration(config)).save_pretrained(folder)
    if kind == "v1.1":
        state = load_file(folder / "model.safetensors")
        torch.manual_seed(9)
        state["lm_head.weight"] = torch.randn(120, 64) * 0.08
        save_file(state, folder / "model.safetensors", {"format": "pt"})
    return transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()


def ragged(seed=1, shape=(3, 33), lengths=(33, 5, 20)):
    """Padded inputs with their mask, and decoder inputs."""
    torch.manual_seed(seed)
    mask = torch.arange(shape[1]) < torch.tensor(lengths)[:, None]
    return torch.randint(2, 120, shape) * mask, mask, torch.randint(2, 120, (shape[0], 17))


@pytest.fixture(scope="module")
def small():
    """A small T5 with large weights."""
    return shake(T5(T5Config(120, 2, 2, 4, d_model=32, d_kv=8, d_ff=48)), 0.2)


@pytest.mark.parametrize("kind", KINDS)
def test_same_numbers_as_transformers(tmp_path, kind):
    reference = oracle(tmp_path / "theirs", kind)
    ours = T5.from_pretrained(tmp_path / "theirs").eval()
    assert ours.config.tied == ours.config.scaled == (kind == "v1.0")
    ids, mask, write = ragged()
    with torch.no_grad():
        wanted = reference(ids, attention_mask=mask.long(), decoder_input_ids=write).logits
        found = ours(ids, write, mask)
        assert wanted.abs().max() > 1  # else everything agrees with everything
        assert (found - wanted).abs().max() < {"v1.0": 1e-5, "v1.1": 2e-5}[kind]
        targets = write.masked_fill(torch.rand(write.shape) < 0.3, -100)
        theirs = reference(ids, attention_mask=mask.long(), labels=targets).loss
        assert abs(t5_loss(ours, {"ids": ids, "mask": mask, "targets": targets}) - theirs) < 1e-5
        assert torch.equal(shift_right(targets, 0), reference._shift_right(targets))
        ours.save_pretrained(tmp_path / "ours")
        back = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
        back = back(ids, attention_mask=mask.long(), decoder_input_ids=write).logits
        assert (back - found).abs().max() < 2e-5
    again = T5.from_pretrained(tmp_path / "ours")
    assert again.config == ours.config
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), ours.state_dict().values(), strict=True))


def test_a_fresh_v11_of_transformers_is_tied_but_not_scaled(tmp_path):
    config = transformers.T5Config(**SIZE, **KINDS["v1.1"], decoder_start_token_id=0, num_decoder_layers=2)
    reference = shake(transformers.T5ForConditionalGeneration(config))
    reference.shared.weight.data *= 0.1  # else logits are in the hundreds
    reference.save_pretrained(tmp_path / "theirs")
    ours = T5.from_pretrained(tmp_path / "theirs").eval()
    assert ours.config.tied and not ours.config.scaled and len(ours.decoder.blocks) == 2
    ids, mask, write = ragged()
    with torch.no_grad():
        wanted = reference(ids, attention_mask=mask.long(), decoder_input_ids=write).logits
        assert (ours(ids, write, mask) - wanted).abs().max() < 2e-5
        ours.save_pretrained(tmp_path / "ours")
        back = transformers.T5ForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
        assert (back(ids, attention_mask=mask.long(), decoder_input_ids=write).logits - wanted).abs().max() < 2e-5
    assert T5.from_pretrained(tmp_path / "ours").config == ours.config


def test_old_files(tmp_path):
    """Copies of the embedding under other names, an output layer equal to it, fp16, and shards."""
    reference = oracle(tmp_path, "v1.0")
    state = load_file(tmp_path / "model.safetensors")
    table = state.pop("shared.weight")
    state |= {f"{n}.embed_tokens.weight": table.clone() for n in ("encoder", "decoder")} | {"lm_head.weight": table.clone()}
    state["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = torch.ones(32, 4)
    save_file({n: t.half() for n, t in state.items()}, tmp_path / "model.safetensors")
    ours = T5.from_pretrained(tmp_path)
    assert ours.config.tied and ours.embed.weight.dtype == torch.float32
    assert torch.equal(ours.embed.weight, reference.shared.weight.half().float())
    names = sorted(state)
    places = {n: f"model-0000{1 + (i % 2)}-of-00002.safetensors" for i, n in enumerate(names)}
    for file in set(places.values()):
        save_file({n: state[n].clone() for n in names if places[n] == file}, tmp_path / file)
    (tmp_path / "model.safetensors").unlink()
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    assert torch.equal(T5.from_pretrained(tmp_path).embed.weight, reference.shared.weight)


def test_sizes_of_the_published_models():
    published = {
        "t5-small": 60_506_624,
        "t5-base": 222_903_552,
        "t5-large": 737_668_096,
        "t5-v1_1-small": 76_961_152,
        "flan-t5-small": 76_961_152,
        "flan-t5-base": 247_577_856,
        "flan-t5-large": 783_150_080,
        "flan-t5-xl": 2_849_757_184,
    }
    with torch.device("meta"):
        found = {name: T5(T5Config.preset(name)).n_parameters() for name in published}
    assert found == published
    for name in PRESETS:
        told = config_to_json(T5Config.preset(name))
        with torch.device("meta"):
            theirs = transformers.T5ForConditionalGeneration(transformers.T5Config(**told))
            ours = T5(T5Config.preset(name, tied=True))
        assert ours.n_parameters() == theirs.num_parameters(), name  # a fresh one of theirs is always tied


def test_every_way_to_read_and_write(small):
    ids, mask, write = ragged()
    with torch.no_grad():
        whole = small(ids, write, mask)
        for b, n in enumerate((33, 5, 20)):  # alone, without padding
            assert (small(ids[b : b + 1, :n], write[b : b + 1]) - whole[b]).abs().max() < 1e-5
        cache = small.new_cache(small.encode(ids, mask), mask, max_len=17)
        pieces = [small.logits(small.decode(part, cache=cache)) for part in write.split([4, 1, 1, 8, 3], dim=1)]
        assert (torch.cat(pieces, 1) - whole).abs().max() < 1e-5
        cache.truncate(6)
        assert (small.logits(small.decode(write[:, 6:], cache=cache)) - whole[:, 6:]).abs().max() < 1e-5
        cache.truncate(6)
        rows = torch.tensor([2, 0, 0])
        cache.select(rows)  # other texts: what was read moves too
        assert (small.logits(small.decode(write[rows, 6:], cache=cache)) - whole[rows, 6:]).abs().max() < 1e-5
        cache.truncate(6)
        before = cache.memory[0][0]
        cache.select(torch.tensor([0, 2, 1]))  # rows of the same text change places: it need not
        assert cache.memory[0][0] is before
        assert (small.logits(small.decode(write[[2, 0, 0], 6:], cache=cache)) - whole[[2, 0, 0], 6:]).abs().max() < 1e-5
        changed = write.clone()
        changed[:, 9:] = 7
        assert (small(ids, changed, mask)[:, :9] - whole[:, :9]).abs().max() < 1e-6  # the future changes nothing
        with pytest.raises(ValueError, match="room for 16 tokens"):
            small.decode(write, cache=small.new_cache(small.encode(ids), max_len=16))


def test_packed_rows_have_the_loss_and_the_gradients_of_single_ones(small):
    torch.manual_seed(0)
    draw = lambda n: torch.randint(2, 120, (n,)).tolist()
    pairs = [(draw(n), draw(m)) for n, m in ((9, 4), (14, 3), (5, 6), (8, 2))]
    single, packed = pad_pairs(pairs, pad_id=0), pack_pairs(pairs, pad_id=0, read_len=24, write_len=12)
    assert len(packed["ids"]) == 2 and (packed["documents"] == -1).any() and (packed["target_documents"] == -1).any()
    found = {}
    for name, batch in {"single": single, "packed": packed}.items():
        small.zero_grad()
        loss = t5_loss(small, batch)
        loss.backward()
        found[name] = [loss.detach(), *(p.grad.clone() for p in small.parameters())]
    assert abs(found["single"][0] - found["packed"][0]) < 1e-6 * found["single"][0]  # about 5 nats
    assert all((a - b).abs().max() < 1e-5 for a, b in zip(found["single"], found["packed"], strict=True))
    forgotten = {k: v for k, v in packed.items() if "documents" not in k}
    assert abs(t5_loss(small, forgotten) - found["single"][0]) > 1e-3  # the numbers matter
    with pytest.raises(ValueError, match="both sides"):
        t5_loss(small, {k: v for k, v in packed.items() if k != "target_documents"})


def test_checkpointed_blocks_have_the_same_gradients(small):
    ids, mask, write = ragged()
    batch, grads = {"ids": ids, "mask": mask, "targets": write}, []
    for flag in (False, True):
        model = T5(replace(small.config, checkpoint_blocks=flag)).train()
        model.load_state_dict(small.state_dict())
        t5_loss(model, batch).backward()
        grads.append([p.grad for p in model.parameters()])
    assert all((a - b).abs().max() < 1e-6 for a, b in zip(*grads, strict=True))


def test_nothing_real_is_not_nan(small):
    ids, mask, write = ragged()
    mask[1] = False
    small.zero_grad()
    t5_loss(small, {"ids": ids, "mask": mask, "targets": write}).backward()
    assert all(torch.isfinite(p.grad).all() for p in small.parameters())
    assert memory_mask(mask)[1].all()


def test_bf16_is_safe_and_fp16_is_refused(small):
    ids, mask, write = ragged()
    twin = T5(small.config)
    twin.load_state_dict(small.state_dict())
    with torch.no_grad():
        wanted = small(ids, write, mask)
        twin = twin.bfloat16().eval()
        twin.decoder.blocks[1].mlp.down.weight.mul_(3e5)  # activations that fp16 cannot hold
        assert torch.isfinite(twin(ids, write, mask)).all()
        answer_ids(twin, ids.tolist(), max_new_tokens=4, num_beams=2)
    with torch.autocast("cpu", torch.bfloat16):
        loss = t5_loss(small.train(), {"ids": ids, "mask": mask, "targets": write})
        logits = small(ids, shift_right(write, 0), mask).float()
        assert abs(loss - F.cross_entropy(logits.flatten(0, 1), write.flatten())) < 0.1
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in small.parameters())
    small.eval()
    with pytest.raises(ProblemError, match="bf16"):
        twin.half()(ids, write)
    with torch.autocast("cpu", torch.float16), pytest.raises(ProblemError, match="fp16"):
        small(ids, write)
    assert wanted.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_beams_are_those_of_transformers(tmp_path, kind):
    reference = oracle(tmp_path, kind)
    ours = T5.from_pretrained(tmp_path).eval()
    ids, mask, _ = ragged(shape=(6, 12), lengths=(12, 9, 4, 12, 7, 2))
    rows = [row[m].tolist() for row, m in zip(ids, mask, strict=True)]
    greedy = [token for answer in answer_ids(ours, rows, max_new_tokens=10) for token in answer]
    end = max(set(greedy), key=greedy.count)  # so that some answers end
    ours.config = replace(ours.config, eos_id=end)
    ended = 0
    for k, penalty, early in ((1, 1.0, False), (4, 1.0, False), (4, 0.0, "never"), (3, 2.0, True), (5, 0.6, "never")):
        options = {"num_beams": k, "length_penalty": penalty, "early_stopping": early} if k > 1 else {}
        options |= {"max_new_tokens": 10}
        common = {"attention_mask": mask.long(), "do_sample": False, "eos_token_id": end}
        theirs = reference.generate(ids, **common, **options)
        wanted = [[int(t) for t in row[1:]] for row in theirs]
        wanted = [row[: row.index(end)] if end in row else row for row in wanted]
        found = answer_ids(ours, rows, **options)
        assert found == [row[: len(mine)] for row, mine in zip(wanted, found, strict=True)], (k, penalty, early)
        assert all(set(row[len(mine) :]) <= {0} for row, mine in zip(wanted, found, strict=True))
        ended += sum(len(row) < 10 for row in found)
    assert ended > 3  # some answers end by themselves


def test_sampling_is_that_of_the_whole_model(small):
    ids = [[5, 6, 7, 1], [9, 1], [11, 12, 13, 14, 15, 1]]
    drawn = answer_ids(small, ids, temperature=1.0, max_new_tokens=8, seed=3)
    assert drawn == answer_ids(small, ids, temperature=1.0, max_new_tokens=8, seed=3)
    assert drawn != answer_ids(small, ids, temperature=1.0, max_new_tokens=8, seed=4)
    for row, answer in zip(ids, answer_ids(small, ids, max_new_tokens=8), strict=True):  # greedy, against no cache at all
        text = [0]
        while len(text) < 9 and (token := int(small(torch.tensor([row]), torch.tensor([text]))[0, -1].argmax())) != 1:
            text.append(token)
        assert text[1:] == answer
    with pytest.warns(UserWarning, match="temperature"):
        answer_ids(small, ids, num_beams=2, temperature=1.0, max_new_tokens=2)


def test_texts_in_and_out():
    tokenizer = train_tokenizer("", "byte")
    config = T5Config.for_tokenizer(tokenizer, n_layer=1, n_head=2, d_model=16, d_kv=8, d_ff=16)
    assert (config.vocab_size, config.pad_id, config.eos_id) == (384, 257, 256)
    model = shake(T5(config), 0.5, seed=1)
    prompts = ["reverse: loop", "", "shout: é"]
    for options in ({}, {"num_beams": 3}, {"temperature": 0.7, "top_k": 5}):
        texts = model.generate(tokenizer, prompts, max_new_tokens=6, **options)
        assert len(texts) == 3 and all(isinstance(t, str) for t in texts)
        if "top_k" not in options:  # what is drawn depends on the row
            assert texts == [model.generate(tokenizer, p, max_new_tokens=6, **options) for p in prompts]
    full = model.generate(tokenizer, prompts[0], max_new_tokens=6)
    assert len(full) > 3
    assert "".join(model.generate(tokenizer, prompts[0], max_new_tokens=6, stream=True)) == full
    assert model.generate(tokenizer, [], max_new_tokens=6) == []
    assert model.generate(tokenizer, prompts[0], max_new_tokens=6, stop=full[2:4]) == full[: full.index(full[2:4])]
    cut = model.generate(tokenizer, "abc" * 9, max_read=4, max_new_tokens=4)
    assert cut == model.generate(tokenizer, "abc", max_new_tokens=4)
    with pytest.raises(ProblemError, match="streamed"):
        model.generate(tokenizer, prompts, stream=True)
    with pytest.raises(ProblemError, match="max_new_token"):
        model.generate(tokenizer, "x", max_new_token=3)


def test_a_tokenizer_of_another_model(small):
    with pytest.raises(ProblemError, match="257 tokens, and the model knows 120"):
        small.generate(train_tokenizer("", "byte"), "x")
    other = T5(T5Config(384, 1, 1, 1, d_model=8, d_kv=8, d_ff=8))
    with pytest.raises(ProblemError, match="end with token 256"):
        other.generate(train_tokenizer("", "byte"), "x")
    with pytest.raises(ValueError, match="token 120, but the vocabulary has 120"):
        small(torch.tensor([[3, 120]]), torch.tensor([[0]]))


def test_too_long_inputs_are_read_and_told():
    tokenizer = train_tokenizer("", "byte")
    model = T5(T5Config.for_tokenizer(tokenizer, n_layer=1, n_head=1, d_model=8, d_kv=8, d_ff=8, context=16)).eval()
    with pytest.warns(UserWarning, match="21 tokens, and this model was trained on up to 16"):
        model.generate(tokenizer, "x" * 20, max_new_tokens=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        model.generate(tokenizer, "x" * 20, max_new_tokens=1, max_read=16)
    with pytest.raises(DataError, match="input of pair 1.*at most 16"):
        encode_pairs([("x", "y"), ("x" * 20, "y")], tokenizer, max_read=16)
    with pytest.raises(ProblemError, match="no tokens"):
        answer_ids(model, [[5], []])


def test_folders_that_are_not_a_t5(tmp_path):
    T5(T5Config(50, 1, 1, 1, d_model=8, d_kv=8, d_ff=8)).save_pretrained(tmp_path)
    settings, state = json.loads((tmp_path / "config.json").read_text()), load_file(tmp_path / "model.safetensors")
    faults = {
        "'bert'": {"model_type": "bert"},
        "gated-silu": {"feed_forward_proj": "gated-silu"},
        r"missing encoder.blocks.1": {"num_layers": 2},
        r"\[50, 8\] and not \[50, 16\]": {"d_model": 16},
        "misstates": {"num_heads": "two"},
        "starts with 7": {"decoder_start_token_id": 7},
        "newer|Update": {"aimt_format": 99},
        "tensors of another kind": {"feed_forward_proj": "gated-gelu"},
    }
    for message, change in faults.items():
        (tmp_path / "config.json").write_text(json.dumps(settings | change))
        with pytest.raises(ModelFormatError, match=message):
            T5.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({k: v for k, v in settings.items() if k != "d_kv"}))
    with pytest.raises(ModelFormatError, match="d_kv"):
        T5.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(settings))
    twin = "decoder.block.0.layer.1.EncDecAttention.v.weight"
    for message, tensors in (
        ("missing encoder.blocks.0.mlp.down", {n: t for n, t in state.items() if "layer.1.DenseReluDense.wo" not in n}),
        (f"{twin} is missing", {n: t for n, t in state.items() if n != twin}),
        ("another kind.*classification_head", state | {"classification_head.weight": torch.ones(2)}),
    ):
        save_file(tensors, tmp_path / "model.safetensors")
        with pytest.raises(ModelFormatError, match=message):
            T5.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(ModelFormatError, match="safetensors"):
        T5.from_pretrained(tmp_path)
    with pytest.raises(ModelFormatError):
        T5.from_pretrained(tmp_path / "nowhere")


def test_settings_that_make_no_sense():
    for change, message in (
        ({"mlp": "gelu"}, "relu"),
        ({"n_layer": 0}, "n_layer"),
        ({"eos_id": 200}, "eos_id 200"),
        ({"d_kv": -1}, "d_kv"),
    ):
        with pytest.raises(ValueError, match=message):
            T5Config(100, **change)
    with pytest.raises(ValueError, match="flan-t5-small"):
        T5Config.preset("flan-t5-smal")
    with pytest.raises(ValueError, match="nothing to write"):
        T5(T5Config(50, 1, 1, 1, d_model=8, d_kv=8, d_ff=8))(torch.ones(1, 2, dtype=torch.int64))
    for change in ({"num_beams": 0}, {"length_penalty": float("nan")}, {"early_stopping": "soon"}, {"max_new_tokens": 0}):
        with pytest.raises(ProblemError, match=next(iter(change))):
            beam_search(lambda tokens, rows: torch.zeros(1, 3), **change)
    with pytest.raises(RunError, match="not numbers"):
        beam_search(lambda tokens, rows: torch.full((1, 3), float("nan")))


def test_beams_of_a_gpt_are_those_of_transformers(tmp_path):
    torch.manual_seed(0)
    size = {"vocab_size": 40, "n_layer": 2, "n_head": 2, "n_embd": 32, "n_positions": 32}
    config = transformers.GPT2Config(**size, bos_token_id=0, eos_token_id=0)
    shake(transformers.GPT2LMHeadModel(config), 0.15).save_pretrained(tmp_path)
    reference = transformers.GPT2LMHeadModel.from_pretrained(tmp_path).eval()
    ours = GPT.from_pretrained(tmp_path).eval()
    prompts = [[5, 9, 3], [7], [1, 2, 3, 4, 5, 6]]
    for k, penalty in ((3, 1.0), (4, 0.0)):
        found = beam_ids(ours, prompts, num_beams=k, eos_id=0, max_new_tokens=8, length_penalty=penalty)
        for prompt, beams in zip(prompts, found, strict=True):
            options = {"num_beams": k, "length_penalty": penalty, "num_return_sequences": k, "pad_token_id": 0}
            theirs = reference.generate(torch.tensor([prompt]), max_new_tokens=8, do_sample=False, **options)
            rows = [row[len(prompt) :].tolist() for row in theirs]
            assert [b.ids for b in beams] == [r[: r.index(0)] if 0 in r else r for r in rows]


def test_beams_of_a_gpt_as_text():
    tokenizer = train_tokenizer("", "byte")
    model = shake(GPT(GPTConfig(257, 1, 1, 16, 32)), 0.1)
    texts = generate_beams(model, tokenizer, ["ab", ""], num_beams=3, max_new_tokens=5)
    assert texts == [generate_beams(model, tokenizer, p, num_beams=3, max_new_tokens=5) for p in ("ab", "")]
    model.train()
    long = beam_ids(model, [[97] * 30], num_beams=2, max_new_tokens=12)  # beyond the context: the window moves
    assert len(long[0][0].ids) == 12 and model.training


def test_memory_is_read_once_in_a_search(small):
    calls = []
    handle = small.encoder.register_forward_hook(lambda *_: calls.append(1))
    beam_search(seq2seq_step(small, [[5, 1], [6, 7, 1]], 6), num_beams=3, max_new_tokens=6, eos_id=1)
    handle.remove()
    assert len(calls) == 1


def test_a_t5_learns_to_fill_spans():
    torch.manual_seed(0)
    ids = np.tile(np.arange(2, 12), 40)  # what comes next is certain
    batches = SpanBatches(ids, 32, 20, first_sentinel=63, eos_id=1, n_sentinels=20)
    model = T5(T5Config(64, 1, 1, 2, d_model=32, d_kv=16, d_ff=64))
    optimizer, losses = torch.optim.AdamW(model.parameters(), lr=5e-3), []
    for _ in range(120):
        loss = t5_loss(model, next(batches))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert np.mean(losses[-10:]) < 0.5 * np.mean(losses[:10])


class StopAt:
    """Ends a run in the middle."""

    def __init__(self, step):
        self.step = step

    def on_step(self, trainer, row):
        if row["step"] == self.step:
            trainer.stop()


def test_the_loop_trains_it_and_takes_it_up_again(tmp_path):
    tokenizer = train_tokenizer("", "byte")
    tasks = {"shout: ": [(w, w.upper()) for w in ("one", "two", "three")], "turn: ": [("abc", "cba"), ("de", "ed")]}

    def run(folder, hooks=(), resume=False):
        torch.manual_seed(0)
        model = T5(T5Config.for_tokenizer(tokenizer, n_layer=1, n_head=2, d_model=16, d_kv=8, d_ff=32, dropout=0.1))
        batches = TaskBatches(tasks, tokenizer, 4, pad_id=model.config.pad_id)
        settings = TrainConfig(steps=8, lr=1e-3, device="cpu", precision="fp32", save_every=2)
        trainer = Trainer(model, batches, t5_loss, settings, folder=tmp_path / folder, hooks=hooks)
        trainer.fit(resume=resume)
        return trainer

    whole = run("whole")
    assert run("parts", [StopAt(4)]).step < 8
    again = run("parts", resume=True)
    assert again.step == whole.step == 8
    assert all(torch.equal(a, b) for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True))

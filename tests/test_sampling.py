"""Writing with a model: bad prompts, text borders, ragged batches, rounding of weights, drafts."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import chisquare
from torch import nn

from aimt.core.errors import DataError, ProblemError, RunError
from aimt.data.text.tokenizer import train_tokenizer
from aimt.generate.text.sampling import Sampling, StopText, sample_tokens, filter_logits, generate, generate_ids
from aimt.generate.text.speculative import generate_speculative, speculate_ids
from aimt.models.text.gpt import GPT, GPTConfig
from aimt.models.layers.quantization import Int4Linear, Int8Linear, int4_block, n_bytes, quantize

pytestmark = pytest.mark.usefixtures("no_drawing")

torch.set_num_threads(1)


def random_gpt(vocab_size: int, seed: int = 0, **changes) -> GPT:
    """A small model with large random weights, so that it has opinions."""
    torch.manual_seed(seed)
    model = GPT(GPTConfig(**{"vocab_size": vocab_size, "n_layer": 2, "n_head": 2, "n_embd": 32, "context": 32} | changes))
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    return model.eval()


@pytest.fixture(scope="module")
def byte():
    return train_tokenizer("", "byte")


@pytest.fixture(scope="module")
def model(byte):
    return random_gpt(byte.vocab_size)


@pytest.fixture(scope="module")
def char(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "a.txt"
    path.write_text("the quick brown fox jumps over the lazy dog\n" * 3)
    return train_tokenizer(path, "char")


class Script(nn.Module):
    """A model that writes given tokens, whatever it is asked; it has the methods of a `GPT`."""

    def __init__(self, vocab_size: int, tokens: list[int], context: int = 10_000):
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.config = type("Config", (), {"vocab_size": vocab_size, "context": context})()
        self.tokens, self.at = tokens, 0

    def new_cache(self, batch_size, max_len):
        cache = type("Cache", (), {"length": 0, "max_len": max_len})()
        cache.select = lambda rows: None
        return cache

    def hidden(self, ids, cache=None, mask=None):
        cache.length += ids.shape[1]
        return torch.zeros(*ids.shape, 1)

    def logits(self, h):
        z = torch.zeros(len(h), self.config.vocab_size)
        z[:, self.tokens[self.at % len(self.tokens)]] = 50.0
        self.at += 1
        return z


# ---- prompts ------------------------------------------------------------------------------------------------------


def test_an_empty_prompt_starts_a_new_text(model, byte):
    settings = Sampling(max_new_tokens=10, seed=5)
    want = [step[0] for step in generate_ids(model, [[byte.eot_id]], settings, eot_id=byte.eot_id)]
    assert generate(model, byte, "", max_new_tokens=10, seed=5) == byte.decode(want)
    with pytest.raises(ProblemError, match="no tokens"):
        generate_ids(model, [[1], []], settings)
    with pytest.raises(ProblemError, match="no tokens"):
        generate_ids(model, [], settings)
    assert generate(model, byte, []) == []


@pytest.mark.parametrize("stream", [False, True])
def test_an_unknown_character_is_named_before_anything_is_written(char, stream):
    model = random_gpt(char.vocab_size)
    with pytest.raises(DataError, match="'\u017c'"):
        generate(model, char, "lazy \u017c", stream=stream)  # raised by the call, not by the first piece


def test_special_text_in_a_prompt_is_ordinary_text(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("a text about <|endoftext|> tokens, with <unk> and more! " * 5)
    for kind in ("byte", "char", "bpe"):
        tokenizer = train_tokenizer(path, kind, 300)
        model = Script(tokenizer.vocab_size, tokenizer.encode("<|endoftext|>!"))
        text = generate(model, tokenizer, "<|endoftext|>", max_new_tokens=len(model.tokens))
        assert tokenizer.eot_id not in tokenizer.encode("<|endoftext|>")
        assert text == "<|endoftext|>!"


def test_the_end_of_text_token_ends_the_text(byte):
    tokens = [*b"abc", byte.eot_id, *b"never"]
    assert generate(Script(byte.vocab_size, tokens), byte, "x", max_new_tokens=50) == "abc"
    assert generate(Script(byte.vocab_size, [byte.eot_id]), byte, "x", max_new_tokens=50) == ""
    assert generate(Script(byte.vocab_size, tokens), byte, "x", max_new_tokens=0) == ""


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_far_beyond_the_context_it_sees_three_quarters_to_all_of_it(byte, positions):
    model = random_gpt(byte.vocab_size, positions=positions)
    new = [s[0] for s in generate_ids(model, [list(b"begin")], Sampling(max_new_tokens=150, temperature=0))]
    text, start, places = list(b"begin"), 0, []
    for token in new:  # the rule of the window, without a cache
        if len(text) - start > 32:
            start = len(text) - 24
        with torch.no_grad():
            z = model(torch.tensor([text[start:]]))[0, -1]
        places.append(float(z.max() - z[token]))
        text.append(token)
    assert len(new) == 150 and max(places) < 1e-3


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_new_tokens": -1},
        {"max_new_tokens": 1.5},
        {"temperature": -0.1},
        {"temperature": math.nan},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_k": 2.5},
        {"top_p": 0.0},
        {"top_p": 1.01},
        {"min_p": -0.1},
        {"min_p": 2},
        {"repetition_penalty": 0},
        {"stop": ("",)},
        {"stop": (3,)},
        {"seed": -1},
        {"top_k": True},
        {"temperature": "hot"},
        {"top_p": "x"},
        {"nonsense": 1},
    ],
)
def test_settings_out_of_range_are_named(model, byte, wrong):
    with pytest.raises(ProblemError, match=next(iter(wrong))):
        generate(model, byte, "x", **wrong)


def test_a_broken_model_is_told_from_a_bad_setting(byte):
    model = random_gpt(byte.vocab_size)
    model.norm.weight.data.fill_(math.nan)
    for temperature in (0, 1.0):
        with pytest.raises(RunError, match="not numbers"):
            generate(model, byte, "x", temperature=temperature)


def test_training_mode_is_given_back(byte):
    model = random_gpt(byte.vocab_size).train()
    generate(model, byte, "x", max_new_tokens=3)
    assert model.training
    pieces = generate(model, byte, "x", max_new_tokens=30, stream=True)
    next(pieces)
    pieces.close()  # abandoned in the middle
    assert model.training
    assert all(p.grad is None for p in model.parameters()) and torch.is_grad_enabled()


# ---- text ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cut", range(1, 6))
def test_stop_strings_across_token_borders(byte, cut, tmp_path):
    """The text is the same however the tokens fall."""
    full = "one STO two STOP three"
    path = tmp_path / "a.txt"
    path.write_text((full[cut:] + "\n" + full + "\n") * 20)
    for tokenizer in (byte, train_tokenizer(path, "bpe", 270 + cut)):
        model = Script(tokenizer.vocab_size, tokenizer.encode(full[:cut]) + tokenizer.encode(full[cut:]))
        pieces = list(generate(model, tokenizer, "x", stream=True, stop=("STOP", "XX")))
        assert "".join(pieces) == "one STO two "
        assert model.at <= len(model.tokens)  # and no token was drawn after it


def test_the_earliest_of_several_stop_strings_counts():
    stop = StopText(["bcd", "c"])
    assert [stop.push(t) for t in "abcd"] == ["a", "", "b", ""] and stop.done
    never = StopText(["xyz"])
    assert "".join(never.push(t) for t in "axyaxy") + never.rest() == "axyaxy"
    nested = StopText(["aab"])
    assert "".join(nested.push(t) for t in "aaaab") + nested.rest() == "aa" and nested.done


def test_stopping_one_text_leaves_the_others_alone(model, byte):
    settings = {"max_new_tokens": 25, "temperature": 0}
    alone = [generate(model, byte, p, **settings) for p in ("a", "bb", "ccc")]
    stop = alone[1][3:5]
    want = [t.split(stop)[0] for t in alone]
    assert generate(model, byte, ["a", "bb", "ccc"], stop=stop, **settings) == want


def test_characters_of_several_bytes_arrive_whole(byte):
    text = "na\u00efve \U0001f600 \u4f60\u597d \U0001f469\u200d\U0001f4bb"
    model = Script(byte.vocab_size, list(text.encode()))
    pieces = list(generate(model, byte, "x", stream=True, max_new_tokens=len(text.encode())))
    assert pieces == list(text)
    broken = Script(byte.vocab_size, list("\U0001f600".encode()))
    assert generate(broken, byte, "x", max_new_tokens=3) == "\ufffd"


def test_a_stop_string_of_several_bytes(byte):
    model = Script(byte.vocab_size, list("ab\u20accd".encode()))
    assert generate(model, byte, "x", stop="\u20acc") == "ab"


def test_only_one_text_can_be_streamed(model, byte):
    with pytest.raises(ProblemError, match="one prompt"):
        generate(model, byte, ["a", "b"], stream=True)


# ---- batches ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"positions": "learned", "norm": "layer", "bias": True, "mlp": "gelu_tanh", "qk_norm": False},
        {"n_kv_head": 1, "ngram_orders": (2, 3), "ngram_buckets": 64, "value_embeddings": True, "tied": False},
    ],
)
def test_a_ragged_batch_equals_single_runs(changes):
    model = random_gpt(60, context=64, **changes)
    rng = np.random.default_rng(0)
    prompts = [rng.integers(0, 59, n).tolist() for n in (1, 30, 7, 2, 40)]
    settings = Sampling(max_new_tokens=20, temperature=0, repetition_penalty=1.1)
    together = list(zip(*generate_ids(model, prompts, settings), strict=True))
    assert together == [tuple(s[0] for s in generate_ids(model, [p], settings)) for p in prompts]


def test_rows_that_end_early_leave_the_others_alone():
    model = random_gpt(60, context=64)
    prompts, settings = [[1], [2, 3, 4], [5, 6], [7] * 9], Sampling(max_new_tokens=20, temperature=0)
    alone = [[s[0] for s in generate_ids(model, [p], settings)] for p in prompts]
    ended: set[int] = set()
    got: list[list[int]] = [[] for _ in prompts]
    for n, step in enumerate(generate_ids(model, prompts, settings, ended=ended)):
        for row, token in enumerate(step):
            assert (token is None) == (row in ended)
            got[row] += [] if token is None else [token]
        ended |= {2} if n == 3 else {0, 3} if n == 9 else set()
    assert got == [alone[0][:10], alone[1], alone[2][:4], alone[3][:10]]


def test_the_seed_decides_and_rows_differ(model, byte):
    settings = {"max_new_tokens": 20, "temperature": 1.0}
    assert generate(model, byte, "a", seed=1, **settings) == generate(model, byte, "a", seed=1, **settings)
    assert generate(model, byte, "a", seed=1, **settings) != generate(model, byte, "a", seed=2, **settings)
    assert len(set(generate(model, byte, ["a"] * 8, **settings))) == 8


# ---- filters, against transformers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.1},
        {"repetition_penalty": 1.3},
        {"temperature": 0.5},
        {"temperature": 1.7, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.2},
        {"top_k": 1},
        {"top_p": 1e-6},
        {"top_k": 500, "top_p": 1.0, "min_p": 1.0},
    ],
)
def test_filters_equal_those_of_transformers(settings):
    processors = pytest.importorskip("transformers.generation.logits_process")
    s = Sampling(**{"temperature": 1.0} | settings)
    z = 3 * torch.randn(8, 100, generator=torch.Generator().manual_seed(0))
    ids = torch.randint(0, 100, (8, 30), generator=torch.Generator().manual_seed(1))
    want = processors.RepetitionPenaltyLogitsProcessor(s.repetition_penalty)(ids, z.clone())
    want = processors.TemperatureLogitsWarper(s.temperature)(ids, want)
    for value, kind in (
        (s.top_k, processors.TopKLogitsWarper),
        (s.top_p, processors.TopPLogitsWarper),
        (s.min_p, processors.MinPLogitsWarper),
    ):
        want = want if value is None else kind(value)(ids, want)
    seen = torch.zeros(8, 100, dtype=torch.bool).scatter(1, ids, True)
    torch.testing.assert_close(filter_logits(z, s, seen), want, rtol=1e-5, atol=1e-5)
    u = (np.arange(5000) + 0.5) / 5000
    for row in range(3):  # and the fast draw has their probabilities
        drawn = sample_tokens(z[row].expand(5000, -1), s, u, seen[row].expand(5000, -1))
        shares = np.bincount(drawn, minlength=100) / 5000
        assert np.abs(shares - want[row].softmax(0).numpy()).max() < 5e-4


def test_draws_follow_the_probabilities():
    z = torch.tensor([[2.0, 1.0, 0.0, -1.0, -math.inf]])
    u = np.random.default_rng(0).random(20_000)
    counts = np.bincount(sample_tokens(z.expand(len(u), -1), Sampling(temperature=1.0), u), minlength=5)
    p = z.double().softmax(1)[0].numpy()
    assert counts[4] == 0 and chisquare(counts[:4], p[:4] * len(u)).pvalue > 1e-3
    assert sample_tokens(z, Sampling(temperature=1.0), np.array([1 - 1e-16])) == [3]  # the last slice, never past it


# ---- a draft ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("noise", [0.0, 0.05, 1.0])
@pytest.mark.parametrize("n_draft", [1, 5])
def test_greedy_with_a_draft_is_identical(noise, n_draft):
    large = random_gpt(60, ngram_orders=(2,), ngram_buckets=64)
    draft = random_gpt(60, ngram_orders=(2,), ngram_buckets=64)
    for p in draft.parameters():
        p.data += noise * torch.randn_like(p)
    settings, counts = Sampling(max_new_tokens=50, temperature=0), {}
    plain = [s[0] for s in generate_ids(large, [[3, 1, 4]], settings)]
    assert list(speculate_ids(large, draft, [3, 1, 4], settings, n_draft=n_draft, counts=counts)) == plain
    if noise == 0:  # not all are kept: the two windows move at different moments
        assert counts["kept"] > 0.8 * counts["guessed"] > 0


def test_a_draft_of_another_context_and_a_long_prompt():
    large, draft = random_gpt(60), random_gpt(60, seed=1, context=8)
    settings, prompt = Sampling(max_new_tokens=50, temperature=0), list(range(50))
    with pytest.warns(UserWarning, match="50 tokens"):
        plain = [s[0] for s in generate_ids(large, [prompt], settings)]
        assert list(speculate_ids(large, draft, prompt, settings)) == plain


def test_sampling_with_a_draft_is_exact():
    """The first three tokens of 300 texts have the joint distribution that the model's own probabilities give."""
    large, draft = random_gpt(3, n_layer=1), random_gpt(3, seed=9, n_layer=1)
    settings = Sampling(max_new_tokens=3, temperature=2.0, top_k=2)
    counts = np.zeros((3, 3, 3))
    for seed in range(300):
        one = Sampling(max_new_tokens=3, temperature=2.0, top_k=2, seed=seed)
        counts[tuple(speculate_ids(large, draft, [0], one, n_draft=2))] += 1
    want, wrong = (_joint(m, settings) for m in (large, draft))
    keep = want > 0
    assert counts[~keep].sum() == 0
    assert chisquare(counts[keep], want[keep] * 300).pvalue > 1e-3
    assert np.abs(counts / 300 - wrong).sum() > 0.2  # the draft alone would not do


def _joint(model: GPT, settings: Sampling) -> np.ndarray:
    out = np.zeros((3, 3, 3))
    for a in range(3):
        for b in range(3):
            with torch.no_grad():
                z = model(torch.tensor([[0, a, b]]))[0]
            p = filter_logits(z, settings).double().softmax(1).numpy()
            out[a, b] = p[0, a] * p[1, b] * p[2]
    return out


def test_text_with_a_draft(model, byte):
    draft = random_gpt(byte.vocab_size, n_layer=1)
    settings = {"max_new_tokens": 30, "temperature": 0}
    text = generate(model, byte, "once", **settings)
    assert generate_speculative(model, draft, byte, "once", **settings) == text
    assert "".join(generate_speculative(model, draft, byte, "once", stream=True, **settings)) == text
    stop = text[5:7]
    assert generate_speculative(model, draft, byte, "once", stop=stop, **settings) == text[: text.index(stop)]


def test_a_draft_of_another_vocabulary_is_refused(model):
    with pytest.raises(ProblemError, match="draft"):
        speculate_ids(model, random_gpt(10), [1], Sampling())


# ---- rounded weights ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["bf16", "int8", "int4"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"tied": False, "positions": "learned", "norm": "layer", "bias": True, "mlp": "gelu_tanh", "qk_norm": False},
        {"ngram_orders": (2, 3), "ngram_buckets": 64, "value_embeddings": True, "norm_scale": False, "n_kv_head": 1},
    ],
)
def test_a_rounded_model_writes_and_is_close(kind, changes):
    model = random_gpt(70, n_embd=64, **changes)
    small = quantize(model, kind)
    ids = torch.randint(0, 70, (2, 20), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        z, near = model(ids), small.logits(small.hidden(ids)).float()
    correlation = np.corrcoef(z.flatten(), near.flatten())[0, 1]
    assert correlation > {"bf16": 0.995, "int8": 0.99, "int4": 0.93}[kind]
    new = [step for step in generate_ids(small, [[1, 2], [3]], Sampling(max_new_tokens=40))]
    assert len(new) == 40 and all(0 <= t < 70 for step in new for t in step)
    assert n_bytes(small) < {"bf16": 0.75, "int8": 0.5, "int4": 0.45}[kind] * n_bytes(model)


@pytest.mark.parametrize("shape", [(64, 128), (65, 32), (7, 96), (200, 64)])
def test_one_row_and_many_rows_use_the_same_weights(shape):
    n, k = shape
    linear = nn.Linear(k, n)
    x = torch.randn(Int4Linear.MANY, k).bfloat16()
    for layer in (Int8Linear(linear), Int4Linear(linear)):
        many, one = layer(x), torch.cat([layer(row) for row in x[:, None]])
        torch.testing.assert_close(many, one, rtol=0.02, atol=0.02)
        plain = x.float() @ layer.weight.float().T + linear.bias
        torch.testing.assert_close(many.float(), plain, rtol=0.02, atol=0.02)


def test_without_kernels_the_result_is_the_same(monkeypatch):
    linear, x = nn.Linear(64, 48), torch.randn(3, 64).bfloat16()
    with_kernel = [Int8Linear(linear)(x), Int4Linear(linear)(x)]
    monkeypatch.setattr("aimt.models.layers.quantization.int4_block", lambda: 0)
    monkeypatch.setattr("aimt.models.layers.quantization.has_int8", lambda: False)
    without = [Int8Linear(linear), Int4Linear(linear)]
    assert without[1].block == 0
    for a, layer in zip(with_kernel, without, strict=True):
        torch.testing.assert_close(a, layer(x), rtol=0.02, atol=0.02)


def test_a_tied_table_of_eight_bits_is_stored_once():
    small = quantize(random_gpt(70), "int8")
    assert small.embed.head is small.head
    ids = torch.tensor([[3, 69, 3]])
    torch.testing.assert_close(small.embed(ids), small.head.weight[ids])


def test_weights_of_zero_and_huge_ones():
    linear = nn.Linear(64, 64, bias=False)
    linear.weight.data.zero_()
    linear.weight.data[1] = 1e30
    x = torch.ones(1, 64).bfloat16()
    for layer in (Int8Linear(linear), Int4Linear(linear)):
        y = layer(x).float()
        assert torch.isfinite(y).all() and y[0, 0] == 0 and abs(y[0, 1] / 64e30 - 1) < 0.02


def test_this_machine_has_the_kernel_or_falls_back():
    assert int4_block() in (0, 16, 32, 64)

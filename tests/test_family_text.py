"""GPT and T5 as families: from a file to a run and its verbs, what they refuse, and chrF and BLEU against sacrebleu."""

import json
import random
import warnings

import numpy as np
import pandas as pd
import pytest

torch = pytest.importorskip("torch")

import aimt  # noqa: E402
from aimt.core.errors import AimtError, DataError, ModelFormatError, ProblemError  # noqa: E402
from aimt.core.run import Run  # noqa: E402
from aimt.data.text.tokenizer import Tokenizer, train_tokenizer  # noqa: E402
from aimt.jobs.families import gpt  # noqa: E402
from aimt.jobs.families import t5  # noqa: E402
from aimt.jobs.families.base import split_pairs  # noqa: E402
from aimt.jobs.verbs.generate import generate  # noqa: E402
from aimt.metrics.text import bleu, chrf, compare_texts  # noqa: E402
from aimt.models.text.gpt import GPT, GPTConfig  # noqa: E402
from aimt.models.text.t5 import T5  # noqa: E402
from aimt.models.text.t5_config import T5Config  # noqa: E402
from aimt.train.networks.instruction_tuning import chat_prompt, encode_chat  # noqa: E402

pytestmark = pytest.mark.usefixtures("no_drawing", "brief")

torch.set_num_threads(1)
THINGS = {"cat": "animal", "dog": "animal", "bus": "vehicle", "car": "vehicle"}
QUESTIONS = [(f"{name} {i}", kind) for i in range(40) for name, kind in THINGS.items()]
TABLE = pd.DataFrame(QUESTIONS, columns=["prompt", "answer"])
PAIRS = pd.DataFrame([(f"kind: {a}", b) for a, b in QUESTIONS], columns=["source", "target"])
STORY = " ".join(f"The {a} {i} is a kind of {b}." for i in range(30) for a, b in THINGS.items())


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    path = tmp_path_factory.mktemp("text") / "story.txt"
    path.write_text(STORY + "\nQuestion: Answer:\n", encoding="utf-8")
    return train_tokenizer(path, "bpe", 320)


@pytest.fixture(scope="module")
def gpt_folder(tokenizer, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "gpt"
    GPT(GPTConfig(320, 2, 2, 32, context=48)).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def t5_folder(tokenizer, tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("models") / "t5"
    size = {"n_layer": 1, "n_head": 2, "d_model": 32, "d_kv": 16, "d_ff": 64, "context": 48}
    T5(T5Config.for_tokenizer(tokenizer, n_sentinels=1, **size)).save_pretrained(folder)
    tokenizer.save(folder)
    return folder


@pytest.fixture(scope="module")
def gpt_run(gpt_folder, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("gpt")
    talks = [[{"role": "user", "content": a}, {"role": "assistant", "content": b}] for a, b in QUESTIONS]
    lines = [json.dumps({"messages": talk}) for talk in talks]
    (folder / "chat.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return aimt.finetune("gpt", folder / "chat.jsonl", model=gpt_folder, out=folder / "run", steps=80, lr=1e-2, quiet=True)


@pytest.fixture(scope="module")
def t5_run(t5_folder, tmp_path_factory) -> Run:
    folder = tmp_path_factory.mktemp("t5")
    return aimt.finetune("t5", PAIRS, model=t5_folder, out=folder / "run", steps=120, lr=1e-2, quiet=True)


# ---- from a file to a run, and its verbs


@pytest.mark.parametrize("family", ["gpt", "t5"])
def test_a_run_learns_and_every_verb_takes_it(family, gpt_run, t5_run, tmp_path):
    run, ask = (gpt_run, "dog 99") if family == "gpt" else (t5_run, "kind: dog 99")
    column = run.problem.inputs[0]
    scores = run.read("metrics.json")["scores"]
    figure, right = scores["figures"], "right" if family == "gpt" else "exact match"
    assert figure["loss"]["after"]["value"] < figure["loss"]["before"]["value"] / 3
    assert figure[right]["after"]["value"] > 0.9 > 0.1 > figure[right]["before"]["value"]
    assert len(scores["table"]) >= 4 and run.status == "done"
    answered = run.predict(pd.DataFrame({column: [ask, ask.replace("dog", "bus")]}), quiet=True)
    assert list(answered["prediction"]) == ["animal", "vehicle"]
    table = TABLE if family == "gpt" else PAIRS
    measured = {row["metric"]: row["value"] for row in run.evaluate(table)["table"]}
    assert measured[right] > 0.9 and measured["loss"] < 0.5
    reasons = run.explain(pd.DataFrame({column: [ask, ask.replace("dog", "bus")]}), rows=[0, 1])
    assert [r["prediction"] for r in reasons] == ["animal", "vehicle"]
    assert [p["part"] for p in reasons[0]["parts"]] == ask.split()
    effects = [{p["part"]: p["effect"] for p in r["parts"]} for r in reasons]
    assert max(effects[0]["dog"], effects[1]["bus"]) > 1 > max(abs(e["99"]) for e in effects)
    assert reasons[0]["method"] == run.read("metrics.json")["reason_trial"]["method"] in {"integrated gradients", "occlusion"}
    report = run.report()
    assert "animal" in report.read_text(encoding="utf-8")
    assert generate(run, ask) == "animal" == generate(run, ask, max_new_tokens=200)
    assert generate(run, [ask, ask.replace("dog", "car")], num_beams=3) == ["animal", "vehicle"]
    assert "".join(generate(run, ask, stream=True, temperature=None)).strip() == "animal"
    with pytest.raises(ProblemError, match="stream"):
        generate(run, ask, num_beams=2, stream=True)
    with pytest.raises(ProblemError, match="no option --topk"):
        generate(run, ask, topk=3)


def test_greedy_answers_are_right_just_where_one_pass_says_so(gpt_run, gpt_folder):
    model = gpt.GPT_FAMILY.open(gpt_run.path / "model")
    half = gpt.GPT_FAMILY.open(gpt_folder, pd.DataFrame({"target": ["vehicle"]}))
    with torch.no_grad():  # half way from fresh to tuned: some are right, and some are wrong
        for p, q in zip(model.parameters(), half.parameters(), strict=True):
            p.lerp_(q, 0.35)
    pairs = gpt.GPT_FAMILY.read(TABLE.head(60))
    right = gpt.GPT_FAMILY.score(model, pairs)["right"]
    written = gpt.GPT_FAMILY.predict(model, list(pairs["input"]))["prediction"]
    assert [a == b for a, b in zip(written, pairs["target"], strict=True)] == list(right > 0)


def test_plain_text_is_judged_by_tokens(gpt_folder, tmp_path):
    (tmp_path / "story.txt").write_text(STORY, encoding="utf-8")
    run = aimt.finetune("gpt", tmp_path / "story.txt", model=gpt_folder, out=tmp_path / "run", steps=40, lr=1e-2, quiet=True)
    metrics = run.read("metrics.json")
    assert "plain text" in metrics["data"]["notes"][0]
    assert not run.path.joinpath("model/chat_template.jinja").exists()
    rows = {r["model"]: r["value"] for r in metrics["scores"]["table"]}
    assert rows["fine-tuned"] > 0.5 > rows["before"] and rows["the token that mostly follows the last one"] > 0.2
    assert len(generate(run, "The cat", max_new_tokens=6)) > 0
    (tmp_path / "starts.txt").write_text("The cat\nThe bus\n", encoding="utf-8")
    assert len(run.predict(tmp_path / "starts.txt", quiet=True)) == 2


def test_a_tuned_folder_is_read_by_transformers(gpt_run, t5_run):
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt_run.path / "model")
    talk = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "dog 1"}]
    assert tokenizer.apply_chat_template(talk, tokenize=False, add_generation_prompt=True) == chat_prompt(talk)
    theirs = transformers.T5ForConditionalGeneration.from_pretrained(t5_run.path / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(t5_run.path / "model")
    ids = torch.tensor([[*tokenizer.encode("kind: dog 99", add_special_tokens=False), theirs.config.eos_token_id]])
    said = theirs.generate(ids, do_sample=False)  # max_new_tokens comes from the folder
    assert tokenizer.decode(said[0], skip_special_tokens=True).strip() == "animal"


# ---- conversations


def test_prompts_are_encoded_as_they_were_taught(gpt_folder):
    model = gpt.GPT_FAMILY.open(gpt_folder, pd.DataFrame({"target": ["animal"]}))
    said = [("system", "Be brief."), ("user", "dog 1"), ("assistant", "animal"), ("user", "bus 2\nand so on")]
    talk = [{"role": role, "content": content} for role, content in said]
    text = gpt.to_input(talk)
    assert gpt.to_messages(text) == talk
    ids = encode_chat([*talk, {"role": "assistant", "content": "vehicle"}], model.tokenizer)["ids"].tolist()
    prompt = gpt.prompt_of(model, text)
    assert ids[: len(prompt)] == prompt and len(ids) > len(prompt)


def test_only_the_last_answer_is_scored_and_rows_are_packed(gpt_folder):
    talk = [
        {"role": "user", "content": "dog"},
        {"role": "assistant", "content": "x"},
        {"role": "user", "content": "bus"},
        {"role": "assistant", "content": "vehicle"},
    ]
    pairs = gpt.read_conversations([talk] * 12)
    model = gpt.GPT_FAMILY.open(gpt_folder, pairs)
    n = len(model.tokenizer.encode("vehicle\n")) + 1
    assert {len(nats) for nats, _ in gpt._figures(model, pairs)} == {n}
    batches = gpt.GPT_FAMILY.batches(model, pairs.head(5), 2, seed=0)
    seen = [next(batches) for _ in range(len(batches))]
    assert sum(int((b["targets"] != -100).sum()) for b in seen) == 5 * (n + len(model.tokenizer.encode("x\n")))
    state = batches.state_dict()
    other = gpt.GPT_FAMILY.batches(model, pairs.head(5), 2, seed=0)
    other.load_state_dict(state)
    assert torch.equal(next(other)["ids"], next(batches)["ids"])


def test_a_packed_row_costs_the_same_as_its_sequences_alone(gpt_folder):
    pairs = gpt.GPT_FAMILY.read(TABLE.iloc[[0, 5, 9]])
    model = gpt.GPT_FAMILY.open(gpt_folder, pairs)
    sequences, _ = gpt.encode_examples(model, pairs)
    batch = gpt.AnswerBatches(sequences, 3).batch(sequences)
    alone = np.concatenate([n for n, _ in gpt.token_nats(model, sequences)])
    assert gpt.GPT_FAMILY.loss(model, batch).item() == pytest.approx(alone.mean(), abs=1e-5)


def test_long_conversations_keep_their_end(gpt_folder):
    pairs = pd.DataFrame({"input": ["dog " * 100], "target": ["animal"], "row": [0]})
    model = gpt.GPT_FAMILY.open(gpt_folder, pairs)
    sequence = gpt.encode_examples(model, pairs)[0][0]
    assert len(sequence["ids"]) == 48 and model.tokenizer.decode(sequence["targets"][sequence["targets"] >= 0]) == "animal\n"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert isinstance(gpt.ask(model, "dog " * 100), str)


def test_a_long_source_is_cut_and_answered(t5_run):
    model = t5.T5_FAMILY.open(t5_run.path / "model")
    assert t5.answer(model, ["kind: bus " + "1 " * 200])[0] in {"animal", "vehicle"}
    assert len(t5.encode(model, pd.DataFrame({"input": ["x" * 900], "target": ["y" * 900]}))[0][1]) == 48


# ---- what is refused


def chat(*roles: str) -> str:
    return json.dumps({"messages": [{"role": role, "content": "hello"} for role in roles]})


@pytest.mark.parametrize(
    "lines, told",
    [
        ([chat("user", "assistant"), chat("user", "robot")], "line 2: message 1 has the role 'robot'"),
        ([chat("user")], "no conversation has an answer"),
        ([chat("user", "assistant"), "{broken"], "line 2: this is no JSON"),
        ([chat("user", "assistant"), '{"text": "hello"}'], "line 2: this line has no 'messages'"),
        (['{"messages": "hello"}'], "no list of messages"),
        (['{"messages": [{"role": "user"}]}'], "lacks 'role' or 'content'"),
        (['{"question": "a", "reply": "b"}'], "there is no column 'prompt'"),
    ],
)
def test_conversations_that_cannot_be_used(lines, told, tmp_path):
    path = tmp_path / "chat.jsonl"
    path.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as found:
        gpt.GPT_FAMILY.read(path)
    assert told in str(found.value)


def test_empty_answers_are_left_out_and_said():
    pairs = gpt.GPT_FAMILY.read(TABLE.assign(answer=["", *TABLE["answer"][1:]]))
    assert len(pairs) == len(TABLE) - 1 and "1 rows without" in pairs.attrs["notes"][0]
    spoken = [json.loads(chat("user", "assistant")), json.loads(chat("user"))]
    assert "1 conversations without" in gpt.read_conversations(spoken).attrs["notes"][0]
    for family, table in ((gpt.GPT_FAMILY, TABLE.assign(answer=" ")), (t5.T5_FAMILY, PAIRS.assign(target=""))):
        with pytest.raises(DataError, match="no row has an input and a target"):
            family.read(table)


@pytest.mark.parametrize("family, table", [("gpt", TABLE), ("t5", PAIRS)])
def test_missing_columns_too_few_examples_and_foreign_tokenizers(family, table, gpt_folder, t5_folder, tmp_path):
    known, folder = (gpt.GPT_FAMILY, gpt_folder) if family == "gpt" else (t5.T5_FAMILY, t5_folder)
    with pytest.raises(DataError, match=f"no column '{known.columns[1]}'"):
        known.read(table.drop(columns=known.columns[1]))
    with pytest.raises(DataError, match="no column 'reply'"):
        known.read(table, None, "reply")
    with pytest.raises(DataError, match="too few"):
        split_pairs(known.read(table.head(5)))
    other = tmp_path / "other"
    other.mkdir()
    for name in ("config.json", "model.safetensors"):
        (other / name).write_bytes((folder / name).read_bytes())
    with pytest.raises(ModelFormatError, match="no tokenizer"):
        known.open(other)
    (tmp_path / "t.txt").write_text("".join(chr(200 + i) for i in range(700)) * 2, encoding="utf-8")
    train_tokenizer(tmp_path / "t.txt", "char").save(other)
    with pytest.raises(ProblemError, match="the tokenizer has"):
        known.open(other)
    with pytest.raises(AimtError):
        aimt.finetune(family, table, model=tmp_path / "nothing", out=tmp_path / "run", quiet=True)


def test_a_character_that_the_tokenizer_does_not_know_is_named(tmp_path):
    (tmp_path / "t.txt").write_text(STORY + "\nQuestion: Answer:", encoding="utf-8")
    tokenizer = train_tokenizer(tmp_path / "t.txt", "char")
    GPT(GPTConfig(tokenizer.vocab_size, 1, 1, 8, context=48)).save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    pairs = gpt.GPT_FAMILY.read(TABLE.assign(prompt=["naïve", *TABLE["prompt"][1:]]))
    model = gpt.GPT_FAMILY.open(tmp_path, pairs)
    with pytest.raises(DataError, match="example 0: the character 'ï'"):
        gpt.GPT_FAMILY.score(model, pairs)


# ---- figures


def test_chrf_and_bleu_are_those_of_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    rng = random.Random(0)
    words = "the a. package, 3.5 1-2 (perl) Bibliothek für -x &amp; enthält / ein“ „zwei“ und".split()
    references = [" ".join(rng.choices(words, k=rng.randint(1, 12))) for _ in range(60)]
    written = [" ".join(w for w in r.split() if rng.random() < 0.7) for r in references]
    theirs = sacrebleu.corpus_bleu(written, [references]).score
    assert bleu(references, written)["value"] * 100 == pytest.approx(theirs, abs=1e-9)
    few = (["a b c d e", "f g"], ["a b x d e", "g f"])  # no three words in a row are right
    assert bleu(*few)["value"] * 100 == pytest.approx(sacrebleu.corpus_bleu(few[1], [few[0]]).score, abs=1e-9)
    theirs = [sacrebleu.sentence_chrf(h, [r]).score / 100 for h, r in zip(written, references, strict=True)]
    assert chrf(references, written) == pytest.approx(theirs, abs=1e-9)
    whole = compare_texts(references, {"it": written}, "chrf")["it"]
    assert whole["value"] * 100 == pytest.approx(sacrebleu.corpus_chrf(written, [references]).score, abs=1e-9)
    assert whole["low"] < whole["value"] < whole["high"]


def test_differences_between_systems_are_paired():
    references = [f"the {a} of {b}" for a in ("use", "end", "sum", "set") for b in ("a", "b", "c")]
    found = compare_texts(references, {"right": references, "wrong": ["no"] * 12}, "chrf")
    assert found["wrong - right"]["high"] < -0.8
    with pytest.raises(DataError, match="no metric"):
        compare_texts(references, {"x": references}, "rouge")
    with pytest.raises(DataError, match="2 references but 1 hypotheses"):
        bleu(["a", "b"], ["a"])


def test_beams_of_a_network_itself(gpt_run):
    model = gpt.GPT_FAMILY.open(gpt_run.path / "model")
    prompt = "Question: dog 3\nAnswer: "
    best = model.generate(model.tokenizer, prompt, num_beams=3, max_new_tokens=8)
    assert best == model.generate(model.tokenizer, prompt, temperature=0, max_new_tokens=8)

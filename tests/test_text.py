"""Text of every condition: what is no text is told in one line, what is damaged is found, and memory stays flat."""

import gzip
import json
import os
import random
import signal
import subprocess
import sys

import numpy as np
import pytest

from aimt.core.errors import DataError, RunError
from aimt.data.text.corpus import PIECE, describe_texts, is_text_source, read_texts
from aimt.data.text.tokenizer import Tokenizer, train_tokenizer
from aimt.data.text.tokenizer_files import EOT
from aimt.data.text.token_batches import PackedBatches, TokenBatches, eval_batches
from aimt.data.text.token_files import Tokens, open_tokens, write_tokens

WORDS = "the of and to in that is was he for it with as his on be at by had not are but from or have an they which".split()


def prose(n_words, seed=0):
    rng = random.Random(seed)
    return "".join(rng.choice(WORDS) + rng.choice((" ", " ", " ", ", ", ".\n", "\n\n")) for _ in range(n_words))


def whole(source):
    return "".join(piece for piece, _ in read_texts(source))


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "book.txt"
    path.write_bytes((prose(20_000) + "Ünïcode, 世界 🌍\n" + prose(2_000, seed=1)).encode())
    return path


# ------------------------------------------------------------------------------------------------- what is no text

BAD = {
    "empty.txt": (b"", "is empty"),
    "one letter of two bytes.txt": ("é".encode(), "only one character"),
    "nothing but its mark.txt": (b"\xef\xbb\xbf", "no text"),
    "only nuls.txt": (b"\0" * 500, "binary"),
    "nan.txt": (np.full(500, np.nan, np.float32).tobytes(), "binary"),
    "counts.txt": (np.arange(3000, dtype="<u2").tobytes(), "binary"),
    "picture.txt": (b"\x89PNG\r\n\x1a\n" + bytes(100), "picture"),
    "program.txt": (b"\x7fELF" + bytes(100), "program"),
    "cyrillic.txt": ("Все счастливые семьи похожи друг на друга".encode("koi8-r"), "encoding"),
    "cut.txt.gz": (gzip.compress(prose(5000).encode())[:-500], "cut off"),
    "broken.jsonl": (b'{"text": "a b"}\n{"text": "c"}\n\n{"text": "d\n{"text": "e"}\n', "line 4 is not valid JSON"),
    "last.jsonl": (b'{"text": "a b"}\n{"text": ', "line 2 is not valid JSON"),
    "deep.jsonl": (b'{"text": "a"}\n' + b"[" * 100_000, "line 2"),
    "field.jsonl": (b'{"text": "a"}\n{"body": "b"}\n', "line 2 has no field 'text'"),
    "number.jsonl": (b'{"text": 5}\n', "line 1 contains no text"),
    "array.jsonl": (b"[1, 2]\n", "line 1 contains no text"),
    "wide.jsonl": ('{"text": "a"}\n'.encode("utf-16"), "binary"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_no_text_is_told(tmp_path, name):
    content, told = BAD[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=told) as caught:
        describe_texts(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_missing_files_and_folders(tmp_path):
    (tmp_path / "novel.txt").write_text("some words")
    with pytest.raises(DataError, match=r"no such file.*novel\.txt"):
        describe_texts(tmp_path / "novl.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no text file in this folder"):
        describe_texts(tmp_path / "empty")


def test_text_and_tables_are_told_apart(tmp_path):
    texts = {
        "a.txt": prose(300),
        "b.md": "# Title",
        "c.txt": "One, two,\nthree, four,\nfive, six,\nseven.",
        "d.py": "x = 1, 2\n" * 9,
        "e": "A file without a suffix.",
    }
    tables = {
        "a.csv": "x,y\n1,2\n",
        "b.txt": "x;y\n1;2\n3;4\n5;6\n",
        "c.txt": "x\ty\n1\t2\n3\t4\n",
        "d.jsonl": '{"x": 1}\n',
        "e": '{"x": 1}',
        "f": "\0\1\2",
    }
    for kind, files in (("texts", texts), ("tables", tables)):
        (tmp_path / kind).mkdir()
        for name, content in files.items():
            (tmp_path / kind / name).write_text(content)
            assert is_text_source(tmp_path / kind / name) == (kind == "texts"), (kind, name)
    assert is_text_source(tmp_path / "texts") and not is_text_source({"x": [1]}) and not is_text_source("SELECT 1")


# --------------------------------------------------------------------------------------------- what can be mended


def test_mixed_encodings_across_the_borders_of_blocks(tmp_path):
    """Every kind of letter on every side of the border between two blocks of a megabyte."""
    for shift in range(4):
        head = b"x" * ((1 << 20) - 2 - shift)
        raw, clear = "é".encode() + b"\xe9" + "世".encode() + b"\r\n" + b"\x93ok\x94\0.\r", "éé世\n“ok”.\n"
        (tmp_path / "mixed.txt").write_bytes(head + raw)
        source = describe_texts(tmp_path / "mixed.txt")
        assert whole(source) == head.decode() + clear
        assert source.encoding == "mixed" and source.n_characters == len(head) + len(clear)
        assert "1 NUL byte removed" in source.warnings[0] and "3 bytes not in UTF-8" in source.warnings[1]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "cp1252"])
def test_encodings(tmp_path, encoding):
    text = ("Straße, café, naïve.\n" + prose(200)) * 50
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    source = describe_texts(tmp_path / "a.txt")
    assert whole(source) == text and source.n_characters == len(text)
    assert bool(source.warnings) == (not encoding.startswith("utf-8"))


def test_a_folder_of_many_kinds(tmp_path):
    parts = {
        "1.txt": "café one".encode(),
        "2.txt": "café two".encode("cp1252"),
        "3.txt": "café three".encode("utf-16"),
        "4.md.gz": gzip.compress(b"four"),
        "5.txt": b"",
        "6.jsonl": b'{"text": "six"}\n{"text": "seven"}\n',
    }
    for name, content in parts.items():
        (tmp_path / name).write_bytes(content)
    source = describe_texts(tmp_path)
    assert list(read_texts(source)) == [(t, True) for t in ("café one", "café two", "café three", "four", "six", "seven")]
    assert source.n_documents == 6 and any("5.txt: empty" in w for w in source.warnings)
    (tmp_path / "2.txt").write_bytes("cafe two".encode("cp1252"))
    assert describe_texts(tmp_path).fingerprint != source.fingerprint


def test_the_end_mark_of_dos_is_no_sign_of_a_binary_file(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"Hello.\r\n\x1a")
    assert whole(tmp_path / "a.txt") == "Hello.\n\x1a"


def test_json_lines(tmp_path):
    rows = [{"body": "one\r\ntwo"}, {"body": None}, {"body": ""}, {"body": "x" * (PIECE + 5)}, {"body": "\ud800\0half"}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    pieces = list(read_texts(describe_texts(tmp_path / "a.jsonl", field="body")))
    assert [(len(p), ends) for p, ends in pieces] == [(7, True), (PIECE, False), (5, True), (5, True)]
    assert pieces[0][0] == "one\ntwo" and pieces[-1][0] == "\ufffdhalf"


# ------------------------------------------------------------------------------------------------- memory and size

GROWTH = """
import sys
from aimt.core.hardware import peak_memory_mb
from aimt.data.text.corpus import describe_texts
from aimt.data.text.tokenizer import train_tokenizer
from aimt.data.text.token_batches import TokenBatches
from aimt.data.text.token_files import write_tokens
import torch
kind, path, out = sys.argv[1:]
before = peak_memory_mb()
source = describe_texts(path)
files = write_tokens(source, train_tokenizer(source, kind, 300), out)
next(TokenBatches(files.train, 8, 128))
print(len(files.train), peak_memory_mb() - before)
"""


def growth(kind, path, out):
    """Tokens written, and the growth of a process' memory (MB) while doing it."""
    done = subprocess.run([sys.executable, "-c", GROWTH, kind, path, out], capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return float(done.stdout.split()[0]), float(done.stdout.split()[1])


def line_of(path, megabytes):
    with open(path, "wb") as f:
        for _ in range(megabytes):
            f.write(b"abcdefghijklmnop" * (1 << 16))
    return path


def test_one_huge_line_does_not_fill_the_memory(tmp_path):
    n, mb = growth("char", line_of(tmp_path / "line.txt", 64), tmp_path / "tokens")
    assert n == int((64 << 20) * 0.9) and mb < 60


def test_a_text_without_spaces_for_the_bpe(tmp_path):
    """A word of megabytes must not make the training of merges crawl."""
    letters = np.random.default_rng(0).integers(97, 123, 2 << 20, dtype=np.uint8)
    (tmp_path / "letters.txt").write_bytes(letters.tobytes())
    n, mb = growth("bpe", tmp_path / "letters.txt", tmp_path / "tokens")
    assert n < len(letters) * 0.9 and mb < 180


@pytest.mark.slow(reason="a file of a gigabyte")
def test_one_line_of_a_gigabyte(tmp_path):
    n, mb = growth("char", line_of(tmp_path / "line.txt", 1024), tmp_path / "tokens")
    assert n == int((1 << 30) * 0.9) and mb < 100


# ------------------------------------------------------------------------------------------------------ tokenizers


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_other_programs_read_the_tokenizer(tmp_path, book, kind):
    transformers = pytest.importorskip("transformers")
    ours = train_tokenizer(book, kind, 400)
    ours.save(tmp_path)
    theirs = transformers.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    text = whole(book)[-20_000:]
    ids = ours.encode(text)
    assert theirs(text, add_special_tokens=False)["input_ids"] == ids
    assert theirs.decode(ids) == ours.decode(ids) == text
    assert theirs.eos_token_id == ours.eot_id


@pytest.mark.parametrize("kind", ["byte", "char", "bpe"])
def test_a_stream_gives_what_decoding_gives(book, kind):
    tokenizer = train_tokenizer(book, kind, 400)
    rng = np.random.default_rng(0)
    for _ in range(50):
        ids = rng.integers(0, tokenizer.vocab_size, 40).tolist()  # mostly broken UTF-8
        stream = tokenizer.stream()
        assert "".join(map(stream.push, ids)) + stream.rest() == tokenizer.decode(ids)


def test_pieces_have_the_tokens_of_the_whole(book):
    tokenizer, text = train_tokenizer(book, "bpe", 400), whole(book)
    expected = tokenizer._engine.encode(text * 3).ids
    assert tokenizer.encode(text * 3) == expected  # split into parts inside


def test_prompts_with_special_text_and_unknown_letters(book):
    for kind in ("byte", "bpe"):
        tokenizer = train_tokenizer(book, kind, 400)
        for text in ("", EOT, f"x{EOT}{EOT}y", "\udcff", "ß世\0\r\n", "a" * 100_000):
            ids = tokenizer.encode(text)
            assert tokenizer.eot_id not in ids and tokenizer.decode(ids) == text.replace("\udcff", "\ufffd")
    char = train_tokenizer(book, "char")
    with pytest.raises(DataError, match=r"'ß' \(U\+00DF\) is unknown"):
        char.encode("the ß")
    assert char.decode(char.encode("the ß", unknown="replace")) == "the \ufffd"


def test_damaged_tokenizers_are_refused(tmp_path, book):
    train_tokenizer(book, "bpe", 300).save(tmp_path)
    path = tmp_path / "tokenizer.json"
    content = path.read_bytes()
    for tenth in range(10):
        path.write_bytes(content[: len(content) * tenth // 10])
        with pytest.raises(RunError, match="damaged"):
            Tokenizer.load(tmp_path)
    path.write_bytes(content)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    for change, told in (({"aimt_format": 99}, "newer"), ({"aimt_kind": "telepathy"}, "not understood")):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | change))
        with pytest.raises(RunError, match=told):
            Tokenizer.load(tmp_path)


# ----------------------------------------------------------------------------------------------------- token files


def test_damaged_token_files_are_refused(tmp_path, book):
    files = write_tokens(book, train_tokenizer(book, "char"), tmp_path, shard_tokens=30_000)
    shard = tmp_path / files.facts["train"][1]["file"]
    for path in (tmp_path / "tokens.json", shard):
        content = path.read_bytes()
        for tenth in range(10):
            path.write_bytes(content[: len(content) * tenth // 10])
            with pytest.raises(RunError):
                open_tokens(tmp_path)
        path.write_bytes(content)
    facts = json.loads((tmp_path / "tokens.json").read_text())
    for change in ({"aimt_format": 99}, {"train": 7}, {"dtype": "spam"}, {"valid": [{"file": 3}]}):
        (tmp_path / "tokens.json").write_text(json.dumps(facts | change))
        with pytest.raises(RunError):
            open_tokens(tmp_path)
    (tmp_path / "tokens.json").write_text(json.dumps(facts))
    content = bytearray(shard.read_bytes())
    content[1234] ^= 4
    shard.write_bytes(content)
    open_tokens(tmp_path)
    with pytest.raises(RunError, match="changed since"):
        open_tokens(tmp_path, verify=True)


WRITE = """
import sys
from aimt.data.text.tokenizer import Tokenizer
from aimt.data.text.token_files import write_tokens
def tell(text):
    print(text, flush=True)
if len(sys.argv) > 4:
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[4]), int(sys.argv[4])))
text, tokenizer, out = sys.argv[1:4]
write_tokens(text, Tokenizer.load(tokenizer), out, shard_tokens=1 << 20, on_update=tell)
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    (folder / "large.txt").write_text(prose(20_000) * 120)
    (folder / "small.txt").write_text(prose(5_000))
    train_tokenizer(folder / "large.txt", "char").save(folder)
    write_tokens(folder / "small.txt", Tokenizer.load(folder), folder / "tokens")
    return folder


def start_writing(folder, *more):
    command = [sys.executable, "-c", WRITE, str(folder / "large.txt"), str(folder), str(folder / "tokens"), *more]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX limits")
def test_a_full_disk_leaves_the_old_tokens(large):
    before = sorted(p.name for p in (large / "tokens").iterdir())
    _, error = start_writing(large, str(1_500_000)).communicate(timeout=120)
    assert "RunError" in error and "the disk is full" in error
    assert len(open_tokens(large / "tokens", verify=True).train) == int(len(whole(large / "small.txt")) * 0.9)
    assert sorted(p.name for p in (large / "tokens").iterdir() if p.suffix != ".bin" or p.name in before) == before


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_killed_writer_leaves_the_old_tokens_and_is_taken_up(large):
    for lines in (1, 3):
        child = start_writing(large)
        for _ in range(lines):
            assert child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        child.communicate()
        assert open_tokens(large / "tokens", verify=True).n_train_characters == int(len(whole(large / "small.txt")) * 0.9)
    two = [start_writing(large), start_writing(large)]  # and two at the same time
    assert [child.communicate(timeout=120) and child.returncode for child in two] == [0, 0]
    files = open_tokens(large / "tokens", verify=True)
    text = whole(large / "large.txt")
    assert Tokenizer.load(large).decode(files.train[:]) + Tokenizer.load(large).decode(files.valid[:]) == text
    told = []
    write_tokens(large / "large.txt", Tokenizer.load(large), large / "tokens", shard_tokens=1 << 20, on_update=told.append)
    assert not told  # done already


def test_the_held_out_part_is_the_last_tenth_of_the_characters(tmp_path, book):
    text = whole(book)
    n = int(len(text) * 0.9)
    for kind in ("byte", "char", "bpe"):
        tokenizer = train_tokenizer(book, kind, 400)
        files = write_tokens(book, tokenizer, tmp_path / kind, shard_tokens=10_000)
        assert tokenizer.decode(files.train[:]) == text[:n] and tokenizer.decode(files.valid[:]) == text[n:]
        assert (files.n_train_characters, files.n_valid_characters) == (n, len(text) - n)
        assert files.n_valid_bytes == len(text[n:].encode())


def test_a_letter_that_the_tokenizer_does_not_know(tmp_path, book):
    (tmp_path / "other.txt").write_text("the dog and ß")
    with pytest.raises(DataError, match=r"other\.txt: the character 'g'|other\.txt: the character 'ß'"):
        write_tokens(tmp_path / "other.txt", train_tokenizer(book, "char"), tmp_path / "tokens")
    assert not list(tmp_path.glob("tokens/*"))


# --------------------------------------------------------------------------------------------------------- batches


def test_a_text_shorter_than_the_context():
    with pytest.raises(DataError, match="too few for a window of 64.*at most 9"):
        TokenBatches(Tokens.from_array(np.arange(10)), 4, 64)
    assert next(TokenBatches(np.arange(10), 4, 9))["ids"].shape == (4, 9)
    with pytest.raises(DataError, match="no held-out text"):
        eval_batches(Tokens([]), 4, 64)


def makers(tokens):
    random_ = lambda size, **more: TokenBatches(tokens, size, 32, seed=5, **more)  # noqa: E731
    epoch = lambda size, **more: TokenBatches(tokens, size, 32, seed=5, shuffle="epoch", **more)  # noqa: E731
    packed = lambda size, **more: PackedBatches(tokens, size, 32, eot_id=0, seed=5, pool=50, **more)  # noqa: E731
    return {"random": random_, "epoch": epoch, "packed": packed}


@pytest.mark.parametrize("kind", ["random", "epoch", "packed"])
def test_the_order_is_the_same_for_any_number_of_processes_and_after_any_stop(kind):
    make = makers(Tokens.from_array(np.random.default_rng(0).integers(0, 40, 3000)))[kind]
    one = make(8)
    expected = [(one.state_dict(), next(one)) for _ in range(40)]  # several epochs
    for world in (2, 4):
        for step in (0, 7, 23):
            ranks = [make(8 // world, rank=rank, world=world) for rank in range(world)]
            for rank, batches in enumerate(ranks):
                batches.load_state_dict(json.loads(json.dumps(expected[step][0])))
                for _, whole_batch in expected[step : step + 15]:
                    batch = next(batches)
                    assert all((batch[name] == whole_batch[name][rank::world]).all() for name in whole_batch)
    with pytest.raises(RunError, match="rows = 8, but now it is 6"):
        make(6).load_state_dict(expected[3][0])


def test_every_window_comes_once_in_an_epoch():
    tokens = Tokens([np.arange(1000), np.arange(1000, 1700)])
    batches = TokenBatches(tokens, 5, 16, shuffle="epoch")
    n = batches._windows
    starts = np.concatenate([batches._starts(step) for step in range(3 * n // 5 + 1)])[: 3 * n].reshape(3, n)
    assert all(len(np.unique(s)) == n and (np.diff(np.sort(s)) == 16).all() and s.max() + 16 < 1700 for s in starts)
    assert not (starts[0] == starts[1]).all()
    ids = next(batches)["ids"].numpy()
    assert (np.diff(ids) == 1).all()  # also across the border of two shards


def test_packing_keeps_documents_whole_and_loses_nothing():
    rng = np.random.default_rng(1)
    documents = [np.append(rng.integers(1, 50, rng.integers(0, 60)), 0) for _ in range(300)]
    tokens = Tokens.from_array(np.concatenate(documents))
    packed = PackedBatches(tokens, 1, 64, eot_id=0, pool=40)
    found = []
    while packed.epoch == 0:
        batch = {name: value[0].numpy() for name, value in next(packed).items()}
        for number in range(batch["documents"].max() + 1):
            inside = batch["documents"] == number
            assert batch["ids"][inside][0] == 0 and (batch["ids"][inside][1:] == batch["targets"][inside][:-1]).all()
            found.append(batch["targets"][inside].tolist())
        assert (batch["targets"][batch["documents"] < 0] == -100).all()
    assert sorted(found) == sorted(d.tolist() for d in documents)


def test_evaluation_covers_every_token_once():
    tokens = Tokens([np.arange(70), np.arange(70, 143)])
    for batch_size, seq_len in ((1, 1), (3, 7), (8, 64), (2, 142), (2, 500)):
        targets = np.concatenate([b["targets"].numpy().ravel() for b in eval_batches(tokens, batch_size, seq_len)])
        assert targets[targets != -100].tolist() == list(range(1, 143))
    some = [b["targets"] for b in eval_batches(tokens, 2, 8, max_tokens=40)]
    assert sum(int((t != -100).sum()) for t in some) == 40

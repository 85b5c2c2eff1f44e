"""What a case of the fault matrix is, what is done with its input, and how the result is checked."""

import contextlib
import io
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import aimt
from aimt.core.errors import AimtError
from aimt.core.run import Run
from aimt.data.io.chunks import read_chunks
from aimt.data.io.load import load_table
from faults import inputs as bad


class Shared:
    """What the cases start from, made once: a run on a table, small networks."""

    def __init__(self, folder: Path):
        self.folder = folder

    @cached_property
    def run(self) -> Run:
        """A run on the table of customers."""
        return aimt.train(bad.customers(), target="left", sensitive_features="none", time_limit=1, out=self.folder / "run", quiet=True)

    @cached_property
    def expected(self) -> pd.DataFrame:
        """What this run predicts for the table as it was."""
        return self.run.predict(bad.customers(), quiet=True)

    @cached_property
    def writer(self) -> tuple[Any, Any]:
        """A language model of random weights, and its tokenizer."""
        import torch

        from aimt.data.text.tokenizer import train_tokenizer
        from aimt.models.text.gpt import GPT, GPTConfig

        torch.manual_seed(0)
        tokenizer = train_tokenizer("", "byte")
        return GPT(GPTConfig(tokenizer.vocab_size, 1, 2, 16, 32)).eval(), tokenizer

    @cached_property
    def bert(self) -> Path:
        """The folder of a small classifier of texts."""
        import torch

        from aimt.data.text.tokenizer import train_wordpiece
        from aimt.models.text.bert import BERTConfig
        from aimt.models.text.text_classification import BERTForClassification

        torch.manual_seed(0)
        tokenizer = train_wordpiece(["a cat sat", "a dog ran"], 60)
        config = BERTConfig(tokenizer.vocab_size, 1, 2, 16, context=16, labels=("cat", "dog"))
        BERTForClassification.from_config(config, tokenizer).save_pretrained(self.folder / "bert")
        return self.folder / "bert"


@dataclass
class Place:
    """Where a case makes its input."""

    path: Path  # An empty folder
    shared: Shared
    patch: pytest.MonkeyPatch  # Undone when the case is over
    notes: dict[str, Any] = field(default_factory=dict)  # From the maker of the input to the check of the result


@dataclass(frozen=True)
class Outcome:
    """What came out where nothing was raised."""

    value: Any
    said: list[str]  # Warnings and notes


Make = Callable[[Place], Any]  # Makes the input; a list holds several that must all end alike
Holds = Callable[[Any, Place], Any]  # Whether the result is the promised one


@dataclass(frozen=True)
class Fault:
    """One cell of the matrix."""

    group: str  # files, values, columns, ...
    fault: str  # What is wrong with the input
    verb: str  # What is done with it: a key of `VERBS`
    required: str  # What must happen, in plain words
    make: Make
    error: type[AimtError] | None = None  # Class of the error; None where the input is recovered
    says: tuple[str, ...] = ()  # What the error, or else the warnings, must say
    holds: Holds | None = None  # Whether the result is as promised; of a refused one, what must be so afterwards
    limited: bool = False  # Runs in a process of its own, under a limit of memory
    slow: bool = False  # Takes minutes
    posix: bool = False  # Needs signals, links, or limits of the system
    status: tuple[int, ...] = ()  # Of the reply, where a service is asked

    @property
    def outcome(self) -> str:
        """How it ends, for the tables of the documentation."""
        if self.error:
            return f"`{self.error.__name__}`"
        return "status " + " or ".join(map(str, self.status)) if self.status else "recovered"

    @property
    def is_refused(self) -> bool:
        """Whether the input is not used."""
        return self.error is not None or min(self.status, default=0) >= 400

    @property
    def id(self) -> str:
        return re.sub(r"\W+", "-", f"{self.group} {self.fault}".lower()).strip("-")


class Group:
    """The cases of one group, in order."""

    def __init__(self, name: str):
        self.name, self.cases = name, []

    def refused(self, fault: str, verb: str, required: str, make: Make, error: type[AimtError], *says: str, **more: Any) -> None:
        """The input must be refused with such an error; `holds` may look at what is left."""
        self.cases.append(Fault(self.name, fault, verb, required, make, error, says, **more))

    def recovered(self, fault: str, verb: str, required: str, make: Make, holds: Holds, *says: str, **more: Any) -> None:
        """The result must be as promised, and the warnings must say so much."""
        self.cases.append(Fault(self.name, fault, verb, required, make, None, says, holds, **more))

    def answered(
        self,
        fault: str,
        required: str,
        make: Make,
        status: int | tuple[int, ...],
        *,
        holds: Callable[[Any], Any] | None = None,
        **more: Any,
    ) -> None:
        """A service must reply with one of these statuses, in short JSON, and answer the next request."""
        wanted = status if isinstance(status, tuple) else (status,)
        check = lambda reply, place: reply.status in wanted and reply.plain and (holds is None or holds(reply))
        self.cases.append(Fault(self.name, fault, "ask a service", required, make, None, (), check, status=wanted, **more))


def put(content: str | bytes | list[bytes], name: str = "shop.csv") -> Make:
    """Makes a file, or several numbered ones of the same kind."""

    def make(place: Place) -> Any:
        several = content if isinstance(content, list) else [content]
        paths = [place.path / (name if len(several) == 1 else f"{i}-{name}") for i in range(len(several))]
        for path, part in zip(paths, several, strict=True):
            path.write_bytes(part if isinstance(part, bytes) else part.encode())
        return paths if isinstance(content, list) else paths[0]

    return make


# -- what is done with the input -------------------------------------------------------------------------------------


def read_whole(place: Place, source: Any) -> Outcome:
    table = load_table(source)
    return Outcome(table.frame, table.warnings)


def read_pieces(place: Place, source: Any) -> Outcome:
    """In pieces of 7 rows, with the same values as the whole."""
    pieces = pd.concat([piece.astype(object) for piece in read_chunks(source, rows=7)], ignore_index=True)
    table = load_table(source)
    assert len(pieces) == table.rows
    for name in table.frame:
        for a, b in zip(table.frame[name], pieces[name], strict=True):
            assert (pd.isna(a) and pd.isna(b)) or a == b or str(a) == str(b), (name, a, b)
    return Outcome(table.frame, table.warnings)


def with_options(source: Any) -> tuple[Any, dict[str, Any]]:
    return source if isinstance(source, tuple) else (source, {})


def train(place: Place, source: Any) -> Outcome:
    """Train for a second; options may stand beside the table."""
    source, options = with_options(source)
    options = {"target": "left", "sensitive_features": "none", "time_limit": 1, "out": place.path / "trained", "quiet": True} | options
    run = aimt.train(source, **options)
    return Outcome(run, run.info["notes"])


def define(place: Place, source: Any) -> Outcome:
    """The question that `train` would ask, and the coded target."""
    from aimt.data.table.infer_problem import define_problem, encode_target

    source, options = with_options(source)
    problem, notes = define_problem(source, **{"target": "left"} | options)
    y, kept = encode_target(source, problem)
    return Outcome({"problem": problem, "y": y, "kept": kept}, notes)


def score(place: Place, source: Any) -> Outcome:
    """Predict with the run on customers."""
    text = io.StringIO()
    with contextlib.redirect_stderr(text):
        found = place.shared.run.predict(source)
    return Outcome(found, text.getvalue().splitlines())


def audit(place: Place, source: Any) -> Outcome:
    found = aimt.audit(source, target="left", quiet=True)
    return Outcome(found, [f"{f['check']}: {', '.join(f['columns'])}: {f['evidence']}. {f['advice']}" for f in found["findings"]])


def evaluate(place: Place, source: Any) -> Outcome:
    found = place.shared.run.evaluate(source)
    return Outcome(found, found["warnings"])


def call(place: Place, act: Callable[[], Any]) -> Outcome:
    """What the maker prepared is done."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        value = act()
    return Outcome(value, [str(w.message) for w in told])


def open_run(place: Place, run: Path) -> Outcome:
    """Predict with a damaged copy of the run on customers."""
    return Outcome(aimt.predict(run, bad.customers(), quiet=True), [])


def open_network(place: Place, folder: Path) -> Outcome:
    from aimt.models.text.text_classification import BERTForClassification

    return Outcome(BERTForClassification.from_pretrained(folder), [])


def look(place: Place, source: Any) -> Outcome:
    from aimt.data.image.read import read_image

    return Outcome(read_image(source), [])


def hear(place: Place, source: Any) -> Outcome:
    from aimt.data.audio.read import read_audio

    return Outcome(read_audio(source), [])


def read_text(place: Place, source: Any) -> Outcome:
    from aimt.data.text.corpus import describe_texts

    found = describe_texts(source)
    return Outcome(found, found.warnings)


def write(place: Place, prompt: Any) -> Outcome:
    from aimt.generate.text.sampling import generate

    model, tokenizer = place.shared.writer
    return call(place, lambda: generate(model, tokenizer, prompt, max_new_tokens=5, temperature=0))


VERBS: dict[str, tuple[Callable[[Place, Any], Outcome], ...]] = {
    "read a table": (read_whole, read_pieces),
    "train": (train,),
    "define": (define,),
    "predict": (score,),
    "audit": (audit,),
    "evaluate": (evaluate,),
    "other": (call,),
    "open a run": (open_run,),
    "open a network": (open_network,),
    "read an image": (look,),
    "read a recording": (hear,),
    "read a text": (read_text,),
    "generate": (write,),
    "ask a service": (call,),
    "decide": (call,),
}


# -- how it is checked -----------------------------------------------------------------------------------------------


def fulfil(case: Fault, run: Callable[[Place, Any], Outcome], place: Place) -> list[Outcome]:
    """Make the input, do it, and check what comes out; an `AssertionError` says what is not as required."""
    source = case.make(place)
    return [_fulfil_one(case, run, place, one) for one in (source if isinstance(source, list) else [source])]


def _fulfil_one(case: Fault, run: Callable[[Place, Any], Outcome], place: Place, source: Any) -> Outcome:
    try:
        outcome = run(place, source)
    except AimtError as error:
        _check_error(case, error)
        assert case.holds is None or case.holds(error, place), f"refused as it should, but something is not as promised: {error}"
        return Outcome(error, [str(error)])
    assert case.error is None, f"accepted: {str(outcome.value)[:300]}; {outcome.said}"
    assert case.holds is not None and case.holds(outcome.value, place), f"not as promised: {str(outcome.value)[:300]}; {outcome.said}"
    for words in case.says:
        assert any(words in line for line in outcome.said), f"{words!r} is not in {outcome.said}"
    return outcome


def _check_error(case: Fault, error: AimtError) -> None:
    """Of the right class, one line, with what to do and all the words."""
    line = str(error)
    assert case.error is not None, f"refused: {line}"
    assert isinstance(error, case.error), f"{type(error).__name__}: {line}"
    assert "\n" not in line and len(line) < 600, line
    assert error.hint, f"what to do is not said: {line}"
    for words in case.says:
        assert words in line, f"{words!r} is not in {line!r}"

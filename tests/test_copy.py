"""Product texts: odd tables, odd names, many rows, another kind's run, resume; a small network that learns tents in seconds."""

import csv
import io

import numpy as np
import pandas as pd
import pytest

from aimt.core.errors import AimtError
from aimt.data.text.attributes import Product, clean_value, find_attributes, safe_cell
from aimt.jobs.generators.copy_model import CopyGenerateOptions, contradictions, open_copy_model, write_copy
from aimt.jobs.verbs.generate import generate
from aimt.jobs.verbs.train import train
from aimt.models.text.t5 import T5
from aimt.models.text.t5_config import T5Config

WORDS = {
    "en": ("{name} is a {adj}tent for {n} persons with a {cover}.", "Tent of {kg} with a {cover}.", "With its {cover}, {name} sleeps {n}."),
    "de": ("{name} ist ein Zelt für {n} Personen mit {cover}.", "Zelt von {kg} mit {cover}.", "Mit {cover}: {name} für {n} Personen."),
}


def tents(n: int, seed: int = 0) -> pd.DataFrame:
    rng, rows = np.random.default_rng(seed), []
    for i in range(n):
        language = ("en", "de")[i % 2]
        facts = {
            "name": f"{rng.choice(['Alto', 'Brisa', 'Cima', 'Duna'])} {i}",
            "n": int(rng.integers(2, 7)),
            "kg": f"{rng.integers(9, 40) / 10} kg",
            "cover": str(rng.choice(["rain cover", "mesh roof", "steel frame"])),
        }
        text = WORDS[language][rng.integers(3)].format(**facts, adj=rng.choice(["", "great ", "modern "]))
        rows.append({**facts, "language": language, "description": text})
    return pd.DataFrame(rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tents(500), kind="copy", steps=60, size="tiny", out=tmp_path_factory.mktemp("copy") / "run", quiet=True)


def test_a_run_has_gates_a_report_and_a_card(run):
    m = run.read("metrics.json")
    assert {g["gate"] for g in m["verdict"]["gates"]} == {"faithfulness", "worth", "copies", "diversity", "fluency", "training"}
    assert m["copy_scores"]["generated"]["wrong"]["value"] == 0  # a number or a name that is not in the input has no token
    assert m["copy_scores"]["generated"]["recall"]["value"] > 0.99  # and what must be said cannot be dropped
    assert all(r["value"] > 0.9 for r in m["extractor"]["recall"].values())
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "⟦" in page and "Texts as drawn" in page


@pytest.mark.parametrize("length", ["short", "medium", "long"])
@pytest.mark.parametrize("language", ["en", "de"])
def test_must_have_length_and_language_are_kept(run, length, language):
    found = open_copy_model(run)
    products = found.schema.products(tents(30, seed=5))
    options = CopyGenerateOptions(n=2, length=length, language=language, must_have="name,cover", candidates=1)
    for p, row in zip(products, write_copy(found, products, options), strict=True):
        for c in row:
            assert p.values["name"][0].lower() in c.text.lower() and p.values["cover"][0] in c.text.lower()


ODD = {
    "html": ("<b>Alto</b> &amp; Co<script>alert(1)</script>", "Alto & Co"),
    "formula": ('=HYPERLINK("http://x.example","w")', '=HYPERLINK("http://x.example","w")'),
    "minus": ("-5", "-5"),
    "other script": ("テント 七", "テント 七"),
    "right to left": ("خيمة\u202e 3", "خيمة 3"),
    "line breaks": ("Alto\r\n\x07 9", "Alto 9"),
    "long": ("x" * 5_000, "x" * 200),
    "sign alone": ("+", "+"),
}


@pytest.mark.parametrize("case", ODD)
def test_odd_names(run, case, tmp_path):
    given, clean = ODD[case]
    assert clean_value(given) == clean
    table = pd.DataFrame({"name": [given, "Alto 1"], "n": [3, 4], "kg": ["2 kg", "3 kg"], "cover": ["rain cover"] * 2})
    table.to_csv(tmp_path / "in.csv", index=False)
    generate(run, products=tmp_path / "in.csv", n=1, must_have="name", out=tmp_path / "out.csv", language="en")
    rows = list(csv.DictReader(io.StringIO((tmp_path / "out.csv").read_text(encoding="utf-8"))))
    assert len(rows) == 2 and rows[0]["copy_1"]
    assert not rows[0]["copy_1"].startswith(("=", "+", "-", "@")) and "<script" not in rows[0]["copy_1"]


def test_formulas_are_disarmed():
    assert [safe_cell(x) for x in ("=1+1", "+A1", "-2", "@x", "a=1", "")] == ["'=1+1", "'+A1", "'-2", "'@x", "a=1", ""]


EMPTY = (
    (Product({}), "no attributes"),
    (Product({"n": ("3",)}, "en"), "name empty"),
    (Product({"name": ("A",), "cover": ("rain cover", "no rain cover")}, "en"), "contradiction"),
    (Product({"name": ("A",), "n": ("3",)}, "fr"), "'fr' was not learned"),
)


@pytest.mark.parametrize(("product", "told"), EMPTY, ids=["nothing", "no name", "contradiction", "language"])
def test_empty_and_contradicting_attributes_are_noted(run, product, told):
    row = write_copy(open_copy_model(run), [product], CopyGenerateOptions(must_have="name"))[0]
    assert told in row[0].note


def test_contradictions():
    assert contradictions(Product({"a": ("waterproof",), "b": ("not waterproof",)})) and not contradictions(Product({"a": ("red", "blue")}))


REFUSED = (
    ({"must_have": "colour"}, "not an attribute"),
    ({"tone": "angry"}, "not a tone"),
    ({"language": "fr"}, "no text in 'fr'"),
    ({"length": "tiny"}, "not a value of --length"),
    ({"n": 99}, "at most 20"),
    ({"prompt": "Hello"}, "--prompt"),
    ({"products": None}, "a table of products is needed"),
    ({"products": pd.DataFrame({"x": [1]})}, "none of the attributes"),
)


@pytest.mark.parametrize(("options", "told"), REFUSED, ids=[next(iter(o)) + str(i) for i, (o, _) in enumerate(REFUSED)])
def test_what_cannot_be_asked_is_refused(run, options, told):
    with pytest.raises(AimtError, match=told):
        generate(run, **({"products": tents(3)} | options))


TABLES = (
    (tents(20), {}, "too few"),
    (tents(60)[["description"]], {}, "no attributes"),
    (tents(60).rename(columns={"description": "words"}), {}, "which column has the texts"),
    (tents(60), {"text": "nothing"}, "no column 'nothing'"),
    (tents(60), {"size": "huge"}, "is not a size"),
    (tents(300).assign(description="An offer that you cannot refuse."), {}, "hardly any text states"),
)


@pytest.mark.parametrize(("table", "options", "told"), TABLES, ids=["few", "no facts", "no text", "column", "size", "unrelated"])
def test_tables_that_cannot_be_learned_from_are_refused(table, options, told, tmp_path):
    with pytest.raises(AimtError, match=told):
        train(table, kind="copy", out=tmp_path / "run", quiet=True, steps=2, **options)


def test_many_rows_keep_their_columns(run, tmp_path):
    many = tents(1_200, seed=3).assign(sku=lambda f: [f"00{i}" for i in range(len(f))])
    many.to_csv(tmp_path / "in.csv", index=False)
    made = generate(run, products=tmp_path / "in.csv", candidates=0, length="short", out=tmp_path / "out.csv")
    back = pd.read_csv(tmp_path / "out.csv", dtype=str)
    assert len(made.samples) == len(back) == 1_200 and back["sku"].tolist() == many["sku"].tolist()
    assert back["copy_1"].notna().all()


def test_the_same_seed_writes_the_same(run):
    first, again, other = (generate(run, products=tents(6), seed=s).samples for s in (1, 1, 2))
    assert first == again != other


def test_training_goes_on_from_an_earlier_run(run, tmp_path):
    common = {"kind": "copy", "steps": 2, "size": "tiny", "quiet": True}
    fresh = train(tents(160, seed=7), out=tmp_path / "fresh", **common)
    on = train(tents(160, seed=7), model=run.path, out=tmp_path / "on", **common)
    assert on.read("metrics.json")["valid_nats"] < 0.8 * fresh.read("metrics.json")["valid_nats"]
    assert open_copy_model(on).codec == open_copy_model(run).codec, "on its own words"


def test_a_network_that_is_no_run_is_refused(tmp_path):
    T5.from_config(T5Config(vocab_size=50, d_model=16, d_kv=8, d_ff=32, n_layer=1, n_decoder_layer=1, n_head=2)).save_pretrained(
        tmp_path / "t5"
    )
    with pytest.raises(AimtError, match="run.json"):
        train(tents(160), kind="copy", steps=1, model=tmp_path / "t5", out=tmp_path / "run", quiet=True)


def test_lists_and_names_are_found():
    schema = find_attributes(tents(40).assign(extras="bag; pegs"), "description")
    assert schema.name == "name" and schema.lists == {"extras": ";"} and schema.language == "language"

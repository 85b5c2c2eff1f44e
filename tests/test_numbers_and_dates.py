"""Numbers, dates, rows and cells mean at prediction what they meant in training."""

import csv
import io
import json
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from aimt.cli.main import app
from aimt.core.errors import DataError, ProblemError
from aimt.core.progress import Progress
from aimt.data.table.infer_problem import define_problem, encode_target
from aimt.data.io.load import load_table
from aimt.data.table.infer_schema import infer_schema
from aimt.data.series.panel import read_panel
from aimt.data.split.split import split_rows, time_values
from aimt.jobs.verbs.evaluate import score_lines
from aimt.jobs.shared.run_rows import read_rows
from aimt.jobs.kinds.table import TableOptions
from aimt.jobs.steps.table import begin, define
from aimt.jobs.verbs.train import train

openpyxl = pytest.importorskip("openpyxl")

pytestmark = pytest.mark.usefixtures("no_drawing")


def workbook(path: Path, rows: list[list], merge: tuple[str, ...] = (), more: dict[str, list[list]] | None = None) -> Path:
    book = openpyxl.Workbook()
    book.active.title = "Data"
    for row in rows:
        book.active.append(row)
    for ref in merge:
        book.active.merge_cells(ref)
    for name, cells in (more or {}).items():
        sheet = book.create_sheet(name)
        for row in cells:
            sheet.append(row)
    book.save(path)
    return path


TOWNS = [["town", "sales", "rate"], ["Bonn", 12, 0.5], ["Kiel", 7, 0.25]]
FRAME = pd.DataFrame(TOWNS[1:], columns=TOWNS[0])


@pytest.mark.parametrize("above", [[["Sales of May"], []], [["Sales of May"]], [[None, "Sales", None], [None], ["by town"]], [[], []]])
def test_excel_title_above_the_names(tmp_path, above):
    table = load_table(workbook(tmp_path / "t.xlsx", above + TOWNS))
    pd.testing.assert_frame_equal(table.frame, FRAME)
    assert all(any(title in w for w in table.warnings) for row in above for title in row if title)


def test_excel_merged_title(tmp_path):
    table = load_table(workbook(tmp_path / "t.xlsx", [["Sales of May", None, None], *TOWNS], ("A1:C1",)))
    pd.testing.assert_frame_equal(table.frame, FRAME)


def test_excel_merged_cells_all_have_their_value(tmp_path):
    rows = [["region", "town", "sales"], ["north", "Kiel", 7], [None, "Husum", 3], ["south", "Ulm", 5], [None, "Passau", 2]]
    table = load_table(workbook(tmp_path / "t.xlsx", rows, ("A2:A3", "A4:A5")))
    assert table.frame["region"].tolist() == ["north", "north", "south", "south"]
    assert any("merged" in w for w in table.warnings)


@pytest.mark.parametrize("merge", [("B1:C1", "D1:E1"), ("A1:A2", "B1:C1", "D1:E1")])
def test_excel_names_in_two_rows(tmp_path, merge):
    rows = [[None, 2023, None, 2024, None], ["town", "May", "June", "May", "June"], ["Bonn", 1, 2, 3, 4], ["Kiel", 5, 6, 7, 8]]
    if "A1:A2" in merge:
        rows[0][0], rows[1][0] = "town", None
    table = load_table(workbook(tmp_path / "t.xlsx", rows, merge))
    assert list(table.frame) == ["town", "2023 May", "2023 June", "2024 May", "2024 June"]
    assert table.frame["2024 June"].tolist() == [4, 8]


def test_excel_formula_without_value(tmp_path):
    rows = [["a", "b"], [1, "=A2*2"], [2, "=A3*2"]]
    with pytest.raises(DataError, match=r"2 formulas .*B2 \(=A2\*2\).*save it there"):
        load_table(workbook(tmp_path / "t.xlsx", rows))


def test_excel_first_sheet_is_a_cover(tmp_path):
    book = workbook(tmp_path / "t.xlsx", [["Made by Ada"], ["Ask her"]][:1], more={"May": TOWNS, "June": TOWNS})
    table = load_table(book)
    pd.testing.assert_frame_equal(table.frame, FRAME)
    assert any("'May' was read" in w and "'June'" in w for w in table.warnings)


@pytest.mark.parametrize("first", ["sep=;\n", "SEP=;\r\n", '"sep=;"\n', "\ufeffsep=;\n"])
def test_stated_delimiter_is_no_row(tmp_path, first):
    path = tmp_path / "t.csv"
    path.write_bytes((first + "town;note;sales\nBonn;a,b;12\nKiel;c,d;7\n").encode())
    table = load_table(path)
    assert list(table.frame) == ["town", "note", "sales"] and table.frame["sales"].tolist() == [12, 7]


# --- numbers mean the same later


def table_of(n: int = 240, seed: int = 0) -> pd.DataFrame:
    g = np.random.default_rng(seed)
    frame = pd.DataFrame({"rent": g.integers(2, 30, n) * 1000, "rate": g.integers(1, 999, n) / 1000, "town": g.choice(["Bonn", "Köln"], n)})
    return frame.assign(y=np.where(frame.rent + 5000 * g.normal(size=n) > 15000, "yes", "no"))


def german(frame: pd.DataFrame) -> str:
    text = frame.assign(rent=[f"{v:,}".replace(",", ".") for v in frame.rent], rate=[f"{v:.3f}".replace(".", ",") for v in frame.rate])
    return text.to_csv(index=False, sep=";")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    at = tmp_path_factory.mktemp("german")
    (at / "train.csv").write_text(german(table_of()), encoding="utf-8")
    return train(at / "train.csv", target="y", sensitive_features="none", out=at / "run", time_limit=1, quiet=True)


NEW = table_of(60, 1).drop(columns="y")


@pytest.mark.parametrize(
    "rows",
    [NEW, NEW.head(1), NEW[["rent", "town"]].assign(rate=0.5), NEW[["rent", "town"]].assign(rate=0.125), NEW.assign(rate=0.0)],
    ids=["all", "one row", "one decimal", "0,125 alone", "whole numbers"],
)
def test_german_numbers_mean_the_same_later(run, tmp_path, rows):
    """8.000 is eight thousand in any file, as it was in training, and 0,125 an eighth."""
    rows = rows.reset_index(drop=True)
    (tmp_path / "new.csv").write_text(german(rows), encoding="utf-8")
    expected = run.predict(rows, quiet=True)["probability"].to_numpy()
    read = run.predict(tmp_path / "new.csv", quiet=True)
    assert np.allclose(read["probability"], expected)
    for chunk in (1, 7, 1000):
        out = run.predict(tmp_path / "new.csv", out=tmp_path / "out.csv", chunk_rows=chunk, overwrite=True, quiet=True)
        assert np.allclose(load_table(out).frame["probability"], expected)
    assert [r["row"] for r in run.explain(tmp_path / "new.csv")] == [0]


def test_english_numbers_after_german_training(run, tmp_path):
    NEW.to_csv(tmp_path / "new.csv", index=False)
    assert np.allclose(run.predict(tmp_path / "new.csv", quiet=True)["probability"], run.predict(NEW, quiet=True)["probability"])


def test_evaluate_reads_as_in_training(run, tmp_path):
    rows = table_of(100, 2)
    (tmp_path / "new.csv").write_text(german(rows), encoding="utf-8")
    assert run.evaluate(tmp_path / "new.csv")["table"] == run.evaluate(rows)["table"]


@pytest.mark.parametrize(
    ("training", "new", "value"),
    [
        (["0,125", "0,250", "0,5"], "0,125", 0.125),
        (["0,125", "0,250", "0,375"], "0,125", 0.125),
        (["1.234,5", "8.000", "12"], "8.000", 8000),
        (["1.234", "8.000", "12.345.678"], "8.000", 8000),
        (["1,234.5", "8,000", "12"], "8,000", 8000),
        (["1.5", "2.25", "8.000"], "8.000", 8),
        (["$1,234", "$8,000", "$12"], "$8,000", 8000),
        (["1 234,5", "8 000", "12"], "8 000", 8000),
        (["1'234.5", "8'000", "12"], "8'000", 8000),
        (["12,5 %", "0,125 %", "7 %"], "0,125 %", 0.125),
    ],
)
def test_a_single_number_is_read_as_its_training_column(training, new, value):
    schema = infer_schema(pd.DataFrame({"x": training * 10}))
    read, warnings = schema.conform(pd.DataFrame({"x": [new]}))
    assert read["x"].tolist() == [value] and not warnings


def test_the_other_columns_tell_what_one_leaves_open():
    frame = pd.DataFrame({"open": ["8.000", "12.500"], "sure": ["0,5", "1,25"]})
    assert infer_schema(frame).conform(frame)[0]["open"].tolist() == [8000, 12500]
    alone = infer_schema(frame[["open"]])
    assert any("two ways" in note and "'8.000'" in note for note in alone.notes)


def test_a_file_with_another_decimal_mark_is_said():
    schema = infer_schema(pd.DataFrame({"a": [1.5, 2.5], "b": [8000, 9000]}))
    read, warnings = schema.conform(pd.DataFrame({"a": ["1,5", "0,125"], "b": ["8.000", "9.000"]}))
    assert read["a"].tolist() == [1.5, 0.125] and read["b"].tolist() == [8000, 9000]
    assert any("decimals with ','" in w for w in warnings)


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_file_has_one_decimal_mark(tmp_path, delimiter):
    rows = [["rent", "rate"], ["8.000", "0,5"], ["12.500", "1,25"], ["900", "3"]]
    quote = (lambda c: f'"{c}"') if delimiter == "," else str
    (tmp_path / "t.csv").write_text("\n".join(delimiter.join(map(quote, r)) for r in rows))
    table = load_table(tmp_path / "t.csv")
    assert table.frame["rent"].tolist() == [8000, 12500, 900] and table.frame["rate"].tolist() == [0.5, 1.25, 3]


# --- values that training did not meet


@pytest.mark.parametrize("factor", [10, 100, 1000, 0.1, 0.01, 0.001, -1])
def test_scaled_and_negated_columns_are_said(run, factor, capsys):
    run.predict(NEW.assign(rent=NEW.rent * factor))
    said = capsys.readouterr().err
    text = "opposite sign" if factor < 0 else f"{factor:g} times as large" if factor > 1 else f"{1 / factor:g} times smaller"
    assert text in said and "'rent'" in said and "60 rows" in said


def test_values_outside_the_training_range_are_counted(run, tmp_path, capsys):
    rows = NEW.assign(rent=[500_000, 400_000, *NEW.rent[2:]])
    (tmp_path / "new.csv").write_text(german(rows), encoding="utf-8")
    for options in ({}, {"out": tmp_path / "out.csv", "chunk_rows": 13}):
        run.predict(tmp_path / "new.csv", **options)
        assert (
            "'rent': 2 of 60 values lie outside the training range of 2000 to 29000 (2 above, as far as 500000)" in capsys.readouterr().err
        )
    scores = run.evaluate(table_of(60, 3).assign(rent=lambda d: [500_000, *d.rent[1:]]))
    assert any("'rent': 1 of 60" in w for w in scores["warnings"])


# --- cells


AWKWARD = (
    'id;"rent";rate;note;town;y\r\n007;8.000;0,125;"say ""hi""; or not";Köln;yes\r\n08;12.500;0,50;NA;"Bonn"; no \r\n'
    '+9;1.000,00;,5;"two\r\nlines";?;\r\n1e5;900;0;01.02.2024;None;null'
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["", "\r\n"])
@pytest.mark.parametrize("chunk", [1, 3, 1000])
def test_untouched_cells_stay_byte_for_byte(run, tmp_path, encoding, end, chunk):
    raw = (AWKWARD + end).encode(encoding)
    (tmp_path / "new.csv").write_bytes(raw)
    run.predict(tmp_path / "new.csv", out=tmp_path / "out.csv", chunk_rows=chunk, quiet=True)
    made = (tmp_path / "out.csv").read_bytes()
    text = made.decode(encoding)
    rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=";"))
    assert rows[0][6:] == ["prediction", "probability", "decision"] and [len(r) for r in rows] == [9] * 5
    for row in rows:  # without the new fields, the bytes are those of the source
        text = text.replace(";" + ";".join(row[6:]), "", 1)
    assert text.encode(encoding) == raw
    assert all(0 <= float(row[7].replace(",", ".")) <= 1 for row in rows[1:])


def test_invalid_bytes_and_nuls_stay(run, tmp_path):
    raw = "rent;rate;town\n8.000;0,5;Kö\n".encode() * 3 + b"9.000;0,5;K\xf6\x00ln\n"
    (tmp_path / "new.csv").write_bytes(raw)
    run.predict(tmp_path / "new.csv", out=tmp_path / "out.csv", quiet=True)
    assert [line.rsplit(b";", 3)[0] for line in (tmp_path / "out.csv").read_bytes().split(b"\n")[1:]] == raw.split(b"\n")[1:]


def test_json_lines_and_parquet_stay(run, tmp_path):
    lines = '{"rent": 8000.10, "rate": 0.50, "town": "K\\u00f6ln", "id": 12345678901234567890}\n{ "rent" :9e3,"rate":1, "town":null }\n'
    (tmp_path / "new.jsonl").write_text(lines)
    run.predict(tmp_path / "new.jsonl", out=tmp_path / "out.jsonl", quiet=True)
    for before, after in zip(lines.splitlines(), (tmp_path / "out.jsonl").read_text().splitlines(), strict=True):
        assert after.startswith(before[:-1].rstrip()) and "probability" in json.loads(after)
    table = pa.table(
        {
            "rent": pa.array([8000, None], pa.int32()),
            "rate": pa.array([Decimal("0.50"), None]),
            "town": pa.array(["Bonn", "Köln"]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "new.parquet")
    run.predict(tmp_path / "new.parquet", out=tmp_path / "out.parquet", quiet=True)
    assert pq.read_table(tmp_path / "out.parquet").select(table.column_names).equals(table)


def test_codes_stay_in_parquet(run, tmp_path):
    NEW.head(3).assign(code=["007", "010", "123"], note="1.50").to_csv(tmp_path / "new.csv", index=False)
    run.predict(tmp_path / "new.csv", out=tmp_path / "out.parquet", quiet=True)
    made = pd.read_parquet(tmp_path / "out.parquet")
    assert made["code"].tolist() == ["007", "010", "123"] and made["rent"].tolist() == NEW["rent"].head(3).tolist()


@pytest.mark.parametrize("link", ["same", "symlink", "relative"])
def test_predict_spares_its_input(run, tmp_path, link, monkeypatch):
    path = tmp_path / "new.csv"
    path.write_text(german(NEW), encoding="utf-8")
    out = {"same": path, "symlink": tmp_path / "link.csv", "relative": Path("new.csv")}[link]
    if link == "symlink":
        out.symlink_to(path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match="over the table itself.*--overwrite"):
        run.predict(path, out=out, quiet=True)
    assert path.read_text(encoding="utf-8") == german(NEW)
    run.predict(path, out=out, overwrite=True, quiet=True)
    assert len(load_table(out).frame.columns) == 6


# --- rows and classes


def test_evaluate_counts_every_row(run):
    rows = table_of(100, 4).assign(y=lambda d: ["maybe"] * 7 + ["never"] * 3 + [None] * 5 + d.y[15:].tolist())
    found = run.evaluate(rows)
    assert found["rows"]["unknown"] == {"maybe": 7, "never": 3} and found["rows"]["without_outcome"] == 5
    lines = "\n".join(score_lines(found))
    assert "10 of 100 rows have a class that the model does not know, 'maybe' (7), 'never' (3)" in lines and "5 of 100" in lines
    with pytest.raises(DataError, match="'maybe'"):
        run.evaluate(rows.head(7))


@pytest.mark.parametrize("kind", ["frame", "csv", "parquet", "german", "inputs first"])
def test_evaluate_scores_rows_of_the_training_apart(run, tmp_path, kind):
    """Whatever the order, the format and the company they are in."""
    fresh, old = table_of(150, 9), table_of().sample(frac=1, random_state=3)
    rows = pd.concat([fresh, old]).sample(frac=1, random_state=1, ignore_index=True)
    source = rows if kind in ("frame", "inputs first") else tmp_path / "rows.any"
    if kind == "inputs first":
        source = rows[["town", "rate", "y", "rent"]]
    elif kind == "csv":
        rows.to_csv(source, index=False)
    elif kind == "parquet":
        rows.to_parquet(source)
    elif kind == "german":
        source.write_text(german(rows), encoding="utf-8")
    trained = int((pd.read_parquet(run.file("splits.parquet"))["part"] == "train").sum())
    found = run.evaluate(source)
    assert found["trained_on"]["n_rows"] == trained and found["n_rows"] == len(rows) - trained
    assert any(f"{trained} other rows are rows that the model was trained on" in line for line in score_lines(found))
    alone = run.evaluate(fresh)
    assert "trained_on" not in alone and alone["n_rows"] == 150
    table = [{**row, "low": 0, "high": 0} for row in alone["table"]]
    both = run.evaluate(pd.concat([fresh, old.loc[pd.read_parquet(run.file("splits.parquet")).query("part == 'train'").row]]))
    assert [{**row, "low": 0, "high": 0} for row in both["table"]] == table


def test_evaluate_says_when_all_rows_were_in_the_training(run):
    rows = table_of().loc[pd.read_parquet(run.file("splits.parquet")).query("part == 'train'").row].head(40)
    found = run.evaluate(rows.reset_index(drop=True))
    assert found["trained_on"]["n_rows"] == 40
    assert any("trained on all 40 of these rows" in line for line in score_lines(found))


def test_rows_that_are_equal_by_nature_are_not_called_rows_of_the_training(tmp_path):
    def coarse(n: int, seed: int) -> pd.DataFrame:
        g = np.random.default_rng(seed)
        frame = pd.DataFrame({"a": g.integers(0, 4, n), "b": g.choice(["x", "y"], n), "c": g.integers(0, 3, n)})
        return frame.assign(y=np.where(frame.a + g.normal(size=n) > 1.5, "yes", "no"))

    made = train(coarse(300, 0), target="y", sensitive_features="none", out=tmp_path / "run", time_limit=1, quiet=True)
    assert "trained_on" not in made.evaluate(coarse(200, 1))
    assert made.evaluate(coarse(300, 0))["trained_on"]["n_rows"] >= 200  # its own table: no guess is needed


def test_one_accuracy_in_one_evaluation(run):
    rows = table_of(300, 4).assign(y=lambda d: ["maybe"] * 30 + d.y[30:].tolist())
    found = run.evaluate(rows)
    shown = next(row["value"] for row in found["table"] if row["metric"] == "accuracy")
    assert found["rows"]["accuracy"] == shown and found["rows"]["accuracy_with_unknown"] == pytest.approx(shown * 270 / 300)
    line = next(line for line in score_lines(found) if "Every answer about them is wrong" in line)
    assert f"instead of {shown:.4g}" in line


@pytest.mark.parametrize("word", ["None", "NA", "null", "n/a", "?", "#N/A"])
@pytest.mark.parametrize("kind", ["csv", "xlsx", "jsonl", "frame"])
def test_words_for_missing_in_the_target(tmp_path, word, kind):
    g = np.random.default_rng(0)
    frame = pd.DataFrame({"x": g.normal(size=90), "z": g.normal(size=90), "use": ["Low", word, "High"] * 30})
    path = frame if kind == "frame" else tmp_path / f"t.{kind}"
    if kind == "csv":
        frame.to_csv(path, index=False)
    elif kind == "xlsx":
        frame.to_excel(path, index=False)
    elif kind == "jsonl":
        frame.to_json(path, orient="records", lines=True)
    left = begin(path, TableOptions(target="use", sensitive_features="none"), Progress(quiet=True))
    define(left)
    assert left.problem.labels == ["High", "Low"] and len(left.y) == 60
    assert any(repr(word) in note and "30 rows" in note and "--missing-labels class" in note for note in left.notes)
    asked = begin(path, TableOptions(target="use", sensitive_features="none", missing_labels="class"), Progress(quiet=True))
    define(asked)
    assert set(asked.problem.labels) == {"High", "Low", word} and len(asked.y) == 90


@pytest.mark.parametrize("word", ["None", "NA", "null"])
@pytest.mark.parametrize("kind", ["csv", "xlsx", "jsonl", "frame"])
def test_a_word_for_missing_that_is_one_of_two_classes_is_asked_about(tmp_path, word, kind):
    frame = pd.DataFrame({"x": np.arange(90.0), "use": ["Some", word, "Some"] * 30})
    path = frame if kind == "frame" else tmp_path / f"t.{kind}"
    if kind != "frame":
        {"csv": frame.to_csv, "xlsx": frame.to_excel, "jsonl": lambda p, index: frame.to_json(p, orient="records", lines=True)}[kind](
            path, index=False
        )
    work = begin(path, TableOptions(target="use", sensitive_features="none"), Progress(quiet=True))
    with pytest.raises(ProblemError, match=f"'{word}' in 30 rows of 'use' is taken for a missing value.*--missing-labels class"):
        define(work)


def test_a_class_called_none_is_kept_from_train_to_compact(tmp_path):
    frame = table_of(150).assign(y=lambda d: np.where(d.y == "yes", "Some", "None"))
    frame.to_csv(tmp_path / "t.csv", index=False)
    made = train(
        tmp_path / "t.csv", target="y", sensitive_features="none", missing_labels="class", out=tmp_path / "run", time_limit=1, quiet=True
    )
    assert made.evaluate(tmp_path / "t.csv")["rows"]["scored"] == 150
    assert len(read_rows(made, tmp_path / "t.csv").y) == 150


# --- dates


def dated(form: str, n: int = 400, seed: int = 0, **more: object) -> pd.DataFrame:
    g = np.random.default_rng(seed)
    days = pd.date_range("2022-12-05", periods=n, freq="37h").normalize()[g.permutation(n)]
    frame = pd.DataFrame({"day": days.strftime(form), "x": g.normal(size=n), "z": g.normal(size=n), **more})
    return frame.assign(y=np.where(frame.x + g.normal(size=n) > 0, "yes", "no"))


FORMATS = [
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d.%m.%Y",
    "%m.%d.%Y",
    "%Y-%m-%d",
    "%Y/%m/%d",
    "%d-%m-%y",
    "%d/%m/%y",
    "%d-%m-%Y %H:%M",
    "%d/%m/%Y %H:%M:%S",
    "%d-%m-%YT%H:%M:%S",
    "%d %b %Y",
    "%b %d, %Y",
]


@pytest.mark.parametrize("form", FORMATS)
def test_a_split_by_time_has_no_training_row_after_the_test(form):
    frame = dated(form)
    problem, _ = define_problem(frame, target="y", time="day", sensitive_features="none")
    y, _ = encode_target(frame, problem)
    split = split_rows(frame, problem, y)
    times = pd.to_datetime(frame.day, format=form)
    assert times[split.train].max() < times[split.test].min()
    last, first = (str(t)[:10] for t in (times[split.train].max(), times[split.test].min()))
    assert last in split.notes[0] and first in split.notes[0]


def test_an_order_that_only_a_late_row_tells():
    days = pd.date_range("2020-01-01", periods=4000)
    texts = [d.strftime("%d-%m-%Y") for d in days if d.day <= 12] + ["25-12-2021"]
    assert infer_schema(pd.DataFrame({"d": texts[::-1]}))["d"].date_format == "%d-%m-%Y"


def ambiguous(n: int = 240, seed: int = 0) -> pd.DataFrame:
    g = np.random.default_rng(seed)
    frame = pd.DataFrame({"day": [f"{a:02}/{b:02}/2024" for a, b in g.integers(1, 13, (n, 2))], "x": g.normal(size=n)})
    return frame.assign(y=np.where(frame.x + g.normal(size=n) > 0, "yes", "no"))


def test_ambiguous_dates_are_said_and_can_be_given():
    frame = ambiguous()
    schema = infer_schema(frame)
    assert any("two ways" in n and "--date-format '%d/%m/%Y'" in n for n in schema.notes)
    given = infer_schema(frame, date_format="%d/%m/%Y")
    assert given["day"].date_format == "%d/%m/%Y" and not any("two ways" in n for n in given.notes)
    with pytest.raises(ProblemError, match="no column contains dates written like '%Y.%m.%d'"):
        infer_schema(frame, date_format="%Y.%m.%d")
    with pytest.raises(ProblemError, match="is not a date format"):
        infer_schema(frame, date_format="day first")


@pytest.mark.parametrize("form", ["%d%m%Y", "%m%d%Y", "%m%Y", "%d%m%y", "%m%d%y"])
def test_dates_of_digits_that_do_not_sort_like_time_do_not_order_the_rows(form):
    frame = dated(form).assign(day=lambda d: d.day.astype(int))
    with pytest.raises(ProblemError, match=f"do not sort like time.*--date-format {form}"):
        define_problem(frame, target="y", time="day", sensitive_features="none")


@pytest.mark.parametrize("start", [10_100, 11_900, 101_000, 20_230_101, 1_012_000, 311_200, 1_700_000_000])
def test_counters_and_dates_that_sort_like_time_order_the_rows(start):
    frame = dated("%Y%m%d").assign(day=np.arange(400) + start)
    assert define_problem(frame, target="y", time="day", sensitive_features="none")[0].time == "day"
    for form in ("%Y%m%d", "%y%m%d", "%Y%m"):
        frame = dated(form).assign(day=lambda d: d.day.astype(int))
        assert define_problem(frame, target="y", time="day", sensitive_features="none")[0].time == "day"


def test_rows_in_order_or_another_column_tell_the_order():
    days = pd.date_range("2024-01-01", "2024-12-12")
    days = days[days.day <= 12]
    frame = pd.DataFrame({"day": days.strftime("%d/%m/%Y"), "x": range(len(days))})
    assert infer_schema(frame)["day"].date_format == "%d/%m/%Y"
    mixed = frame.sample(frac=1, random_state=0, ignore_index=True).assign(other="31/12/2023")
    assert infer_schema(mixed)["day"].date_format == "%d/%m/%Y"


def test_rows_that_do_not_fit_the_format_are_counted():
    frame = dated("%d-%m-%Y")
    frame.loc[[3, 8], "day"] = ["12-25-2023", "soon"]
    notes = infer_schema(frame[["day"]]).notes
    assert any("2 values in 'day' are not readable as date" in n and "row 4: '12-25-2023'" in n for n in notes)
    assert any("1 date in 'day' is written %m-%d-%Y" in n for n in notes)
    schema = infer_schema(dated("%d-%m-%Y"))
    _, warnings = schema.conform(dated("%m-%d-%Y").drop(columns="y"), ["day"])
    assert any("day and month in the wrong places" in w for w in warnings)


def test_mixed_formats_are_said_with_rows():
    frame = dated("%Y-%m-%d")
    frame.loc[::3, "day"] = dated("%d.%m.%Y")["day"][::3]
    assert any("row 1: " in n and "row 2: " in n and "several ways" in n for n in infer_schema(frame).notes)
    with pytest.raises(ProblemError, match="several ways"):
        define_problem(frame, target="y", time="day", sensitive_features="none")
    with pytest.raises(ProblemError, match="several ways"):
        time_values(frame["day"])


def test_date_format_of_the_command(tmp_path):
    frame = ambiguous()
    frame.to_csv(tmp_path / "t.csv", index=False)
    made = train(
        tmp_path / "t.csv",
        target="y",
        time="day",
        date_format="%d/%m/%Y",
        sensitive_features="none",
        out=tmp_path / "run",
        time_limit=1,
        quiet=True,
    )
    splits = pd.read_parquet(made.file("splits.parquet"))
    times = pd.to_datetime(frame.day, format="%d/%m/%Y")[splits["row"]].to_numpy()
    assert times[splits["part"] == "train"].max() < times[splits["part"] == "test"].min()
    assert "earliest test row" in " ".join(made.read("metrics.json")["split"]["notes"])
    assert "by time: the latest rows are the test" in (made.path / "report.html").read_text(encoding="utf-8")


# --- forecasts


def monthly(form: str, n: int = 60) -> pd.DataFrame:
    months = pd.date_range("2019-01-01", periods=n, freq="MS")
    return pd.DataFrame({"month": months.strftime(form), "sales": 100 + 10 * np.sin(np.arange(n) / 12 * 2 * np.pi) + np.arange(n)})


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y", "%d-%m-%Y", "%m-%d-%Y", "%d.%m.%Y", "%d/%m/%y", "%d/%m/%Y %H:%M"])
def test_monthly_dates_make_months(form):
    panel = read_panel(monthly(form), target="sales", time="month")
    assert str(panel.step) == "month" and len(panel.values[0]) == 60 and panel.time_format == form
    assert any("two ways" in note for note in panel.notes)


@pytest.mark.parametrize("form", ["%d/%m/%Y", "%m/%d/%Y"])
def test_weekly_dates_of_several_series(form):
    weeks = pd.date_range("2024-01-01", periods=50, freq="7D")
    frame = pd.concat([pd.DataFrame({"day": weeks.strftime(form), "shop": s, "sales": range(50)}) for s in "ab"])
    assert str(read_panel(frame, target="sales", time="day", series="shop").step) == "week"


def test_a_forecast_with_ambiguous_dates_says_so_and_takes_an_order():
    days = [f"{d:02}/{m:02}/2024" for m in range(1, 13) for d in range(1, 13)]
    frame = pd.DataFrame({"day": days, "sales": range(144)}).sample(frac=1, random_state=0, ignore_index=True)
    panel = read_panel(frame, target="sales", time="day", freq="day")
    assert any("two ways" in note and "--date-format" in note for note in panel.notes)
    other = read_panel(frame, target="sales", time="day", freq="day", date_format="%d/%m/%Y")
    assert other.time_format == "%d/%m/%Y" and not any("two ways" in n for n in other.notes)
    with pytest.raises(DataError, match="read as %Y/%m/%d"):
        read_panel(frame, target="sales", time="day", date_format="%Y/%m/%d")


def test_the_future_is_read_as_the_past(tmp_path):
    days = pd.date_range("2024-01-01", periods=70)
    g = np.random.default_rng(0)
    price = g.choice([8000, 12500, 9000], 70)
    frame = pd.DataFrame(
        {
            "day": days.strftime("%d/%m/%Y"),
            "price": [f"{p:,}".replace(",", ".") for p in price],
            "share": [f"{s:.1f}".replace(".", ",") for s in g.random(70)],
            "sales": 2 * price + g.normal(0, 5, 70).round(),
        }
    )
    (tmp_path / "t.csv").write_text(frame.to_csv(index=False, sep=";", decimal=","))
    made = train(
        tmp_path / "t.csv", target="sales", time="day", known_covariates="price,share", horizon=3, out=tmp_path / "run", quiet=True
    )
    ahead = ["12/03/2024", "13/03/2024", "11/03/2024"]  # days 2, 3 and 1
    plain = pd.DataFrame({"day": pd.to_datetime(ahead, format="%d/%m/%Y"), "price": [8000, 9000, 12500], "share": [0.125, 0.5, 1.0]})
    expected = made.predict(plain, quiet=True)["forecast"]
    raw = "day;price;share\n12/03/2024;8.000;0,125\n13/03/2024;9.000;0,500\n11/03/2024;12.500;1\n"
    (tmp_path / "new.csv").write_text(raw)
    assert np.allclose(made.predict(tmp_path / "new.csv", quiet=True)["forecast"], expected)
    out = made.predict(tmp_path / "new.csv", out=tmp_path / "out.csv", quiet=True)
    assert np.allclose(load_table(out).frame["forecast"], expected)
    assert [line.split(";")[:3] for line in out.read_text().splitlines()] == [line.split(";") for line in raw.splitlines()]
    with pytest.raises(DataError, match="over the table itself"):
        made.predict(tmp_path / "new.csv", out=tmp_path / "new.csv", quiet=True)


def test_date_format_of_a_forecast(tmp_path):
    made = train(monthly("%d/%m/%Y"), target="sales", time="month", horizon=2, date_format="%d/%m/%Y", out=tmp_path / "run", quiet=True)
    assert made.predict(quiet=True)["month"].tolist() == [pd.Timestamp("2024-01-01"), pd.Timestamp("2024-02-01")]
    assert len(made.predict(pd.DataFrame({"month": ["01/01/2024", "01/02/2024"]}), quiet=True)) == 2


def test_options_of_the_command(tmp_path):
    ambiguous().to_csv(tmp_path / "t.csv", index=False)
    for command in (["train", "--date-format", "dd/mm"], ["audit", "--date-format", "%Y.%m.%d"], ["train", "--missing-labels", "ask"]):
        done = CliRunner().invoke(app, [command[0], str(tmp_path / "t.csv"), "--target", "y", *command[1:]])
        assert done.exit_code and "error: " in done.output and "Traceback" not in done.output


# --- further cases


def test_one_slip_does_not_change_the_decimal_mark():
    thousands = [f"{n},{n:03}" for n in range(100, 160)]
    schema = infer_schema(pd.DataFrame({"x": [*thousands, "1,234.5"]}))
    read, warnings = schema.conform(pd.DataFrame({"x": [*thousands, "1,2"]}))
    assert read["x"][0] == 100_100 and np.isnan(read["x"].iloc[-1]) and any("'1,2'" in w for w in warnings)
    slip = infer_schema(pd.DataFrame({"x": [*thousands, "1,2"]}))
    assert any("two ways" in n or "not readable" in n for n in slip.notes)


@pytest.mark.parametrize(("texts", "value"), [(["31/12/2024", "01/02/2024"], "2024-12-31"), (["12/31/2024", "02/01/2024"], "2024-12-31")])
def test_dates_that_were_no_text_in_training(texts, value):
    schema = infer_schema(pd.DataFrame({"d": pd.date_range("2024-01-01", periods=30)}))
    read, warnings = schema.conform(pd.DataFrame({"d": texts}))
    assert str(read["d"][0])[:10] == value and any("are read as %" in w for w in warnings)
    read, warnings = schema.conform(pd.DataFrame({"d": ["01/02/2024", "03/04/2024"]}))
    assert read["d"].isna().all() and any("could be read as" in w for w in warnings) and any("2 values" in w for w in warnings)


def test_dates_of_digits():
    frame = pd.DataFrame({"d": [20240131, 20240201, 20231115] * 10, "n": range(30)})
    assert infer_schema(frame)["d"].kind == "number"
    schema = infer_schema(frame, date_format="%Y%m%d")
    assert schema["d"].kind == "date" and schema["n"].kind == "number"
    for later in (20240131, "20240131"):
        assert str(schema.conform(pd.DataFrame({"d": [later], "n": [1]}))[0]["d"][0])[:10] == "2024-01-31"
    codes = pd.DataFrame({"d": ["01022024", "31122023"] * 10})
    assert str(infer_schema(codes, date_format="%d%m%Y").conform(codes)[0]["d"][0])[:10] == "2024-02-01"


def test_truth_written_as_numbers_with_decimals(tmp_path):
    (tmp_path / "t.csv").write_text("a;b\n" + "1,0;2,5\n0,0;3,5\n" * 10)
    table = load_table(tmp_path / "t.csv")
    schema = infer_schema(table.frame, number_formats=table.number_formats)
    assert schema.kind("a") == "boolean"
    assert schema.conform(pd.DataFrame({"a": ["1,0", "0.00", "1"], "b": ["2,5"] * 3}))[0]["a"].tolist() == [1, 0, 1]


@pytest.mark.parametrize("header", ["rent;rate;town\n", "\n\nrent;rate;town\n", "sep=;\nrent;rate;town\n", '"rent";"rate";"town"\r'])
@pytest.mark.parametrize("out", ["out.csv", "out.tsv", "out.csv.gz", "out.txt"])
def test_copies_of_odd_files(run, tmp_path, header, out):
    end = "\r" if header.endswith("\r") else "\n"
    (tmp_path / "new.csv").write_text(header + end.join(["8.000;0,5;Bonn", "9.000;0,125;a\tb", '7.000;1;"x;y"', ""]), newline="")
    made = run.predict(tmp_path / "new.csv", out=tmp_path / out, quiet=True)
    frame = load_table(made, text=["rent", "rate"]).frame
    assert list(frame)[:4] == ["rent", "rate", "town", "prediction"]
    assert frame["rent"].tolist() == ["8.000", "9.000", "7.000"] and frame["town"].tolist() == ["Bonn", "a\tb", "x;y"]


def test_lines_that_end_with_a_delimiter(run, tmp_path):
    (tmp_path / "new.csv").write_text("rent;rate;town\n8.000;0,5;Bonn;\n9.000;0,125;Ulm;\n")
    made = load_table(run.predict(tmp_path / "new.csv", out=tmp_path / "out.csv", quiet=True)).frame
    assert made["town"].tolist() == ["Bonn", "Ulm"] and set(made["prediction"]) <= {"yes", "no"}


def test_a_fault_far_down_leaves_nothing(run, tmp_path):
    (tmp_path / "new.csv").write_text("rent;rate;town\n" + "8.000;0,5;Bonn\n" * 50 + "8.000;0,5\n")
    with pytest.raises(DataError, match="line 52 has 2 fields"):
        run.predict(tmp_path / "new.csv", out=tmp_path / "out.csv", chunk_rows=10, quiet=True)
    assert not (tmp_path / "out.csv").exists()
    (tmp_path / "new.csv").write_text('rent;rate;town\n8.000;0,5;"Bonn\n9.000;0,5;Ulm\n')
    with pytest.raises(DataError, match="never closed"):
        run.predict(tmp_path / "new.csv", out=tmp_path / "out.csv", quiet=True)


def test_letters_that_the_encoding_lacks(tmp_path):
    frame = table_of(150).assign(y=lambda d: np.where(d.y == "yes", "šťastný", "no"))
    made = train(frame, target="y", sensitive_features="none", out=tmp_path / "run", time_limit=1, quiet=True)
    (tmp_path / "new.csv").write_bytes("rent,rate,town\n29000,0.5,Köln\n".encode("cp1252"))
    with pytest.raises(DataError, match="cannot be written in cp1252.*UTF-8"):
        made.predict(tmp_path / "new.csv", out=tmp_path / "out.csv", quiet=True)

"""Questions that do not fit the data, and later tables that do not fit the schema: one clear line, or a warning."""

import json

import numpy as np
import pandas as pd
import pytest

from aimt.core.errors import AimtError, DataError, ModelFormatError, ProblemError
from aimt.data.table.infer_problem import define_problem, encode_target, parse_cost
from aimt.data.table.features import DenseEncoder, FeatureEncoder, dense
from aimt.data.table.infer_schema import infer_schema
from aimt.data.table.schema import Schema

N = 200


@pytest.fixture
def table() -> pd.DataFrame:
    """Customers of a phone company: every kind of column, a target, a group, a date, an id."""
    rng = np.random.default_rng(0)
    note = "called about the bill for month {} and was told to wait for the {} letter"
    return pd.DataFrame(
        {
            "customer": [f"C{k:05d}" for k in range(N)],
            "joined": pd.date_range("2020-01-01", periods=N, freq="D"),
            "age": rng.integers(18, 90, N),
            "charges": rng.normal(60, 20, N).round(2),
            "plan": rng.choice(["basic", "pro", "team"], N),
            "gender": rng.choice(["female", "male"], N),
            "paperless": rng.integers(0, 2, N),
            "note": [note.format(k, "first" if k % 2 else "second") for k in range(N)],
            "churn": rng.choice(["No", "Yes"], N, p=[0.7, 0.3]),
        }
    )


def message(function, *args, **kwargs) -> str:
    """The one line of the error that must come."""
    with pytest.raises(AimtError) as caught:
        function(*args, **kwargs)
    text = str(caught.value)
    assert "\n" not in text and len(text) < 400 and caught.value.hint
    return text


# ---- target


@pytest.mark.parametrize("name", ["🙂 mood\n(today)", "=SUM(A1:A9)", "a,b;c", " spaced ", "'quoted\"", "\x1b[31mred\x00"])
def test_strange_names_work_and_print_on_one_line(table, name):
    table = table.rename(columns={"churn": name, "plan": "plan\t=1+1"})
    problem, notes = define_problem(table, target=name)
    assert problem.task == "binary" and problem.target == name
    assert all(c.isprintable() for note in notes for c in note)
    assert "\x1b" not in message(define_problem, table, target="\x1b[31m")
    assert Schema.from_dict(json.loads(json.dumps(infer_schema(table).to_dict()))) == infer_schema(table)


def test_target_constant(table):
    assert "same value in every row: 'No'" in message(define_problem, table.assign(churn="No"), target="churn")
    assert "same value in every row: '1'" in message(define_problem, table.assign(churn=1), target="churn")


def test_target_unique_per_row(table):
    assert "200 different texts" in message(define_problem, table, target="customer")
    assert "too many to be classes" in message(define_problem, table, target="note", task="multiclass")


@pytest.mark.parametrize("rows", [0, 1, 19])
def test_too_few_rows(table, rows):
    text = message(define_problem, table.head(rows), infer_schema(table), target="churn")
    assert f"only {rows} row" in text or (rows == 0 and "no value" in text)


def test_twenty_rows_are_few_but_enough(table):
    table = table.head(20).assign(churn=["No", "Yes"] * 10)
    problem, notes = define_problem(table, target="churn")
    assert problem.task == "binary" and any("20 rows are few" in n for n in notes)


def test_infinite_and_missing_numbers_in_the_target(table):
    target = table["charges"].to_numpy(copy=True)
    target[:5], target[5:9] = [np.inf, -np.inf, np.nan, np.inf, np.nan], np.nan
    problem, notes = define_problem(table.assign(charges=target), target="charges")
    assert problem.task == "regression" and any("9 of 200 rows" in n for n in notes)
    y, keep = encode_target(table.assign(charges=target), problem)
    assert np.isfinite(y).all() and len(y) == keep.sum() == N - 9


@pytest.mark.parametrize(
    ("values", "task", "labels"),
    [
        ([0, 1], "binary", ["0", "1"]),
        ([1.0, 2.0], "binary", ["1", "2"]),
        ([True, False], "binary", ["False", "True"]),
        (["good", "bad"], "binary", ["good", "bad"]),
        (["N", "Y"], "binary", ["N", "Y"]),
        ([0, 1, 2], "multiclass", ["0", "1", "2"]),
        (["a10", "a9", "a8"], "multiclass", ["a8", "a9", "a10"]),
        (list(range(1, 25)), "regression", []),
        ([10, 20, 35], "regression", []),
        ([0.5, 1.5, 2.5], "regression", []),
    ],
)
def test_task_and_labels(table, values, task, labels):
    problem, notes = define_problem(table.assign(churn=np.resize(values, N)), target="churn")
    assert (problem.task, problem.labels) == (task, labels) and any(task in n for n in notes)
    if labels:
        y, keep = encode_target(table.assign(churn=np.resize(values, N)), problem)
        assert keep.all() and [problem.labels[c] for c in y[:2]] == [
            str(v) if not isinstance(v, float) else f"{v:g}" for v in np.resize(values, N).tolist()[:2]
        ]


def test_labels_with_spaces_and_other_case_are_the_same(table):
    table["churn"] = table["churn"].where(table.index % 3 > 0, " " + table["churn"] + " ")
    problem, _ = define_problem(table, target="churn")
    assert problem.labels == ["No", "Yes"]
    assert encode_target(pd.DataFrame({"churn": ["yes", "NO", "1", True, "maybe", None]}), problem)[0].tolist() == [1, 0, 1, 1]


def test_capitals_in_labels(table):
    problem, _ = define_problem(table.assign(churn=["Yes", "yes", "No", "NO", "No"] * (N // 5)), target="churn")
    assert problem.task == "binary" and problem.labels == ["No", "Yes"]
    truth = table.assign(churn=["True", "true", "False", "false", "False"] * (N // 5))
    problem, _ = define_problem(truth, target="churn")
    assert problem.labels == ["False", "True"] and encode_target(truth, problem)[0][:4].tolist() == [1, 1, 0, 0]
    problem, _ = define_problem(table.assign(churn=["a", "A", "b", "c"] * (N // 4)), target="churn")
    assert problem.labels == ["A", "a", "b", "c"]


def test_numbers_as_text_in_the_target(table):
    target = table["charges"].map(lambda v: f"{v:,.2f} €")
    problem, _ = define_problem(table.assign(charges=target), target="charges")
    assert problem.task == "regression"
    np.testing.assert_allclose(encode_target(table.assign(charges=target), problem)[0], table["charges"])


def test_target_not_there_when_encoding(table):
    problem, _ = define_problem(table, target="churn")
    assert "'churn'" in message(encode_target, table.drop(columns="churn"), problem)


# ---- task, positive class, cost


def test_task_that_does_not_fit(table):
    assert "not a task" in message(define_problem, table, target="churn", task="binry")
    assert "no numbers" in message(define_problem, table, target="churn", task="regression")
    assert "not two" in message(define_problem, table, target="plan", task="binary")
    assert "too many to be classes" in message(define_problem, table, target="charges", task="classification")
    assert define_problem(table, target="paperless", task="regression")[0].task == "regression"


def test_positive_class(table):
    assert define_problem(table, target="churn", positive_label="No")[0].labels == ["Yes", "No"]
    assert "does not occur" in message(define_problem, table, target="churn", positive_label="Yess")
    assert define_problem(table, target="paperless", positive_label=0)[0].labels == ["1", "0"]
    with pytest.raises(ProblemError, match="regression"):
        define_problem(table, target="charges", positive_label="1")


@pytest.mark.parametrize("cost", ["fn", "fn=x", "fn=1,fn=2,fp=1", "miss=1", "fn=inf,fp=1", "fn=nan,fp=1", "fn=5", "fn=-1,fp=1", ""])
def test_wrong_costs(table, cost):
    message(parse_cost, cost)
    with pytest.raises(ProblemError):
        define_problem(table, target="churn", cost=cost)


def test_cost_needs_a_decision(table):
    assert "yes-or-no" in message(define_problem, table, target="charges", cost="fn=5,fp=1")
    assert parse_cost("fn=5; fp=1 tp=-2") == {"tp": -2.0, "fp": 1.0, "fn": 5.0, "tn": 0.0}
    assert define_problem(table, target="churn", cost={"fn": 5, "fp": 1})[0].cost["fn"] == 5.0


# ---- groups, time, id, drop


@pytest.mark.parametrize("part", ["sensitive_features", "time", "entity", "drop"])
def test_columns_that_are_not_there(table, part):
    assert "Did you mean 'gender'?" in message(define_problem, table, target="churn", **{part: "gendre"})
    with pytest.raises(ProblemError, match="is the target"):
        define_problem(table, target="churn", **{part: "churn"})


def test_roles(table):
    problem, _ = define_problem(table, target="churn", sensitive_features="gender, age", time="joined", entity="customer", drop=["note"])
    assert problem.inputs == ["age", "charges", "plan", "gender", "paperless"]
    assert (problem.sensitive_features, problem.time, problem.entity) == (["gender", "age"], "joined", "customer")
    table = table.rename(columns={"gender": "gender, self-reported"})
    assert define_problem(table, target="churn", sensitive_features="gender, self-reported")[0].sensitive_features == [
        "gender, self-reported"
    ]


def test_roles_that_do_not_fit(table):
    assert "cannot order the rows" in message(define_problem, table, target="churn", time="plan")
    assert "no groups" in message(define_problem, table, target="churn", sensitive_features="customer")
    assert "no column is left" in message(define_problem, table[["plan", "churn"]], target="churn", drop="plan")
    assert "no column is left" in message(define_problem, table[["churn"]], target="churn")


def test_table_without_target_name_says_what_it_took(table):
    problem, notes = define_problem(table)
    assert problem.target == "churn" and "the last column" in notes[0]
    problem, notes = define_problem(table.rename(columns={"plan": "Target"}))
    assert problem.target == "Target" and "by its name" in notes[0]


# ---- the table itself


def test_duplicate_names_and_no_columns(table):
    twice = pd.concat([table, table[["age"]]], axis=1)
    assert "two columns are called 'age'" in message(infer_schema, twice)
    with pytest.raises(DataError, match="no columns"):
        infer_schema(pd.DataFrame(index=range(5)))


def test_kinds_that_are_wrong(table):
    assert "Did you mean 'age'" in message(infer_schema, table, kinds={"agee": "number"})
    assert "not a kind" in message(infer_schema, table, kinds={"age": "numeric"})
    assert infer_schema(table, kinds={"age": "category"}).kind("age") == "category"


def test_infinite_mixed_and_empty_columns(table):
    table = table.assign(
        infinite=np.where(np.arange(N) < 3, np.inf, 1.5 * np.arange(N)),
        empty=np.nan,
        none=None,
        blank="  ",
        mixed=pd.Series([1, "a", 2.5, None, True] * (N // 5), dtype=object),
        nested=pd.Series([[1, 2], {"a": 1}, (3,), "x"] * (N // 4), dtype=object),
    )
    schema = infer_schema(table)
    assert [schema.kind(c) for c in ("infinite", "empty", "none", "blank", "mixed", "nested")] == [
        "number",
        "empty",
        "empty",
        "empty",
        "category",
        "category",
    ]
    assert any("3 values in 'infinite' are infinite" in n for n in schema.notes)
    inputs = [c for c in table if c != "churn"]
    X = FeatureEncoder(schema, inputs).fit_transform(table)
    assert not np.isinf(X).any()
    flat = dense(FeatureEncoder(schema, inputs).fit(table)).fit(X).transform(X)
    assert np.isfinite(flat).all()


def test_markers_among_numbers():
    numbers = [str(k) for k in range(150)]
    assert infer_schema(pd.DataFrame({"x": numbers + ["never"] * 100 + ["n/a"] * 20})).kind("x") == "number"
    assert infer_schema(pd.DataFrame({"x": numbers + [f"A{k}" for k in range(30)]})).kind("x") == "category"
    assert infer_schema(pd.DataFrame({"x": ["0", "1", "2", "3+"] * 40})).kind("x") == "category"
    assert infer_schema(pd.DataFrame({"x": numbers[:100] + ["never"] * 150})).kind("x") == "category"


def test_dates_out_of_range(table):
    dates = pd.Series(["2021-05-01"] * (N - 4) + ["9999-12-31", "0001-01-01", "2021-02-30", "1500-06-01"])
    schema = infer_schema(table.assign(day=dates))
    assert schema.kind("day") == "date" and schema["day"].high.startswith("2021") and schema["day"].low.startswith("2021")
    assert any("outside 1678 to 2261" in n for n in schema.notes) and any("not readable as date" in n for n in schema.notes)
    stored = pd.Series(np.array(["9999-12-31", "2021-05-01"], dtype="datetime64[s]"))
    out, warnings = schema.conform(pd.DataFrame({"day": stored}), ["day"])
    assert out["day"].isna().tolist() == [True, False] and any("outside" in w for w in warnings)


@pytest.mark.parametrize(
    "form",
    ["%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%Y-%m-%d", "%d-%b-%Y", "%B %d, %Y", "%Y/%m/%d %H:%M", "%m/%d/%Y %I:%M %p", "%Y-%m-%dT%H:%M:%SZ"],
)
def test_dates_as_text(table, form):
    days = pd.date_range("2021-01-05 15:00", periods=N, freq="7D")
    text = pd.Series([d.strftime(form) for d in days])
    schema = infer_schema(pd.DataFrame({"day": text}))
    assert schema.kind("day") == "date", text[0]
    read = schema.conform(pd.DataFrame({"day": text}))[0]["day"]
    assert (read.dt.normalize() == days.normalize()).all()


# ---- a later table


@pytest.fixture
def fitted(table):
    """A schema and an encoder fitted on the table."""
    schema = infer_schema(table)
    inputs = ["joined", "age", "charges", "plan", "gender", "paperless", "note"]
    return schema, FeatureEncoder(schema, inputs, text_dimensions=4).fit(table)


def test_same_table_has_no_warnings(table, fitted):
    schema, encoder = fitted
    assert schema.conform(table)[1] == [] and schema.conform(table, encoder.inputs)[1] == []
    assert schema.conform(table.iloc[:0])[1] == [] and encoder.transform(table.iloc[:0]).shape == (0, len(encoder.names))


def test_through_a_csv_and_back(table, fitted, tmp_path):
    """The way to a file and back changes the types of storage, not one encoded number."""
    schema, encoder = fitted
    table.to_csv(tmp_path / "t.csv", index=False)
    again = pd.read_csv(tmp_path / "t.csv")
    np.testing.assert_array_equal(encoder.transform(again), encoder.transform(table))
    np.testing.assert_array_equal(encoder.transform(again.astype(str)), encoder.transform(table))
    np.testing.assert_array_equal(encoder.transform(again.astype(object)), encoder.transform(table))


def test_unseen_categories_are_counted(table, fitted):
    schema, encoder = fitted
    later = table.assign(plan=["gold\n🙂"] * 7 + ["basic"] * (N - 7))
    out, warnings = schema.conform(later, encoder.inputs)
    assert len(warnings) == 1 and "7 values in 'plan' are of a category never seen" in warnings[0] and "\n" not in warnings[0]
    X = encoder.transform(later)
    assert len(set(X[:7, encoder.names.index("plan")])) == 1 and not np.isnan(X[:7, encoder.names.index("plan")]).any()


def test_missing_and_extra_columns(table, fitted):
    schema, encoder = fitted
    text = message(schema.conform, table.drop(columns="age").assign(Age=1), encoder.inputs)
    assert "'age' is missing" in text and "Did you mean 'Age'?" in text
    assert "columns 'age', 'plan' are missing" in message(encoder.transform, table.drop(columns=["age", "plan"]))
    out, warnings = schema.conform(table.drop(columns="age").assign(extra=1), encoder.inputs, allow_missing=True)
    assert out["age"].isna().all() and len(warnings) == 2 and "'extra' is not known" in warnings[1]


def test_order_of_columns_and_index_do_not_matter(table, fitted):
    schema, encoder = fitted
    shuffled = table[list(reversed(table.columns))].set_axis(np.arange(N)[::-1] * 3)
    np.testing.assert_array_equal(encoder.transform(shuffled), encoder.transform(table))
    assert list(schema.conform(shuffled, encoder.inputs)[0].columns) == encoder.inputs


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("age", ["35", " 40 ", "old", None], "1 value in 'age' is not readable as number"),
        ("age", [np.inf, 3, -np.inf, None], "2 values in 'age' are infinite"),
        ("age", pd.to_datetime(["2020-01-01"] * 4), "stored as date here"),
        ("joined", ["2020-01-01", "soon", "", None], "1 value in 'joined' is not readable as date"),
        ("joined", [1, 2, 3, 4], "stored as number here"),
        ("paperless", [0, 1, 2, None], "1 value in 'paperless' is neither 0 nor 1"),
        ("paperless", ["yes", "No", "?", None], "1 value in 'paperless' is not readable as true or false"),
        ("plan", [1.0, 2.0, 3.5, None], "3 values in 'plan' are of a category never seen"),
        ("plan", [["basic"], {"a": 1}, b"pro", None], "never seen"),
        ("note", [1, 2.5, None, True], ""),
    ],
)
def test_retyped_columns(table, fitted, name, values, expected):
    schema, encoder = fitted
    later = table.head(4).copy()
    later[name] = pd.Series(values, dtype=object if isinstance(values[0], (list, str)) else None).to_numpy()
    out, warnings = schema.conform(later, encoder.inputs)
    assert expected in " | ".join(warnings) and out.dtypes.to_dict() == schema.conform(table, encoder.inputs)[0].dtypes.to_dict()
    assert not np.isinf(encoder.transform(later)).any()


@pytest.mark.parametrize("dtype", ["Int64", "Float64", "int8", "float32", "int64[pyarrow]", "object", "category", "str", "bool"])
def test_any_storage_of_numbers(dtype):
    values = pd.Series([0, 1, 1, 0, 1] * 20).astype(dtype)
    schema = infer_schema(pd.DataFrame({"x": pd.Series([0, 1] * 50)}))
    out, _ = schema.conform(pd.DataFrame({"x": values}))
    assert out["x"].tolist()[:3] == [0.0, 1.0, 1.0] and out["x"].dtype == np.float64


@pytest.mark.parametrize(
    "change",
    [
        {"columns": None},
        {"columns": [{"name": "x", "kind": "numbr"}]},
        {"columns": [{"name": "x"}]},
        {"n_rows": "many"},
        {"columns": [{"name": "x", "kind": "number", "shell": "rm"}]},
        {"columns": [{"name": "x", "kind": "number"}] * 2},
        {"notes": 3},
        {"columns": "abc"},
        {"columns": [{"name": 3, "kind": "number"}]},
    ],
)
def test_a_tampered_schema_is_refused(table, change):
    with pytest.raises(ModelFormatError):
        Schema.from_dict(infer_schema(table).to_dict() | change)


def test_a_tampered_encoder_is_refused(table, fitted):
    state, arrays = fitted[1].to_state()
    for key in state:
        for broken in (state | {key: None}, {k: v for k, v in state.items() if k != key}, state | {key: [7]}):
            with pytest.raises(ModelFormatError):
                FeatureEncoder.from_state(broken, arrays)
    for key in arrays:
        with pytest.raises(ModelFormatError):
            FeatureEncoder.from_state(state, {k: v for k, v in arrays.items() if k != key})
        with pytest.raises(ModelFormatError):
            FeatureEncoder.from_state(state, arrays | {key: arrays[key][..., :-1]})
    flat = dense(fitted[1]).fit(fitted[1].transform(table))
    state, arrays = flat.to_state()
    for key in arrays:
        with pytest.raises(ModelFormatError):
            DenseEncoder.from_state(state, arrays | {key: arrays[key][:-1]})

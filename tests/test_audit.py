"""The audit against real tables with planted faults: each fault is found by its check, and clean tables stay silent."""

import numpy as np
import pandas as pd
import pytest
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine

from aimt.core.problem import Problem
from aimt.data.checks.audit import audit, plot_audit
from aimt.data.sources.catalog import load_dataset
from aimt.data.table.infer_problem import define_problem, encode_target
from aimt.data.table.infer_schema import infer_schema
from aimt.data.split.split import overlap, split_rows


@pytest.fixture(scope="module")
def credit():
    return load_dataset("german-credit").frame


def examine(frame, **options):
    schema = infer_schema(frame)
    problem, _ = define_problem(frame, schema, **({"target": "credit_risk"} | options))
    return audit(frame, schema, problem)


def checks(result):
    return {f["check"] for f in result["findings"]}


def some(frame, share, seed=0):
    return np.random.default_rng(seed).random(len(frame)) < share


def put(frame, column, mask, value):
    out = frame.copy()
    out[column] = out[column].astype(object) if isinstance(value, str) else out[column]
    out.loc[mask, column] = value
    return out


BAD = lambda d: (d.credit_risk == "bad").to_numpy()  # noqa: E731
RNG = np.random.default_rng(5)
DAYS = pd.Timestamp("1993-01-01") + pd.to_timedelta(np.random.default_rng(1).integers(0, 700, 1000), "D")
LAGS = pd.to_timedelta(np.random.default_rng(2).integers(0, 20, 1000), "D")
WHO = np.random.default_rng(3).integers(0, 200, 1000)
WORDS = "the money is for a new roof and some of it for the car which broke down last winter".split()


def letter(i):
    return " ".join(np.random.default_rng(i).choice(WORDS, 8))


# name of the check, columns it must name, set aside?, and the fault
FAULTS = {
    "empty": ("empty", {"new"}, True, lambda d: d.assign(new=None)),
    "constant": ("constant", {"new"}, True, lambda d: d.assign(new="Mannheim")),
    "missing": ("missing", {"age"}, False, lambda d: put(d, "age", some(d, 0.2), np.nan)),
    "mostly missing": ("missing", {"savings"}, False, lambda d: put(d, "savings", some(d, 0.9), None)),
    "infinite": ("infinite", {"new"}, False, lambda d: d.assign(new=np.where(some(d, 0.01), np.inf, RNG.normal(size=len(d))))),
    "999 for unknown": ("sentinel", {"age"}, False, lambda d: put(d, "age", some(d, 0.03), 999)),
    "-1 for unknown": ("sentinel", {"credit_amount_dm"}, False, lambda d: put(d, "credit_amount_dm", some(d, 0.03), -100_000)),
    "default date": (
        "sentinel",
        {"new"},
        False,
        lambda d: d.assign(
            new=np.where(
                some(d, 0.05), pd.Timestamp("1900-01-01"), pd.Timestamp("1994-01-01") + pd.to_timedelta(RNG.integers(0, 700, len(d)), "D")
            )
        ),
    ),
    "wrong unit": ("outlier", {"credit_amount_dm"}, False, lambda d: put(d, "credit_amount_dm", d.index.isin([3, 33]), 9_000_000)),
    "words among numbers": (
        "mixed types",
        {"new"},
        False,
        lambda d: d.assign(
            new=np.where(
                some(d, 0.3), RNG.choice(["ask", "by mail", "see note", "later", "varies", "two"], len(d)), d.credit_amount_dm.astype(str)
            )
        ),
    ),
    "one word among numbers": (
        "unreadable",
        {"new"},
        False,
        lambda d: d.assign(new=np.where(some(d, 0.1), "ask", d.credit_amount_dm.astype(str))),
    ),
    "two spellings": (
        "spelling",
        {"purpose"},
        False,
        lambda d: put(d, "purpose", some(d, 0.2), "Used Car").pipe(lambda e: put(e, "purpose", some(d, 0.2, 1), "used car")),
    ),
    "formula": ("formula", {"purpose"}, False, lambda d: put(d, "purpose", d.index == 7, "=cmd|'/C calc'!A0")),
    "control characters": ("control characters", {"purpose"}, False, lambda d: put(d, "purpose", d.index < 20, "furniture\x01")),
    "rare level": ("rare levels", {"housing"}, False, lambda d: put(d, "housing", d.index < 3, "tent")),
    "many levels": ("high cardinality", {"new"}, False, lambda d: d.assign(new=[f"street {i}" for i in RNG.integers(0, 700, len(d))])),
    "row counter": ("id", {"policy_number"}, True, lambda d: d.assign(policy_number=np.arange(5000, 5000 + len(d)))),
    "row counter, unnamed": ("id", {"x"}, True, lambda d: d.assign(x=np.arange(len(d)))),
    "row counter, shuffled": ("id", {"x"}, True, lambda d: d.assign(x=RNG.permutation(len(d)) + 1.0)),
    "customer id": ("id", {"customer"}, True, lambda d: d.assign(customer=[f"{i * 7919 % 10007:05d}-QX" for i in range(len(d))])),
    "person with several rows": ("repeated id", {"person_id"}, False, lambda d: d.assign(person_id=RNG.integers(0, 250, len(d)))),
    "rows exported twice": ("duplicate rows", set(), False, lambda d: pd.concat([d, d.iloc[100:130]], ignore_index=True)),
    "twice, under new numbers": (
        "duplicate rows",
        set(),
        False,
        lambda d: pd.concat([d, d.iloc[:30]], ignore_index=True).assign(account_no=lambda e: np.arange(len(e))),
    ),
    "column twice": ("same columns", {"age", "age_copy"}, False, lambda d: d.assign(age_copy=d.age)),
    "column recoded": ("same columns", {"housing", "code"}, False, lambda d: d.assign(code=d.housing.astype("category").cat.codes + 10)),
    "column in other units": ("same columns", {"credit_amount_dm", "euro"}, False, lambda d: d.assign(euro=d.credit_amount_dm / 1.95583)),
    "leak: recoded target": ("leak", {"new"}, True, lambda d: d.assign(new=np.where(BAD(d), "C", "A"))),
    "leak: amount after the fact": ("leak", {"fee"}, True, lambda d: d.assign(fee=np.where(BAD(d), RNG.integers(10, 99, len(d)), 0))),
    "leak: date after the fact": ("leak", {"closed"}, True, lambda d: d.assign(closed=np.where(BAD(d), "1994-03-05", None))),
    "leak: nearly always": ("leak", {"new"}, True, lambda d: d.assign(new=np.where(some(d, 0.01), ~BAD(d), BAD(d)).astype(int))),
    "leak: score made from it": ("leak", {"new"}, True, lambda d: d.assign(new=BAD(d) * 2 + RNG.normal(0, 0.4, len(d)))),
    "leak in part": ("suspicious", {"new"}, False, lambda d: d.assign(new=np.where(some(d, 0.06), ~BAD(d), BAD(d)).astype(int))),
    "wrong labels": (
        "contradictions",
        set(),
        False,
        lambda d: pd.concat([d, d.iloc[:20].assign(credit_risk=np.where(BAD(d.iloc[:20]), "good", "bad"))], ignore_index=True),
    ),
    "sorted by the target": ("order", set(), False, lambda d: d.sort_values("credit_risk", kind="stable").reset_index(drop=True)),
    "few of a class": ("few of a class", {"credit_risk"}, False, lambda d: pd.concat([d[~BAD(d)], d[BAD(d)][:12]], ignore_index=True)),
    "rare class": ("class imbalance", {"credit_risk"}, False, lambda d: pd.concat([d[~BAD(d)], d[BAD(d)][:50]], ignore_index=True)),
    "person with several rows, unnamed": (
        "repeated id",
        {"kunde"},
        False,
        lambda d: d.assign(kunde=7919 * WHO % 10_007, born=1940 + WHO % 50, town=[f"town {k % 7}" for k in WHO]),
    ),
    "rows again, a number a trifle off": (
        "near-duplicate rows",
        {"credit_amount_dm"},
        False,
        lambda d: pd.concat([d, d.iloc[:60].assign(credit_amount_dm=lambda e: e.credit_amount_dm + 1e-3)], ignore_index=True),
    ),
    "rows again, a text in other case": (
        "near-duplicate rows",
        {"purpose"},
        False,
        lambda d: pd.concat([d, d.iloc[:60].assign(purpose=lambda e: "  " + e.purpose.str.upper())], ignore_index=True),
    ),
    "gaps where the outcome was bad": ("missing not at random", {"age"}, False, lambda d: put(d, "age", some(d, 0.5) & BAD(d), np.nan)),
    "gaps where another column is high": (
        "missing not at random",
        {"age"},
        False,
        lambda d: put(d, "age", d.credit_amount_dm > 4000, np.nan),
    ),
    "one half in another unit": ("drift", {"age"}, False, lambda d: put(d, "age", d.index >= 500, 12 * d.age)),
    "another source at the end": ("drift", {"purpose"}, False, lambda d: put(d, "purpose", (d.index >= 700) & some(d, 0.7), "online")),
    "sorted by a date, and drifting": (
        "sorted",
        {"day", "age"},
        False,
        lambda d: put(d, "age", d.index >= 500, 12 * d.age).assign(
            day=pd.Timestamp("1994-01-01") + pd.to_timedelta(np.arange(1000) // 3, "D")
        ),
    ),
    "read in the wrong code": (
        "broken characters",
        {"purpose"},
        False,
        lambda d: put(d, "purpose", some(d, 0.1), "Möbel".encode().decode("cp1252")),
    ),
    "words that say nothing": ("placeholder", {"purpose"}, False, lambda d: put(d, "purpose", some(d, 0.03), "n/a none given")),
    "one text far too long": (
        "long text",
        {"new"},
        False,
        lambda d: d.assign(new=[letter(i) if i != 70 else 300 * letter(i) for i in range(len(d))]),
    ),
    "one text in hundreds of rows": (
        "repeated text",
        {"new"},
        False,
        lambda d: d.assign(new=np.where(some(d, 0.3), "thank you for your order", [letter(i) for i in range(len(d))])),
    ),
    "end before start": (
        "date order",
        {"begin", "end"},
        False,
        lambda d: d.assign(begin=DAYS, end=np.where(d.index % 200 == 7, DAYS - pd.Timedelta("9D"), DAYS + LAGS)),
    ),
    "only the year is known": (
        "default day",
        {"born"},
        False,
        lambda d: d.assign(
            born=np.where(some(d, 0.2), (1940 + d.index % 40).astype(str) + "-01-01", (DAYS - 30 * LAGS * 30).strftime("%Y-%m-%d"))
        ),
    ),
    "line break in a name": ("odd names", {"a\nb"}, False, lambda d: d.assign(**{"a\nb": d.age % 7})),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_planted_fault_is_found(credit, fault):
    check, columns, aside, plant = FAULTS[fault]
    result = examine(plant(credit), positive_label="bad")
    hits = [f for f in result["findings"] if f["check"] == check and columns <= set(f["columns"])]
    assert hits, [(f["check"], f["evidence"]) for f in result["findings"]]
    assert hits[0]["evidence"] and hits[0]["advice"] and (not hits[0]["rows"] or max(hits[0]["rows"]) < result["n_rows"])
    named = {a["column"] for a in result["set_aside"]}
    assert (columns <= named) if aside else not (columns & named)
    critical = {c for f in result["findings"] if f["severity"] == "critical" for c in f["columns"]}
    assert critical <= columns  # a planted fault raises nothing else that is critical


def test_group_findings(credit):
    result = examine(credit, positive_label="bad", sensitive_features="age,foreign_worker")
    assert {"base rates", "small group"} <= checks(result)
    assert [g["column"] for g in result["groups"]] == ["age", "foreign_worker"]
    assert sum(g["n"] for g in result["groups"][0]["groups"]) == 1000
    rng = np.random.default_rng(0)
    told = credit.assign(sex=rng.choice(["m", "f"], 1000)).assign(
        title=lambda d: np.where(d.sex == "m", "Mr", rng.choice(["Ms", "Dr"], 1000))
    )
    proxies = [f["columns"] for f in examine(told, positive_label="bad", sensitive_features="sex")["findings"] if f["check"] == "proxy"]
    assert proxies == [["title"]]


@pytest.mark.parametrize("name", ["iris", "wine", "breast cancer", "diabetes", "german credit"])
def test_clean_tables_are_left_alone(name, credit):
    loaders = {"iris": load_iris, "wine": load_wine, "breast cancer": load_breast_cancer, "diabetes": load_diabetes}
    frame = credit if name == "german credit" else loaders[name](as_frame=True).frame
    result = examine(frame, target=frame.columns[-1])
    assert result["set_aside"] == []
    assert not {f["check"] for f in result["findings"]} - {"rare levels", "duplicate rows", "order", "base rates", "small group"}


def test_false_alarms_on_noise():
    """40 tables of nine honest columns and a random target: hardly a finding, none critical, nothing set aside."""
    found, aside = [], 0
    for seed in range(40):
        r = np.random.default_rng(seed)
        n = int(r.integers(60, 3000))
        frame = pd.DataFrame(
            {
                "normal": r.normal(size=n),
                "skewed": r.lognormal(size=n),
                "counts": r.poisson(3, n),
                "money": r.integers(0, 10**6, n),
                "cat": r.choice(list("abc"), n),
                "zip": r.integers(10_000, 99_999, n),
                "flag": r.random(n) < 0.3,
                "day": pd.Timestamp("2020-01-01") + pd.to_timedelta(r.integers(0, 900, n), "D"),
                "gaps": np.where(r.random(n) < 0.005, np.nan, r.normal(size=n)),
                "y": r.integers(0, 2, n),
            }
        )
        result = examine(frame, target="y")
        aside += len(result["set_aside"])
        found += [f["check"] for f in result["findings"]]
        assert all(f["severity"] != "critical" for f in result["findings"])
    assert aside == 0
    assert len([c for c in found if c != "missing"]) <= 4, found


def test_findings_name_true_rows(credit):
    dirty = put(credit, "age", credit.index.isin([10, 20, 30, 40, 50, 60]), 999)
    found = next(f for f in examine(dirty, positive_label="bad")["findings"] if f["check"] == "sentinel")
    assert found["rows"] == [10, 20, 30, 40, 50] and found["n_rows"] == 6


def test_dropped_columns_and_ids_are_not_examined(credit):
    frame = credit.assign(account=np.arange(1000), note="x")
    result = examine(frame, positive_label="bad", drop="note", entity="account")
    assert result["set_aside"] == [] and not {"constant", "id"} & checks(result)


def test_regression_leaks_and_cap():
    frame = load_diabetes(as_frame=True).frame
    rng = np.random.default_rng(0)
    frame = frame.assign(log_target=np.log(frame.target), noisy=frame.target + rng.normal(0, 3, len(frame)))
    assert {a["column"] for a in examine(frame, target="target")["set_aside"]} == {"log_target", "noisy"}
    house = pd.DataFrame({"rooms": rng.normal(5, 1, 3000)})
    house["price"] = np.minimum(np.exp(11.6 + 0.1 * house.rooms + rng.normal(0, 0.4, 3000)), 300_000).round(-1)
    assert "capped target" in checks(examine(house, target="price"))


def test_wide_table_takes_seconds_and_few_findings():
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(300, 5000)), columns=[f"g{i}" for i in range(5000)])
    frame.iloc[:, :1000] = 0.0
    frame["y"] = rng.integers(0, 2, 300)
    result = examine(frame, target="y")
    assert len(result["findings"]) < 12 and len(result["set_aside"]) == 1000
    assert result["seconds"] < 60


def test_a_category_with_a_million_values():
    n = 200_000
    frame = pd.DataFrame({"who": [f"w{i % 150_000}" for i in range(n)], "x": np.arange(n) % 97, "y": np.arange(n) % 2})
    result = examine(frame, target="y")
    assert "high cardinality" in checks(result)


def test_hostile_names_and_values():
    frame = pd.DataFrame({"=1+1": [1, 2] * 40, "😀\n<script>": ["a", "=HYPERLINK(1)"] * 40, " ": [None] * 80, "y": [0, 1, 1, 0] * 20})
    result = examine(frame, target="y")
    assert all(f["evidence"].isprintable() for f in result["findings"])
    plot_audit(result)


@pytest.mark.parametrize("n", [1, 2, 5, 20])
def test_hardly_any_rows(n):
    frame = pd.DataFrame({"x": np.arange(n), "z": ["a"] * n, "y": [i % 2 for i in range(n)]})
    problem = Problem("binary", "y", ["x", "z"], "roc_auc", ["0", "1"])
    result = audit(frame, None, problem)
    assert result["n_rows"] == n
    plot_audit(result)


def test_without_a_problem(credit):
    result = audit(credit.assign(row=np.arange(1000), empty=None))
    assert {a["column"] for a in result["set_aside"]} == {"row", "empty"} and result["groups"] == []
    plot_audit(result)


# ---- rows, gaps and parts: faults that no single column shows


def orders(seed, n=2000):
    """An honest table of numbers, categories, texts and dates in random order, with gaps by chance."""
    r = np.random.default_rng(seed)
    day = pd.Timestamp("2020-01-01") + pd.to_timedelta(r.integers(0, 900, n), "D")
    frame = pd.DataFrame(
        {
            "a": r.normal(size=n),
            "b": r.normal(size=n),
            "price": r.lognormal(3, 1, n).round(2),
            "street": [f"Street {i}" for i in r.integers(0, 300, n)],
            "kind": r.choice(list("xyz"), n),
            "ordered": day,
            "sent": day + pd.to_timedelta(r.integers(0, 30, n), "D"),
            "note": [" ".join(r.choice(WORDS, r.integers(3, 20))) for _ in range(n)],
            "y": r.integers(0, 2, n),
        }
    )
    frame.loc[r.random(n) < 0.1, "price"] = np.nan
    return frame


WHOLE = ("near-duplicate rows", "missing not at random", "drift", "sorted", "date order", "default day")
TEXTS = ("broken characters", "placeholder", "long text", "repeated text")


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("target", ["y", "a", None])
def test_honest_tables_have_no_twins_drift_or_odd_texts(seed, target):
    frame = orders(seed, 400 + 500 * seed)
    result = examine(frame, target=target) if target else audit(frame)
    assert not checks(result) & {*WHOLE, *TEXTS}, result["findings"]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("change", ["number", "text", "cell"])
def test_near_duplicates_are_counted_and_shown(seed, change):
    frame = orders(seed)
    twins = frame.iloc[np.random.default_rng(seed).choice(2000, 300, replace=False)].copy()
    column = {"number": "a", "text": "note", "cell": "street"}[change]
    twins[column] = {"number": twins.a + 1e-6, "text": twins.note.str.title() + " ", "cell": [f"Lane {i}" for i in range(300)]}[change]
    result = examine(pd.concat([frame, twins], ignore_index=True), target="y")
    (found,) = [f for f in result["findings"] if f["check"] == "near-duplicate rows"]
    assert found["severity"] == "warning" and found["columns"] == [column]
    assert abs(found["n_rows"] - 300) <= 6 and min(found["rows"]) >= 2000


def test_coarse_tables_have_neighbours_not_twins():
    r = np.random.default_rng(0)
    coarse = pd.DataFrame({f"c{i}": r.choice(["A", "a", "B", "b ", "C"], 3000) for i in range(7)} | {"y": r.integers(0, 2, 3000)})
    assert "near-duplicate rows" not in checks(examine(coarse, target="y"))
    hidden = r.integers(0, 6, 3000)
    alike = pd.DataFrame({f"d{i}": (hidden + (r.random(3000) < 0.2)) % (4 + i % 3) for i in range(9)} | {"x": r.normal(size=3000).round(1)})
    assert "near-duplicate rows" not in checks(examine(alike.assign(y=r.integers(0, 2, 3000)), target="y"))


def test_gaps_name_the_strongest_relation_and_spare_trifles():
    r = np.random.default_rng(0)
    y = r.integers(0, 2, 100_000)
    gap = r.random(100_000) < np.where(y == 1, 0.12, 0.10)  # sure, but small
    trifle = pd.DataFrame({"a": np.where(gap, np.nan, r.normal(size=100_000)), "b": r.normal(size=100_000), "y": y})
    assert "missing not at random" not in checks(examine(trifle, target="y"))
    both = orders(2)
    both.loc[(both.b > 1) | ((both.y == 1) & (r.random(2000) < 0.4)), "a"] = np.nan
    (found,) = [f for f in examine(both, target="y")["findings"] if f["check"] == "missing not at random"]
    assert found["severity"] == "warning" and "'y' is 1" in found["evidence"] and "outcome" in found["advice"]
    (found,) = [f for f in audit(both.drop(columns="y"))["findings"] if f["check"] == "missing not at random"]
    assert found["severity"] == "note" and "'b' is over" in found["evidence"] and "no table can tell" in found["advice"].replace("\n", " ")


def test_gaps_that_give_the_target_away_are_told_once():
    frame = orders(3)
    frame.loc[frame.y == 1, "a"] = np.nan
    result = examine(frame, target="y")
    assert [f["columns"] for f in result["findings"] if f["check"] == "leak"] == [["a"]]
    assert not [f for f in result["findings"] if f["check"] == "missing not at random" and "a" in f["columns"]]


@pytest.mark.parametrize("seed", range(3))
def test_drift_names_the_column_and_the_rows(seed):
    frame = orders(seed, 3000)
    frame.loc[1500:, "a"] += 3
    (found,) = [f for f in examine(frame, target="y")["findings"] if f["check"] == "drift"]
    assert found["columns"] == ["a"] and found["severity"] == "warning" and found["value"] > 0.8
    assert min(abs(found["rows"][0] - 1500), abs(found["rows"][0] + found["n_rows"] - 1500)) < 40


def test_sorted_files_are_said_to_be_sorted_once():
    frame = orders(0).assign(b=lambda d: d.a + d.b / 3)
    by_a = frame.sort_values("a", ignore_index=True)
    (found,) = [f for f in examine(by_a, target="y")["findings"] if f["check"] in ("sorted", "drift")]
    assert found["check"] == "sorted" and found["columns"] == ["a", "b"] and found["severity"] == "note"
    told = checks(examine(frame.assign(y=(frame.a > 0.5).astype(int)).sort_values("y", kind="stable", ignore_index=True), target="y"))
    assert "order" in told and not told & {"sorted", "drift"}


def test_related_rows_are_a_warning_when_they_share_the_target():
    frame = orders(0)
    who = np.random.default_rng(0).integers(0, 400, 2000)
    told = frame.assign(k=(who * 7919 % 10_007), age=18 + who % 60, town=[f"t{i % 9}" for i in who])
    for y, severity in ((frame.y, "note"), ((who * 31 % 7 > 3).astype(int), "warning")):
        (found,) = [f for f in examine(told.assign(y=y), target="y")["findings"] if f["check"] == "repeated id"]
        assert found["columns"] == ["k"] and found["severity"] == severity and "'age'" in found["evidence"]
    assert "repeated id" not in checks(examine(told.assign(age=frame.a, town=frame.kind), target="y"))


# ---- split


@pytest.mark.parametrize("options", [{}, {"entity": "who"}, {"time": "when"}], ids=["stratified", "grouped", "time"])
def test_split_keeps_its_promises(credit, options):
    rng = np.random.default_rng(0)
    frame = credit.assign(
        who=rng.integers(0, 200, 1000), when=pd.Timestamp("1993-01-01") + pd.to_timedelta(rng.integers(0, 400, 1000), "D")
    )
    schema = infer_schema(frame)
    problem, _ = define_problem(frame, schema, target="credit_risk", positive_label="bad", **options)
    y, keep = encode_target(frame, problem, schema)
    split = split_rows(frame, problem, y)
    assert 0.2 < len(split.test) / 1000 < 0.3 and split.n_folds == (3 if "time" in options else 5)
    judged = np.concatenate([v for _, v in split.folds()])
    assert len(np.unique(judged)) == len(judged) and set(judged) <= set(split.train)
    assert (set(judged) == set(split.train)) == ("time" not in options)  # in time, the first stretch is only learned from
    for fit, valid in split.folds(within_train=True):
        assert not set(fit) & set(valid) and len(np.unique(y[split.train][valid])) == 2
        if "time" in options:
            assert frame.when[split.train[fit]].max() <= frame.when[split.train[valid]].min()
        else:
            assert len(fit) + len(valid) == len(split.train)
    if options.get("entity"):
        assert (frame.assign(fold=split.fold).groupby("who").fold.nunique() == 1).all()
    if options.get("time"):
        assert frame.when[split.test].min() > frame.when[split.train].max()
        assert frame.assign(fold=split.fold).iloc[split.train].groupby("fold").when.max().is_monotonic_increasing
    assert overlap(frame, split, problem.inputs)["n_twins"] == 0

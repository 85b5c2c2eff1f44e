"""A model that exists already is judged by its answers: honest ones pass, planted faults do not, and nothing of the model is kept."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import aimt
from aimt.core.commands import resolve
from aimt.core.errors import AimtError, DataError, MissingExtraError, ProblemError
from aimt.core.run import Run

pytestmark = pytest.mark.usefixtures("no_drawing")

NUMBERS = ["income", "debt", "years"]


def loans(n: int, seed: int) -> tuple[pd.DataFrame, np.ndarray]:
    """Loans with their outcome, and the true probability that each defaults."""
    rng = np.random.default_rng(seed)
    table = pd.DataFrame(
        {
            "income": rng.normal(size=n),
            "debt": rng.normal(size=n),
            "years": rng.integers(1, 40, n).astype(float),
            "sex": rng.choice(["f", "m"], n),
        }
    )
    p = 1 / (1 + np.exp(-(1.2 * table["income"] - 0.9 * table["debt"] + 0.03 * table["years"] - 1.5)))
    return table.assign(default=np.where(rng.uniform(size=n) < p, "yes", "no")), p.to_numpy()


TRAIN, TRAIN_P = loans(2000, 1)
NEW, P = loans(2500, 2)


@pytest.fixture
def judged(tmp_path):
    """Judge, and give the run with its gates by name."""

    def run(table: pd.DataFrame, **options) -> tuple[str, dict[str, dict], Run]:
        options = {"actual": "default", "training": TRAIN, "out": tmp_path / "run", "overwrite": True, "quiet": True} | options
        done = aimt.judge(table, **options)
        verdict = done.read("metrics.json")["verdict"]
        return verdict["verdict"], {g["gate"]: g for g in verdict["gates"]}, done

    return run


# --- honest models ----------------------------------------------------------------------------------------------------


def test_an_honest_file_of_probabilities_ships(judged):
    word, gates, run = judged(NEW.assign(p=P), probability="p", sensitive_features="sex", cost="fn=5,fp=1")
    assert word == "SHIP"
    assert {n: g["status"] for n, g in gates.items()} == {
        "data": "pass",
        "leakage": "pass",
        "score": "pass",
        "calibration": "pass",
        "overfitting": "not checked",
        "groups": "pass",
        "value": "pass",
    }
    assert "--training" in gates["overfitting"]["text"]
    assert run.read("metrics.json")["decision"]["threshold"] == pytest.approx(1 / 6)  # fp / (fp + fn)
    assert (run.path / "report.html").stat().st_size > 10_000 and (run.path / "card.md").is_file()
    assert Run.open(run.path).kind == "judge" and Run.open(run.path).problem.inputs == [*NUMBERS, "sex"]


@pytest.mark.parametrize("kind", ["pipeline", "lightgbm", "booster", "function", "method"])
def test_a_model_in_memory_answers_as_its_column_does(judged, kind):
    from lightgbm import Dataset, LGBMClassifier, train
    from sklearn.compose import make_column_transformer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder

    X, y = TRAIN.drop(columns="default"), TRAIN["default"]
    small = {"n_estimators": 20, "num_leaves": 7, "verbose": -1, "random_state": 0}
    pipeline = make_pipeline(
        make_column_transformer((OneHotEncoder(), ["sex"]), remainder="passthrough"), LogisticRegression(max_iter=500)
    ).fit(X, y)
    if kind == "lightgbm":
        model = LGBMClassifier(**small).fit(X[NUMBERS], y)
        expected = model.predict_proba(NEW[NUMBERS])[:, 1]
    elif kind == "booster":
        model = train({"objective": "binary", "verbose": -1, "num_leaves": 7}, Dataset(X[NUMBERS], (y == "yes").astype(int)), 20)
        expected = model.predict(NEW[NUMBERS])
    else:
        expected = pipeline.predict_proba(NEW.drop(columns="default"))[:, 1]
        model = {"pipeline": pipeline, "function": lambda frame: pipeline.predict_proba(frame)[:, 1], "method": pipeline.predict_proba}[
            kind
        ]
    word, _, run = judged(NEW, model=model)
    _, _, by_column = judged(NEW.assign(p=expected), probability="p", out=run.path.parent / "column")
    assert word == "SHIP"
    assert run.read("metrics.json")["scores"]["table"] == by_column.read("metrics.json")["scores"]["table"]


def test_an_onnx_file(judged, tmp_path, aimt):
    pytest.importorskip("onnxruntime", reason="pip install 'aimt[onnx]'")
    skl2onnx = pytest.importorskip("skl2onnx", reason="pip install skl2onnx")
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression().fit(TRAIN[NUMBERS], TRAIN["default"])
    for name, options in {"zipmap": {}, "array": {"options": {"zipmap": False}}}.items():
        made = skl2onnx.to_onnx(model, TRAIN[NUMBERS].to_numpy(np.float32)[:2], **options)
        (tmp_path / f"{name}.onnx").write_bytes(made.SerializeToString())
        word, _, run = judged(NEW, model=tmp_path / f"{name}.onnx", drop="sex")
        _, _, own = judged(NEW, model=model, out=tmp_path / "own")
        scores = [r.read("metrics.json")["scores"]["table"][-1]["value"] for r in (run, own)]
        assert word == "SHIP" and scores[0] == pytest.approx(scores[1], abs=1e-5)
    with pytest.raises(ProblemError, match="takes 3 columns, and there are 4"):
        judged(NEW, model=tmp_path / "array.onnx")
    NEW.to_csv(tmp_path / "new.csv", index=False)
    TRAIN.to_csv(tmp_path / "train.csv", index=False)
    done = aimt(
        "judge",
        "new.csv",
        "--actual",
        "default",
        "--model",
        "array.onnx",
        "--drop",
        "sex",
        "--training",
        "train.csv",
        "--gate",
        cwd=tmp_path,
    )
    assert done.returncode == 0 and "SHIP" in done.stdout, done.stderr


def test_onnx_without_its_extra_names_the_extra(judged, tmp_path, monkeypatch):
    (tmp_path / "m.onnx").write_bytes(b"x")
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    with pytest.raises(MissingExtraError, match=r"aimt\[onnx\]"):
        judged(NEW, model=tmp_path / "m.onnx")


def test_numbers_and_several_classes(judged):
    rng = np.random.default_rng(3)
    numbers = NEW.assign(cost=NEW["income"] + rng.normal(size=len(NEW)), guess=NEW["income"]).drop(columns="default")
    learned = TRAIN.assign(cost=TRAIN["income"] + rng.normal(size=len(TRAIN))).drop(columns="default")
    word, gates, _ = judged(numbers, actual="cost", prediction="guess", training=learned)
    assert word == "SHIP" and gates["calibration"]["status"] == "pass"
    p = rng.dirichlet([1, 1, 1], len(NEW))
    kinds = NEW.assign(kind=[rng.choice(["a", "b", "c"], p=row) for row in p]).drop(columns="default")
    learned = TRAIN.assign(kind=rng.choice(["a", "b", "c"], len(TRAIN))).drop(columns="default")
    answers = pd.DataFrame(p, columns=["p_a", "p_b", "p_c"])
    orders = [["p_a", "p_b", "p_c"], ["p_c", "p_a", "p_b"]]
    found = [judged(pd.concat([kinds, answers], axis=1), actual="kind", probability=o, training=learned) for o in orders]
    assert [word for word, _, _ in found] == ["SHIP", "SHIP"]
    assert len({json.dumps(gates, sort_keys=True) for _, gates, _ in found}) == 1  # names, not places, say which class a column is


def test_classes_without_probabilities_are_judged_by_their_decisions(judged):
    decided = NEW.assign(p=np.where(P > 0.5, "yes", "no"))
    word, gates, run = judged(decided, prediction="p")
    assert word == "SHIP" and gates["calibration"]["status"] == "not checked" and "--probability" in gates["calibration"]["text"]
    assert "balanced accuracy" in gates["score"]["measure"]
    assert not {"log_loss", "roc_auc"} & {r["metric"] for r in run.read("metrics.json")["scores"]["table"]}
    confusion = run.read("metrics.json")["decision"]["confusion"]
    assert confusion["tp"] == int(((P > 0.5) & (NEW["default"] == "yes")).sum())


# --- planted faults -----------------------------------------------------------------------------------------------------


def test_shuffled_answers_do_not_ship(judged):
    word, gates, _ = judged(NEW.assign(p=np.random.default_rng(0).permutation(P)), probability="p")
    assert word == "HOLD" and gates["score"]["status"] != "pass"


def test_doubled_probabilities_are_held(judged):
    word, gates, _ = judged(NEW.assign(p=np.clip(2 * P, 0, 1)), probability="p")
    assert word == "HOLD" and gates["calibration"]["status"] == "hold"


def test_one_group_doubled_is_found(judged):
    word, gates, _ = judged(NEW.assign(p=np.where(NEW["sex"] == "f", np.clip(1.6 * P, 0, 1), P)), probability="p", sensitive_features="sex")
    assert word == "HOLD" and gates["groups"]["status"] == "hold"


def test_rows_that_the_model_learned_from_are_found(judged):
    table = NEW.assign(p=P)
    word, gates, _ = judged(table, probability="p", training=pd.concat([TRAIN, NEW[:500]]))
    assert word == "HOLD" and gates["leakage"]["status"] == "hold" and "judge" in gates["leakage"]["command"]
    near = NEW[:500].assign(income=NEW["income"] + 1e-4 * np.random.default_rng(0).normal(size=len(NEW)))
    word, gates, _ = judged(table, probability="p", training=pd.concat([TRAIN, near]))
    assert word == "NOT YET" and gates["leakage"]["needs_attestation"] == ["near-duplicates"]


def test_a_leak_in_what_the_model_reads_is_found_in_the_training_table(judged):
    leaky = {
        k: t.assign(fee=(t["default"] == "yes") * 10.0 + np.random.default_rng(1).normal(size=len(t)))
        for k, t in {"new": NEW, "train": TRAIN}.items()
    }
    word, gates, _ = judged(leaky["new"].assign(p=P), probability="p", training=leaky["train"])
    assert word == "HOLD" and "'fee'" in gates["leakage"]["text"]
    word, gates, _ = judged(leaky["new"].assign(p=P), probability="p", training=leaky["train"], drop="fee")
    assert word == "SHIP"  # the model does not read it


def test_rows_that_are_judged_twice_prove_no_more(judged):
    twice = pd.concat([NEW.assign(p=P)] * 2)
    word, gates, _ = judged(twice, probability="p")
    assert word == "NOT YET" and gates["leakage"]["needs_attestation"] == ["near-duplicates"]
    coarse = NEW.assign(p=P.round(1))[["sex", "default", "p"]].assign(rich=NEW["income"] > 0)  # equal rows by nature
    word, gates, _ = judged(coarse, probability="p", training=None, attest={"unseen": "later"})
    assert gates["leakage"]["status"] == "pass"


def test_answers_that_are_the_outcomes_are_doubted(judged):
    word, gates, _ = judged(NEW.assign(p=NEW["default"]), prediction="p")
    assert word == "NOT YET" and "Every answer is right" in gates["leakage"]["text"]


def test_people_whom_the_model_knows_and_rows_before_its_training_ended(judged):
    days = pd.date_range("2025-01-01", periods=len(TRAIN) + len(NEW), freq="h")
    learned = TRAIN.assign(who=[f"a{i}" for i in range(len(TRAIN))], day=days[: len(TRAIN)])
    later = NEW.assign(p=P, who=[f"b{i}" for i in range(len(NEW))], day=days[len(TRAIN) :])
    assert judged(later, probability="p", training=learned, id="who", time="day")[0] == "SHIP"
    word, gates, _ = judged(later.assign(who=[f"a{i}" for i in range(len(NEW))]), probability="p", training=learned, id="who", time="day")
    assert word == "NOT YET" and gates["leakage"]["needs_attestation"] == ["unseen"] and "'who'" in gates["leakage"]["text"]
    word, gates, _ = judged(later.assign(day=days[: len(NEW)]), probability="p", training=learned, id="who", time="day")
    assert word == "NOT YET" and gates["leakage"]["needs_attestation"] == ["order"]
    assert (
        judged(later.assign(day=days[: len(NEW)]), probability="p", training=learned, id="who", time="day", attest={"order": "no trend"})[0]
        == "SHIP"
    )


def test_a_better_baseline_holds_the_model(judged):
    weak = 1 / (1 + np.exp(-0.3 * NEW["income"]))
    word, gates, _ = judged(NEW.assign(p=weak * P.mean() / weak.mean(), simple=P), probability="p", baseline="simple")
    assert word == "HOLD" and "the given baseline" in gates["score"]["text"]
    assert judged(NEW.assign(p=P, simple=weak), probability="p", baseline="simple")[0] == "SHIP"


def test_out_of_fold_answers_that_promised_too_much_are_held(judged):
    honest = TRAIN.assign(p=TRAIN_P)
    word, gates, _ = judged(NEW.assign(p=P), probability="p", training=honest)
    assert word == "SHIP" and gates["overfitting"]["status"] == "pass"
    flattering = TRAIN.assign(p=np.clip(TRAIN_P + 0.5 * ((TRAIN["default"] == "yes") - 0.5), 0, 1))
    word, gates, _ = judged(NEW.assign(p=P), probability="p", training=flattering)
    assert word == "HOLD" and gates["overfitting"]["status"] == "hold"


# --- what was not given -------------------------------------------------------------------------------------------------


def test_without_the_training_table_there_is_no_ship_until_somebody_attests(judged):
    table = NEW.assign(p=P)
    word, gates, _ = judged(table, probability="p", training=None)
    assert word == "NOT YET" and gates["leakage"]["status"] == "not yet" and "--training" in gates["leakage"]["advice"]
    word, gates, run = judged(table, probability="p", training=None, attest={"unseen": "loans of the months after"})
    assert word == "SHIP" and "loans of the months after" in gates["leakage"]["text"]
    assert "--attest" in run.info["command"] or "attest=" in run.info["command"]


def test_a_file_with_nothing_but_outcomes_and_answers(judged):
    word, gates, run = judged(NEW.assign(p=P)[["default", "p"]], probability="p", training=None, attest={"unseen": "later"})
    assert word == "SHIP" and not run.read("audit.json")["findings"]
    assert any("not audited" in note for note in run.info["notes"])
    assert judged(NEW.assign(p=P)[["default", "p"]][:40], probability="p", training=None, attest={"unseen": "later"})[0] != "SHIP"


def test_nothing_of_the_model_is_stored(judged):
    class Secret:
        """A model whose attributes must not be found in the run."""

        password = "hunter2-in-the-model"

        def __reduce__(self):
            raise AssertionError("somebody pickles the model")

        def __call__(self, frame):
            return 1 / (1 + np.exp(-(1.2 * frame["income"] - 0.9 * frame["debt"] + 0.03 * frame["years"] - 1.5)))

    word, _, run = judged(NEW, model=Secret())
    assert word == "SHIP" and run.info["settings"]["model"] == "in memory"
    names = {p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file()}
    assert names <= {
        "run.json",
        "events.jsonl",
        "ledger.jsonl",
        "metrics.json",
        "audit.json",
        "schema.json",
        "report.html",
        "report.json",
        "card.md",
        "lock",
    }, names
    assert not any(b"hunter2" in (run.path / n).read_bytes() for n in names)
    with pytest.raises(AimtError, match="does not hold it"):
        _ = run.model


def test_the_model_never_sees_the_outcome(judged):
    seen: list[str] = []

    def look(frame):
        seen.extend(frame.columns)
        return P

    judged(NEW.assign(simple=0.3), model=look, baseline="simple", drop="years")
    assert seen == ["income", "debt", "sex"]


UNTRUE = (
    "boosted",
    "no model had seen",
    "Put away before",
    "out-of-fold rows",
    "out of fold and",
    "aimt train",
    "learned from a",
    "unknown number",
    "could not be drawn",
    "could not be made",
    "None",
    "gives the same model",
)


@pytest.mark.parametrize(
    "given",
    [
        {"probability": "p", "threshold": 0.4, "cost": "fn=2,fp=1"},
        {"prediction": "yes", "training": None},
        {"probability": "p", "entity": "who"},
    ],
)
def test_report_and_card_say_nothing_that_only_a_training_could(judged, given, monkeypatch):
    monkeypatch.setattr("aimt.deploy.report.page.resolve", resolve)  # its figures are drawn
    table = NEW.assign(p=P, yes=np.where(P > 0.5, "yes", "no"), who=np.arange(len(NEW)) // 2)
    _, _, run = judged(table, sensitive_features="sex", **given)
    sections = {s["id"]: " ".join(s["text"]) for s in run.read("report.json")["sections"]}
    told = " ".join([*sections.values(), (run.path / "card.md").read_text(encoding="utf-8")])
    assert not [phrase for phrase in UNTRUE if phrase in told]
    assert set(sections) == {
        "define",
        "audit",
        "split",
        "scores",
        "reuse",
        "calibration",
        "overfitting",
        "groups",
        "decide",
        "plan",
        "reproduce",
        "sign-off",
    }
    assert "could not be drawn" not in (run.path / "report.html").read_text(encoding="utf-8")
    assert "0.4" in sections["decide"] if "threshold" in given else "--cost" in sections["decide"] or "costs" in sections["decide"]
    if "prediction" in given:
        assert "--probability" in sections["calibration"] and "--training" in sections["split"]


# --- the command --------------------------------------------------------------------------------------------------------


def test_the_command_judges_a_csv_and_gates(tmp_path, aimt_here):
    NEW.assign(p=P, doubled=np.clip(2 * P, 0, 1)).to_csv(tmp_path / "scored.csv", index=False)
    TRAIN.to_csv(tmp_path / "history.csv", index=False)
    words = ["judge", "scored.csv", "--actual", "default", "--training", "history.csv", "--gate"]
    good = aimt_here(*words, "--probability", "p", "--drop", "doubled", cwd=tmp_path)
    assert good.returncode == 0 and "\nSHIP" in good.stdout, good.stderr
    bad = aimt_here(*words, "--probability", "doubled", "--drop", "p", cwd=tmp_path)
    assert bad.returncode == 3 and "\nHOLD" in bad.stdout
    run = Run.open(tmp_path / "runs" / "scored-judged")
    assert run.info["command"] == "aimt judge scored.csv --actual default --probability p --training history.csv --drop doubled"
    again = aimt_here(
        "train", "scored.csv", "--actual", "default", "--probability", "p", "--drop", "doubled", "--out", "again", "--quiet", cwd=tmp_path
    )
    assert "NOT YET" in again.stdout and Run.open(tmp_path / "again").kind == "judge"  # found by its options


WRONG = {
    "no outcome": (["--probability", "p"], "--actual"),
    "no answers": (["--actual", "default"], "neither predictions nor a model"),
    "no such column": (["--actual", "defolt", "--probability", "p"], "Did you mean 'default'"),
    "no such answer": (["--actual", "default", "--probability", "q"], "no column 'q'"),
    "outcome as answer": (["--actual", "default", "--prediction", "default"], "Name two columns"),
    "probability as class": (["--actual", "default", "--prediction", "p"], "--probability"),
    "class as probability": (["--actual", "default", "--probability", "sex"], "holds no numbers"),
    "percent": (["--actual", "default", "--probability", "percent"], "divide percentages by 100"),
    "gap": (["--actual", "default", "--probability", "gap"], "the first in row 3"),
    "metric": (["--actual", "default", "--prediction", "yes", "--metric", "log_loss"], "needs probabilities"),
    "threshold": (["--actual", "default", "--prediction", "yes", "--threshold", "0.3"], "classes alone"),
    "fairness": (
        ["--actual", "default", "--prediction", "yes", "--sensitive-features", "sex", "--fairness", "calibration"],
        "needs probabilities",
    ),
    "two answers": (
        ["--actual", "default", "--probability", "p,percent", "--metric", "brier"],
        "not clear of which class|not a probability",
    ),
    "empty": (["--actual", "default", "--probability", ""], "names no column"),
    "dropped": (["--actual", "default", "--probability", "p", "--drop", "default"], "cannot be dropped"),
    "both": (["--actual", "default", "--probability", "p", "--model", "m.onnx"], "Give one of both"),
    "pickle": (["--actual", "default", "--model", "scored.csv"], "not an ONNX file"),
    "training": (["--actual", "default", "--probability", "p", "--training", "other.csv"], "no column 'default'"),
    "attestation": (["--actual", "default", "--probability", "p", "--attest", "unsen=x"], "cannot be attested"),
    "target": (["--actual", "default", "--probability", "p", "--horizon", "3"], "horizon"),
}


@pytest.mark.parametrize("name", WRONG)
def test_mistakes_are_one_line_and_leave_nothing_behind(name, tmp_path, aimt_here):
    import re

    words, said = WRONG[name]
    table = NEW[:200].assign(
        p=P[:200], percent=100 * P[:200], gap=np.where(np.arange(200) == 3, np.nan, P[:200]), yes=np.where(P[:200] > 0.5, "yes", "no")
    )
    table.to_csv(tmp_path / "scored.csv", index=False)
    TRAIN.drop(columns="default").to_csv(tmp_path / "other.csv", index=False)
    done = aimt_here("judge", "scored.csv", *words, "--quiet", cwd=tmp_path)
    assert done.returncode in (1, 2) and re.search(said, done.stderr), done.stderr
    assert done.returncode == 2 or len([x for x in done.stderr.splitlines() if x.startswith("error:")]) == 1
    assert "Traceback" not in done.stderr and not (Path(tmp_path) / "runs").exists()


def test_a_model_that_fails_is_one_line(judged, tmp_path):
    with pytest.raises(ProblemError, match="KeyError"):
        judged(NEW, model=lambda frame: frame["none"])
    with pytest.raises(DataError, match="one answer for each row|shape"):
        judged(NEW, model=lambda frame: [0.5])
    with pytest.raises(ProblemError, match="reads the column 'sex'"):
        from sklearn.tree import DecisionTreeClassifier

        judged(NEW.drop(columns="sex"), model=DecisionTreeClassifier(max_depth=2).fit(TRAIN[NUMBERS].assign(sex=0), TRAIN["default"]))
    assert not (tmp_path / "run").exists()

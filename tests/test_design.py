"""Designs: judges that raise or return NaN, bad requests with a message of their own, a run that is stopped and resumed, nothing uncertified in a folder."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file

from aimt.core.errors import AimtError, DataError, ProblemError, RunError
from aimt.core.run import Run
from aimt.decide.generators.design_gates import DesignLimits, worth_gate
from aimt.generate.design.propose import Certificate, disagreements
from aimt.jobs.generators.design_model import open_design_model, read_want
from aimt.jobs.shared.pipeline import choose_kind
from aimt.jobs.verbs.generate import generate
from aimt.jobs.verbs.train import train
from aimt.metrics.generation.design_scores import DesignRival, DesignScores
from aimt.models.design.parametric import ParametricOptions, ParametricProblem
from aimt.models.design.problems import make_problem
from aimt.models.design.refine import refine, retrieve_designs
from aimt.models.design.user_judge import Parameter, load_judge, read_ranges, run_judge

JUDGE = '''
"""Springs: stiffness and mass; it gives up on some wires, and knows no answer for others."""
import numpy as np
import pandas as pd


def measure(designs):
    if (designs["wire"] > 4.9).any():
        raise RuntimeError(f"the solver did not converge for {designs['wire'].max():.2f} mm")
    stiff = designs["wire"] ** 4 / (designs["coil"] ** 3 * designs["turns"])
    stiff[designs["wire"] < 0.6] = np.nan
    mass = designs["wire"] ** 2 * designs["coil"] * designs["turns"]
    return pd.DataFrame({"stiffness": 1000 * stiff, "mass": mass, "fits": designs["coil"] > 2 * designs["wire"]})
'''
RANGES = "wire=0.5..5,coil=4..20,turns=3..12:whole"


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("judge") / "springs.py"
    path.write_text(JUDGE, encoding="utf-8")
    return f"{path}:measure"


@pytest.fixture(scope="module")
def run(judge: str, tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("runs") / "springs"
    options = {"judge": judge, "parameters": RANGES, "minimise": "mass", "examples": 200, "size": "tiny", "per_wish": 2, "polish": 3}
    return train(kind="design", steps=20, out=place, quiet=True, **options)


def test_a_judge_that_raises_or_returns_nan_costs_that_design_only(judge: str) -> None:
    problem = ParametricProblem.from_table(None, load_judge(judge).function, ranges=read_ranges(RANGES))
    designs = np.array([[2.0, 10, 5], [4.95, 15, 5], [0.55, 10, 5], [2.0, 3.9, 5], [4.0, 6.0, 5]])
    found = problem.judge(designs, [problem.brief({"mass": 50})] * 5)
    assert found.faults[0] == ()
    assert "did not converge" in found.faults[1][0] and "stiffness could not be measured" in found.faults[2][0]
    assert found.faults[3][0] == "coil is outside of its range" and found.faults[4] == ("fits does not hold",)
    assert np.isinf(found.worst_miss[1:]).all()
    examples = problem.examples(400)
    assert 250 < len(examples) < 400 and len(examples.notes) == 3, "each kind of fault is said once"


def test_a_run_with_such_a_judge_ends_with_a_verdict(run: Run) -> None:
    m = run.read("metrics.json")
    assert m["verdict"]["verdict"] in ("SHIP", "NOT YET", "HOLD")
    assert {g["gate"] for g in m["verdict"]["gates"]} == {"certificate", "wishes", "condition", "worth", "diversity", "copies", "training"}
    assert any("did not converge" in note for note in m["data"]["notes"])
    assert m["certificates"]["confirmed"] == m["certificates"]["n"] > 0
    rivals = {r["name"]: r for r in m["design"]["rivals"]}
    assert abs(rivals["direct optimisation"]["calls"] - m["design"]["calls"]) <= 1 and rivals["retrieval"]["calls"] <= m["design"]["calls"]
    page = (run.path / "report.html").read_text(encoding="utf-8")
    assert "springs.py:measure" in page and "data:image/png;base64" in page and "did not converge" in page
    card = next(p for p in run.path.iterdir() if p.suffix == ".md").read_text(encoding="utf-8")
    assert "retrieval" in card and "direct optimisation" in card


def test_what_is_written_is_certified_and_can_be_checked(run: Run, judge: str, tmp_path: Path) -> None:
    made = generate(run, want="stiffness=5", n=5, judge=judge, out=tmp_path)
    record = json.loads((tmp_path / "certificates.json").read_text(encoding="utf-8"))
    assert len(record["designs"]) == len(made.samples) and all(d["certified"] for d in record["designs"])
    assert sorted(p.stem for p in tmp_path.glob("*.csv")) == [d["file"] for d in record["designs"]]
    problem = open_design_model(run, judge).problem
    for design in record["designs"]:
        row = pd.read_csv(tmp_path / f"{design['file']}.csv")
        assert row.to_dict("records")[0] == pytest.approx(json.loads((tmp_path / f"{design['file']}.json").read_text(encoding="utf-8")))
        assert disagreements(Certificate.from_dict(design), problem, row.to_numpy(float)[0]) == []
    assert generate(run, want="stiffness=5", n=5, judge=judge).samples.certificates == made.samples.certificates, "same seed, same designs"
    page = (tmp_path / "certificates.html").read_text(encoding="utf-8")
    assert page.count("<article>") == len(record["designs"]) and (tmp_path / "sheet.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"want": "stiffness=9000"}, "can be certified"),
        ({"want": "stiffness=-1"}, "can be certified"),
        ({"want": "stifness=5"}, "Did you mean 'stiffness'?"),
        ({"want": "stiffness=hard"}, "is no number"),
        ({"want": "stiffness=inf"}, "is no number"),
        ({"want": "stiffness"}, "is no wish"),
        ({"want": ["mass=3", "mass=4"]}, "is wanted to be 3 and 4"),
        ({"want": '{"mass": [1, 2]}'}, "is no number"),
        ({"want": "nothing.json"}, "nothing.json"),
        ({}, "nothing is asked for"),
        ({"want": "mass=3", "format": ".step"}, "is not a format"),
        ({"want": "mass=3", "judge": "springs.txt:measure"}, "names no judge"),
        ({"want": "mass=3", "judge": "missing.py:measure"}, "there is no such file"),
    ],
)
def test_bad_requests_are_refused_and_write_nothing(run: Run, judge: str, tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(AimtError, match=said.replace("?", r"\?").replace("(", r"\(")):
        generate(run, **{"judge": judge, "out": tmp_path / "out", "n": 2, **options})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"judge": None}, "no design problem is named"),
        ({"parameters": None}, "no ranges to draw them from"),
        ({"parameters": "wire=5..1"}, "smaller to a larger"),
        ({"parameters": "wire=1..2,wire=1..3"}, "two parameters have one name"),
        ({"minimise": "weight"}, "does not measure 'weight'"),
        ({"limit": "mass"}, "is no limit"),
        ({"limit": "mass<=0"}, "designs can be used"),
        ({"tolerance": "mass=-3%"}, "is no tolerance"),
        ({"size": "huge"}, "is not a size"),
        ({"setting": "grid=3"}, "--setting is for problems of the library"),
        ({"problem": "bridge"}, "no design problem 'bridge'"),
        ({"target": "mass"}, "--target is an option of"),
    ],
)
def test_bad_trainings_are_refused(judge: str, tmp_path: Path, options: dict, said: str) -> None:
    with pytest.raises(AimtError, match=said):
        train(kind="design", steps=1, examples=40, quiet=True, out=tmp_path / "run", **{"judge": judge, "parameters": RANGES, **options})


def test_judges_that_fail_as_a_whole() -> None:
    ranges = read_ranges("a=0..1")
    for bad, said in (
        (lambda d: d["b"], "fails on each"),
        (lambda d: None, "NoneType"),
        (lambda d: pd.DataFrame({"y": ["word"] * len(d)}), "no number that varies"),
        (lambda d: pd.DataFrame({"y": np.ones(len(d))}), "no number that varies"),
        (lambda d: (_ for _ in ()).throw(SystemExit(3)), "SystemExit"),
    ):
        with pytest.raises(ProblemError, match=said):
            ParametricProblem(ranges, bad)
    with pytest.raises(KeyboardInterrupt):
        run_judge(lambda d: (_ for _ in ()).throw(KeyboardInterrupt()), pd.DataFrame({"a": [1.0]}))


def test_a_stopped_run_goes_on_as_if_it_had_not_been(judge: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from aimt.jobs.generators import design_steps as steps

    options = {"judge": judge, "parameters": RANGES, "examples": 80, "size": "tiny", "per_wish": 2, "polish": 0, "steps": 10, "quiet": True}
    whole = train(kind="design", out=tmp_path / "whole", **options)
    with monkeypatch.context() as m:
        m.setattr(steps, "choose_guidance", lambda work: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            train(kind="design", out=tmp_path / "run", **options)
    with pytest.raises(ProblemError, match="Name a function of yours"):
        train(kind="design", out=tmp_path / "run", resume=True, parameters=RANGES, quiet=True, problem="parametric")
    again = train(kind="design", out=tmp_path / "run", resume=True, **options)
    weights = [load_file(r.path / "model" / "model.safetensors") for r in (again, whole)]
    assert all(np.array_equal(weights[0][name], weights[1][name]) for name in weights[1])
    assert again.read("metrics.json")["design"]["answered"] == whole.read("metrics.json")["design"]["answered"]


def test_the_files_of_a_run_are_checked(run: Run, judge: str, tmp_path: Path) -> None:
    with pytest.raises(ProblemError, match="Name it again: --judge"):
        open_design_model(run)
    path = run.path / "model" / "examples.json"
    kept = path.read_bytes()
    try:
        path.write_bytes(kept.replace(b"0", b"1", 1))
        with pytest.raises(RunError):
            open_design_model(run, judge)
    finally:
        path.write_bytes(kept)
    with pytest.raises(RunError, match="no certificate"):
        Certificate.from_dict({})


def test_tables_with_words_groups_and_holes(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"a": rng.uniform(1, 2, 90), "kind": rng.choice(["oak", "elm"], 90), "batch": np.repeat(np.arange(30), 3), "y": 0.0}
    )
    table.loc[3, "a"] = np.nan
    judge = lambda d: pd.DataFrame({"y": d["a"] * d["kind"].map({"oak": 1.0, "elm": 3.0})})
    problem = ParametricProblem.from_table(table, judge, group="batch", options=ParametricOptions(at_least=("y",)))
    assert [p.name for p in problem.parameters] == ["a", "kind"], "a column that the judge returns is no parameter"
    examples = problem.examples(1000)
    assert len(examples) == 89 and len(set(examples.groups)) == 30
    problem.fit(examples)
    best = retrieve_designs(problem, examples, [problem.brief({"y": 5.9})])[0, 0]
    assert problem.frame(examples.designs[[best]])["kind"].iloc[0] == "elm"
    done = refine(problem, examples.designs[:20], [problem.brief({"y": 2.9})] * 20, 4)
    assert (done.judged.worst_miss <= done.raw.worst_miss).all() and done.calls > 20, (
        "polish makes nothing worse, and its calls are counted"
    )
    assert (problem.frame(done.designs)["kind"] == problem.frame(examples.designs[:20])["kind"]).all()
    with pytest.raises(ProblemError, match="there is no column 'lot'"):
        ParametricProblem.from_table(table, judge, group="lot")
    with pytest.raises(DataError, match="no column varies"):
        ParametricProblem.from_table(table[["y"]].assign(c=1.0), judge)


def test_problems_and_kinds_are_found_by_name() -> None:
    assert [choose_kind(s, {}).name for s in ("airfoils", "structures", "floor-plans")] == ["design"] * 3
    assert choose_kind("airfoils", {"target": "x"}).name == "table"
    with pytest.raises(ProblemError, match="no design problem"):
        make_problem("bridges")
    assert read_want({"a": 1}) == {"a": 1} and read_want(None) == {}


def test_worth_is_measured_against_the_better_baseline() -> None:
    half = {"value": 0.5, "low": 0.4, "high": 0.6}
    win, tie = {"value": 0.6, "low": 0.4, "high": 0.8}, {"value": 0.0, "low": -0.2, "high": 0.2}
    common = (50, 50, 100, 200, 4, 5, 30.0, 0.01, half, half, half, half, half, half, 1.0, 0.5, half, half)
    for gains, status in (((win, win), "pass"), ((win, tie), "hold"), ((tie, win), "hold")):
        rivals = tuple(DesignRival(n, 50, half, g, 1.0, 30.0) for n, g in zip(("retrieval", "direct optimisation"), gains, strict=True))
        assert worth_gate(DesignScores(*common, rivals=rivals), DesignLimits()).status == status
    assert Parameter("a", 0, 1).width == 1

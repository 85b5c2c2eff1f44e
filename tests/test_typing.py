"""Types as a user's project meets them: mypy passes a program that calls aimt rightly, and finds each mistake of one that does not."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import aimt

pytestmark = pytest.mark.usefixtures("no_drawing")

RIGHT = '''"""A churn model in a project of one's own."""

from pathlib import Path

import pandas as pd

import aimt


def fit(table: pd.DataFrame, out: Path) -> aimt.Run:
    return aimt.train(table, target="churn", cost={"fn": 100.0, "fp": 5.0}, time_limit=60, out=out, quiet=True)


def score(run: aimt.Run, rows: Path) -> Path | pd.DataFrame:
    return aimt.predict(run, rows, out="scored.csv", coverage=0.9)


def second_opinion(answers: str) -> bool:
    judged = aimt.judge(answers, actual="churn", probability="score", sensitive_features=["sex"])
    return judged.status == "done"


def stages(folder: str) -> list[str]:
    try:
        run = aimt.Run.open(folder)
    except aimt.AimtError:
        return []
    return [str(event["stage"]) for event in run.events()]


def faults(table: str) -> list[str]:
    return [finding["evidence"] for finding in aimt.audit(table, target="churn")["findings"]]


def gain(run: aimt.Run, rows: str) -> int:
    return aimt.evaluate(run, rows)["n_rows"]
'''
WRONG = """from pathlib import Path

import aimt

run = aimt.train("churn.csv", targte="churn")  # wrong: a keyword that does not exist
run = aimt.train("churn.csv", target="churn", time_limit="60 s")  # wrong: a text for a number
run = aimt.train("churn.csv", "churn")  # wrong: an option without its name
aimt.predict()  # wrong: the run is missing
aimt.predict(run, "new.csv", coverage="high")  # wrong: a text for a number
aimt.judge(actual="churn")  # wrong: the table is missing
print(run.verdikt)  # wrong: an attribute that does not exist
where: str = aimt.Run.open(Path("runs/churn")).path  # wrong: a path is no text
print(aimt.audit("churn.csv")["finding"])  # wrong: a field that does not exist
"""


UNUSED = "torch.*,scipy.*,sklearn.*,matplotlib.*,pyarrow.*,rich.*"  # no public name has types of theirs; reading them takes half the time


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, set[int]]:
    """File -> lines that mypy finds fault with, in a project outside the repository."""
    pytest.importorskip("mypy", reason="mypy comes with the extra 'lint'")
    project = tmp_path_factory.mktemp("project")
    (project / "right.py").write_text(RIGHT, encoding="utf-8")
    (project / "wrong.py").write_text(WRONG, encoding="utf-8")
    (project / "mypy.ini").write_text(f"[mypy]\n[mypy-{UNUSED}]\nfollow_imports = skip\n", encoding="utf-8")
    package = Path(aimt.__file__).parent.parent  # as installed: on the path of modules, not a part of the project
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--ignore-missing-imports",
            "--no-incremental",
            "--cache-dir",
            os.devnull,
            "right.py",
            "wrong.py",
        ],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(package)},
        capture_output=True,
        encoding="utf-8",
    )
    assert done.returncode in (0, 1), done.stdout + done.stderr
    errors = re.findall(r"^(.+?):(\d+): error: (.*)$", done.stdout, flags=re.M)
    assert {file for file, *_ in errors} <= {"right.py", "wrong.py"}, done.stdout
    return {name: {int(line) for file, line, _ in errors if file == name} for name in ("right.py", "wrong.py")}


def test_a_program_that_calls_aimt_rightly_passes(found):
    assert found["right.py"] == set()


def test_each_mistake_is_found(found):
    wrong = {i for i, line in enumerate(WRONG.splitlines(), 1) if "# wrong" in line}
    assert len(wrong) == 9 and found["wrong.py"] == wrong

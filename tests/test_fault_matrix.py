"""The fault matrix: one case for each kind of bad input, and what the library must do with it.

A case is either *refused*, with a subclass of `AimtError` that says in one line what is wrong, where, and what to do; or
*recovered*, with the result that the documentation promises, and a warning or a count where something was changed. The cases are
in `faults/`, one file for each group, and the page "Fault matrix" of the documentation lists them.

    pytest tests/test_fault_matrix.py -k files      the cases of one group
    AIMT_SLOW=1 pytest tests/test_fault_matrix.py   also those that take minutes
"""

import json
import os
import shutil
import subprocess
import sys
import traceback
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
from faults import artifacts, columns, decisions, files, generative, run, service, splits, target, values  # noqa: E402
from faults.case import VERBS, Fault, Place, Shared, fulfil  # noqa: E402

GROUPS = (
    files.files,
    values.values,
    columns.columns,
    target.target,
    splits.splits,
    run.running,
    artifacts.artifacts,
    service.requests,
    service.load,
    decisions.decisions,
    generative.generative,
)
CASES: list[Fault] = [case for group in GROUPS for case in group.cases]
LIMIT_MB = 1000  # Address space beyond what the imports take, for the cases under a limit of memory


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> Shared:
    return Shared(tmp_path_factory.mktemp("shared"))


@pytest.fixture(scope="module")
def limited(tmp_path_factory) -> dict[str, str]:
    """What was wrong with each case under a limit of memory: one process runs them all, and those after its end are missing."""
    folder = tmp_path_factory.mktemp("limited")
    done = subprocess.run([sys.executable, __file__, str(folder)], capture_output=True, encoding="utf-8", timeout=300)
    told = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["id"]: line["fault"] for line in told} | {"": done.stderr[-2000:]}


@pytest.mark.parametrize("case", CASES, ids=[case.id for case in CASES])
def test_fault(case, shared, tmp_path, monkeypatch, request):
    if case.slow and not os.environ.get("AIMT_SLOW"):
        pytest.skip("takes minutes: set AIMT_SLOW=1")
    if os.name != "posix" and (case.posix or case.limited):
        pytest.skip("needs signals, links, or limits of POSIX systems")
    if case.limited:
        told = request.getfixturevalue("limited")
        assert case.id in told, f"the process ended before: {told['']}"
        assert not told[case.id], told[case.id]
        return
    for i, act in enumerate(VERBS[case.verb]):
        (tmp_path / str(i)).mkdir()
        with monkeypatch.context() as patch:
            fulfil(case, act, Place(tmp_path / str(i), shared, patch))
    assert not list(tmp_path.rglob("sprung")), "code in a file was executed"


def test_every_case_has_a_name_of_its_own():
    assert len({case.id for case in CASES}) == len(CASES)


def run_limited(folder: Path) -> None:
    """Run the cases under a limit of memory, and print what was wrong with each of them."""
    import resource

    import openpyxl  # noqa: F401 what is imported now does not count
    import pyarrow.parquet  # noqa: F401

    import aimt.data.audio.read
    import aimt.data.image.read  # noqa: F401

    size = Path("/proc/self/statm")
    used = int(size.read_text().split()[0]) * resource.getpagesize() if size.exists() else 2 << 30
    resource.setrlimit(resource.RLIMIT_AS, (used + (LIMIT_MB << 20), resource.RLIM_INFINITY))
    for case in (case for case in CASES if case.limited):
        fault = ""
        for act in VERBS[case.verb]:
            place = folder / case.id / act.__name__
            place.mkdir(parents=True)
            try:
                fulfil(case, act, Place(place, Shared(folder), pytest.MonkeyPatch()))
            except BaseException:
                fault = fault or traceback.format_exc()
            shutil.rmtree(place)
        print(json.dumps({"id": case.id, "fault": fault}), flush=True)


if __name__ == "__main__":
    run_limited(Path(sys.argv[1]))

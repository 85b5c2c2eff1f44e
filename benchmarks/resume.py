"""Exact resume: a small GPT is trained, killed with SIGKILL at a random moment, resumed, compared with an undisturbed run.

    python benchmarks/resume.py [--kills 25] [--seed 0]

The run has all that has a state: dropout, an average of the weights, accumulation, evaluation that uses random numbers, and
checkpoints that are written in the background every 7 steps. A process is killed within some milliseconds of a random
step, so in the middle of a step, of an evaluation or of a checkpoint. "Equal" means equal bits in the weights, the
average, the optimiser's moments, the position in the data, and all losses. The run itself is `tests/resume_run.py`.
Exit code 1 if one differs.
"""

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from resume_run import STEPS, run


def one_kill(dice: random.Random, place: Path) -> tuple[int, int, dict]:
    """Kill a run once; the step it had reached, the leftovers of a torn checkpoint, and the result of the resumed run."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=place))
        killed = run(folder, kill_at=dice.randrange(STEPS), wait=dice.random() * 0.02)
        if "stopped" not in killed:  # otherwise it had ended before the signal came
            torn = len(list(folder.glob(".tmp-*")))
            return killed["step"], torn, run(folder)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    dice, start = random.Random(args.seed), time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        alone = run(Path(folder))
    equal = torn_checkpoints = 0
    for n in range(args.kills):
        with tempfile.TemporaryDirectory() as folder:
            step, torn, result = one_kill(dice, Path(folder))
        equal += result == alone
        torn_checkpoints += torn
        verdict = "equal" if result == alone else "DIFFERENT"
        print(f"kill {n + 1:2}: after step {step:2}{', in a checkpoint' if torn else ''}: {verdict}", flush=True)
    print(
        f"\n{equal} of {args.kills} equal to the last bit ({STEPS} steps; {torn_checkpoints} kills tore a checkpoint); "
        f"{time.perf_counter() - start:.0f} s"
    )
    return 0 if equal == args.kills else 1


if __name__ == "__main__":
    sys.exit(main())

"""The studio over runs of each kind that is no table: every form filled in a browser, sent by keyboard, and compared with the command shown.

AIMT_SLOW=1 pytest tests/test_studio_models.py
"""

import json
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("uvicorn")
torch = pytest.importorskip("torch")

import aimt  # noqa: E402
from test_family_clip import base as clip_base, pictures, tune as tune_clip  # noqa: E402, F401
from test_family_speech import base as speech_base, folder as recordings, tune as tune_speech  # noqa: E402, F401
from test_serve_text import runs as served  # noqa: E402, F401
from test_studio import Person, Server, needs_browser, person  # noqa: E402, F401

pytestmark = [pytest.mark.slow, needs_browser, pytest.mark.usefixtures("brief_runs")]
ASK, COMMAND = "What does the model say?", "document.querySelector('[data-command-text]').textContent"


@pytest.fixture(scope="module")
def server(tmp_path_factory, served, clip_base, pictures, speech_base, recordings):  # noqa: F811
    """The studio over a folder with a run of each kind."""
    place = tmp_path_factory.mktemp("studio")
    made = dict(served)
    made["colours"] = tune_clip(clip_base, place / "clip", pictures)
    made["heard"] = tune_speech(speech_base, recordings, place / "speech")
    made["foils"] = aimt.train("airfoils", steps=20, examples=300, size="tiny", out=place / "foils", quiet=True)
    made["promoted"] = promoted(place / "promoted")
    for name, run in made.items():
        shutil.copytree(run.path, place / "runs" / name)
    server = Server(place)
    yield server
    server.stop()


def promoted(out: Path):
    """A forecast that needs a column known ahead."""
    days, promo = pd.date_range("2024-01-01", periods=120), np.arange(120) % 9 == 0
    sales = 50 + 10 * np.sin(np.arange(120) * 2 * np.pi / 7) + 15 * promo + np.random.default_rng(0).normal(size=120)
    frame = pd.DataFrame({"day": days, "sales": sales.round(2), "promo": promo.astype(int)})
    options = {"target": "sales", "time": "day", "known_covariates": "promo", "horizon": 5, "n_origins": 2, "time_limit": 3}
    return aimt.train(frame, kind="series", out=out, quiet=True, **options)


def press(person: Person, key: str) -> None:  # noqa: F811
    code = {"Tab": 9, "Enter": 13}[key]
    text = {"text": "\r"} if key == "Enter" else {}
    for kind in ("keyDown", "keyUp"):
        person.browser.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)


def tab_to(person: Person, test: str) -> None:  # noqa: F811
    """Press Tab until the element in focus passes a test, and see that it shows where it is."""
    for _ in range(40):
        press(person, "Tab")
        if person.value(f"(e => {test})(document.activeElement)"):
            outline = person.value("getComputedStyle(document.activeElement).outlineStyle")
            assert outline != "none", f"no focus ring: {test}"
            return
    raise AssertionError(f"the Tab key never comes to {test}")


def type_in(person: Person, label: str, text: str) -> None:  # noqa: F811
    """Go to a field by keyboard, and replace what it holds."""
    tab_to(person, f"!!e.labels && e.labels.length === 1 && e.labels[0].textContent === {json.dumps(label)}")
    person.value("document.activeElement.select()")
    person.browser.call("Input.insertText", text=text)


def send(person: Person) -> None:  # noqa: F811
    person.value("window.here = true")
    tab_to(person, f"e.tagName === 'BUTTON' && e.textContent === {json.dumps(ASK)}")
    press(person, "Enter")
    person.wait("!window.here && document.readyState === 'complete'")


def do_command(person: Person, folder: Path) -> str:  # noqa: F811
    """What the command on the page prints, run in a folder with the table that the page shows beside it."""
    for name, text in person.value(
        "[...document.querySelectorAll('details')].map(e => [e.querySelector('summary').textContent, (e.querySelector('pre') || {}).textContent])"
    ):
        if name.endswith(".csv"):
            (folder / name).write_text(text, encoding="utf-8")
    words = shlex.split(person.value(COMMAND))
    assert words[0] == "aimt"
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, encoding="utf-8", timeout=120
    )
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def heading(person: Person) -> str:  # noqa: F811
    return person.value("document.querySelector('#h-answer').textContent")


def shown_rows(person: Person) -> pd.DataFrame:  # noqa: F811
    head, *rows = person.value("[...document.querySelectorAll('#answer tr')].map(r => [...r.children].map(c => c.textContent))")
    return pd.DataFrame(rows, columns=head)


def test_a_text_is_asked_for_by_keyboard(person, tmp_path):  # noqa: F811
    for name, label in (("answers", "answer"), ("kinds", "target")):
        person.open(f"/runs/{name}/try")
        person.look(f"{name}-try")
        type_in(person, "prompt", "cat 1")
        type_in(person, "tokens", "9999999")
        send(person)
        assert "9999999 does not fit" in person.value("document.querySelector('[aria-invalid]').closest('.field').textContent")
        person.look(f"{name}-fault")
        type_in(person, "tokens", "4")
        send(person)
        assert heading(person) == f"{label}: {do_command(person, tmp_path).strip()}"
        person.look(f"{name}-answer")
    person.open("/runs/story/try")
    type_in(person, "prompt", "The cat")
    type_in(person, "tokens", "40")
    send(person)
    assert person.value("(document.querySelector('.written') || document.querySelector('#h-answer')).textContent").strip()
    person.look("story-answer")


def test_a_classification_is_that_of_the_command(person, tmp_path):  # noqa: F811
    person.open("/runs/reviews/try")
    type_in(person, "text", 'the parcel "is" lost,\nit seems')
    send(person)
    do_command(person, tmp_path)
    scored = pd.read_csv(tmp_path / "scored.csv").iloc[0]
    assert heading(person) == f"label: {scored['prediction']}" and f"{100 * scored['probability']:.1f} %" in person.text()
    person.look("reviews-answer")


def test_a_forecast_is_that_of_the_command(person, tmp_path):  # noqa: F811
    person.open("/runs/sales/try")
    type_in(person, "horizon", "99")
    send(person)
    assert "from 1 to 7" in person.value("document.querySelector('[aria-invalid]').closest('.field').textContent")
    person.look("sales-fault")
    type_in(person, "horizon", "3")
    type_in(person, "series", "south")
    type_in(person, "coverage", "0.8")
    send(person)
    do_command(person, tmp_path)
    wanted, shown = pd.read_csv(tmp_path / "forecasts.csv"), shown_rows(person)
    assert list(shown) == list(wanted) and len(shown) == 3 and set(shown["shop"]) == {"south"}
    for name in ("forecast", "low", "high"):
        assert np.allclose(shown[name].astype(float), wanted[name], rtol=1e-3), name
    person.look("sales-answer")


def test_a_forecast_that_needs_to_know_what_comes(person, tmp_path):  # noqa: F811
    person.open("/runs/promoted/try")
    send(person)
    assert "has no 'promo'" in person.value("document.querySelector('.problem').textContent")
    person.look("promoted-fault")
    rows = json.loads(person.value("document.querySelector('textarea').value"))
    type_in(person, "future", json.dumps([row | {"promo": int(i == 2)} for i, row in enumerate(rows)]))
    send(person)
    do_command(person, tmp_path)
    assert np.allclose(shown_rows(person)["forecast"].astype(float), pd.read_csv(tmp_path / "forecasts.csv")["forecast"], rtol=1e-3)
    person.look("promoted-answer")


def test_a_picture_and_a_recording(person, pictures, recordings, tmp_path):  # noqa: F811
    for name, good in (("colours", pictures / "grass" / "00.png"), ("heard", recordings / "wav" / "00.wav")):
        person.open(f"/runs/{name}/try")
        person.look(f"{name}-try")
        bad = tmp_path / f"broken{good.suffix}"
        bad.write_bytes(good.read_bytes()[:30])
        person.choose_file(bad)
        send(person)
        assert "cannot be read" in person.value("document.querySelector('.problem').textContent").lower()
        person.look(f"{name}-fault")
        person.choose_file(good)
        send(person)
        answer = aimt.predict(person.server.folder / name, good, quiet=True)["prediction"].iloc[0]
        assert str(answer) in person.value("document.querySelector('#answer').textContent")
        person.look(f"{name}-answer")


def test_a_second_file_of_each_kind(person, pictures, recordings, tmp_path):  # noqa: F811
    pd.DataFrame({"prompt": ["cat 1", "bus 2"], "note": ["a", "b"]}).to_csv(tmp_path / "answers.csv", index=False)
    pd.DataFrame({"source": ["cat 1", "bus 2"]}).to_csv(tmp_path / "kinds.csv", index=False)
    pd.DataFrame({"text": ["the box is lost", "the box came torn"]}).to_csv(tmp_path / "reviews.csv", index=False)
    shutil.make_archive(str(tmp_path / "colours"), "zip", pictures / "grass")
    shutil.make_archive(str(tmp_path / "heard"), "zip", recordings / "wav")
    pd.read_csv(person.server.folder / "promoted" / "future.csv").assign(promo=0).to_csv(tmp_path / "promoted.csv", index=False)
    for name, rows in {"answers": 2, "kinds": 2, "reviews": 2, "promoted": 5, "colours": 24, "heard": 60, "sales": 14}.items():
        person.open(f"/runs/{name}/predict")
        person.look(f"{name}-predict")
        if name != "sales":  # all coming steps need no file
            person.choose_file(next(tmp_path.glob(f"{name}.*")))
        person.click("Predict")
        assert f"{rows} rows were scored" in person.text(), name
        person.look(f"{name}-predicted")


def test_designs_are_asked_for_and_shown(person, tmp_path):  # noqa: F811
    person.open("/runs/foils/design")
    person.look("foils-design")
    person.click("Propose")
    assert "needs a wished lift" in person.value("document.querySelector('.problem').textContent")
    person.fill("w-lift", "0.7")
    person.fill("w-thickness", "0.12")
    person.fill("n", "2")
    person.click("Propose")
    assert person.value("document.querySelectorAll('.designs img').length") == 2 and "lift=0.7" in person.value(COMMAND)
    assert person.value("[...document.querySelectorAll('.designs img')].every(e => e.naturalWidth > 100 && e.alt)")
    person.look("foils-gallery")
    do_command(person, tmp_path)
    assert len(list((tmp_path / "designs").rglob("*.dat"))) == 2

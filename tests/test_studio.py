"""The studio as a person and as an attacker meet it: a real server, driven by a headless browser and by raw requests."""

import http.client
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlencode, urlsplit

import numpy as np
import pandas as pd
import pytest

import aimt
from aimt.core.errors import AimtError
from aimt.core.progress import Progress
from aimt.data.sources.catalog import load_dataset
from aimt.jobs.kinds.table import TableOptions
from aimt.jobs.steps.table import begin, define

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "docs"))
import check

pytest.importorskip("uvicorn")
CHROMIUM = os.environ.get("CHROME") or next(filter(None, map(shutil.which, check.BROWSERS)), None)
needs_browser = pytest.mark.skipif(not CHROMIUM or os.name != "posix", reason="no Chromium is installed (or name it in CHROME)")
HOSTILE = ["<script>document.title='owned'</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "--out", "plain", "answer"]


class Server:
    """`aimt studio` in a process of its own."""

    def __init__(self, folder: Path, *options: str):
        self.folder = folder / "runs"
        words = ["studio", "--folder", str(self.folder), "--port", "0", "--no-browser", *options]
        self.log = folder / "studio.txt"
        with open(self.log, "wb") as out:
            self.process = subprocess.Popen([sys.executable, "-m", "aimt", *words], stdout=out, stderr=subprocess.STDOUT, cwd=folder)
        self.port = int(self.wait_for(lambda: re.search(r"http://[\d.]+:(\d+)", self.log.read_text()), "the studio does not start")[1])
        self.wait_for(lambda: self.try_ask(), "the studio does not answer")
        self.root = f"http://127.0.0.1:{self.port}"

    def wait_for(self, look, words: str, seconds: float = 90):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if found := look():
                return found
            time.sleep(0.2)
        raise AssertionError(f"{words}: {self.log.read_text()[-2000:]}")

    def try_ask(self):
        try:
            return self.ask("GET", "/static/studio.css")[0]
        except OSError:
            return None

    def ask(self, method: str, path: str, body: bytes | str | None = None, **headers: str):
        """Status, headers and text of an answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            if isinstance(body, str):
                named.setdefault("content-type", "application/x-www-form-urlencoded")
            connection.request(method, path, body, named)
            answer = connection.getresponse()
            return answer.status, dict(answer.getheaders()), answer.read().decode("utf-8", "replace")
        finally:
            connection.close()

    def token(self, path: str = "/") -> str:
        return re.search(r'name="csrf" value="([^"]+)"', self.ask("GET", path)[2])[1]

    def send_file(self, path: str, name: str, content: bytes, token: str | None = None, **fields: str):
        parts = {"csrf": self.token() if token is None else token} | fields
        head = "".join(f'--XX\r\nContent-Disposition: form-data; name="{k}"\r\n\r\n{v}\r\n' for k, v in parts.items())
        head += f'--XX\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        return self.ask("POST", path, head.encode() + content + b"\r\n--XX--\r\n", content_type="multipart/form-data; boundary=XX")

    def stop(self) -> None:
        self.process.send_signal(signal.SIGINT if os.name == "posix" else signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("studio"), "--max-upload-mb", "1")
    yield server
    server.stop()


def hostile_table() -> bytes:
    rng = np.random.default_rng(0)
    frame = pd.DataFrame({name: rng.normal(size=300).round(3) for name in HOSTILE[:-1]})
    frame["answer"] = np.where(frame["plain"] + rng.normal(size=300) > 0, "<b>yes</b>", "no")
    return frame.to_csv(index=False).encode()


# --- without a browser: what an attacker can send -------------------------------------------------------------------


def test_pages_of_other_sites_can_do_nothing(server):
    token, form = server.token(), {"run": ["a", "b"]}
    good = urlencode(form | {"csrf": token}, doseq=True)
    assert server.ask("POST", "/compare", good)[0] == 404  # the token counts; there are no such runs
    assert server.ask("POST", "/compare", urlencode(form, doseq=True))[0] == 403
    assert server.ask("POST", "/compare", good.replace(token, token[:-1]))[0] == 403
    for headers in (
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:1"},
        {"sec_fetch_site": "cross-site"},
    ):
        assert server.ask("POST", "/compare", good, **headers)[0] == 403, headers
    assert server.ask("POST", "/compare", good, origin=server.root)[0] == 404
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1.evil.example", ""):
        assert server.ask("GET", "/", host=host)[0] in (400, 403), host
    assert server.ask("GET", "/", sec_fetch_site="cross-site", sec_fetch_mode="no-cors")[0] == 403
    status, headers, _ = server.ask("GET", "/", sec_fetch_site="cross-site", sec_fetch_mode="navigate")
    policy = headers["content-security-policy"]
    assert (
        status == 200 and "frame-ancestors 'none'" in policy and "unsafe" not in policy and headers["x-content-type-options"] == "nosniff"
    )
    for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
        assert server.ask(method, "/compare")[0] in (403, 405), method


def test_names_do_not_lead_out_of_the_folder(server):
    secret = server.folder.parent / "secret"
    secret.mkdir(exist_ok=True)
    (secret / "report.html").write_text("TOP SECRET")
    (secret / "run.json").write_text("{}")
    (server.folder / "link").symlink_to(secret, target_is_directory=True)
    (server.folder / "uploads").mkdir(exist_ok=True)
    (server.folder / "uploads" / "link.csv").symlink_to(secret / "report.html")
    names = [
        "..",
        "%2e%2e",
        "..%2fsecret",
        "%2e%2e%2fsecret",
        "....",
        "link",
        "secret%00",
        "a%0d%0ab",
        "uploads",
        ".",
        "%5c..%5csecret",
        "x" * 500,
    ]
    for name in names:
        for path in (f"/runs/{name}", f"/runs/{name}/report", f"/runs/{name}/try", f"/runs/{name}/predictions/run.json", f"/tables/{name}"):
            status, _, text = server.ask("GET", path)
            assert status in (400, 404) and "SECRET" not in text, (path, status)
    assert server.ask("GET", "/tables/link.csv")[0] == 404
    for path in ("/static/../report.html.j2", "/static/%2e%2e%2fsecret", "//etc/passwd", "/static/studio.py"):
        assert server.ask("GET", path)[0] in (400, 404, 422), path
    token = server.token()
    body = urlencode({"csrf": token, "name": "../escaped", "time_limit": "5"})
    assert server.ask("POST", "/tables/german-credit/train", body)[0] == 404
    assert not (server.folder.parent / "escaped").exists()
    (server.folder / "link").unlink()
    (server.folder / "uploads" / "link.csv").unlink()


def test_uploads_are_bounded_and_never_run(server):
    uploads = server.folder / "uploads"
    before = sorted(p.name for p in uploads.glob("*"))
    assert server.send_file("/tables", "big.csv", b"a,b\n" + b"1,2\n" * 500_000)[0] == 413
    assert server.send_file("/tables", "t.csv", b"a,b\n1,2\n", token="")[0] == 403
    for name, content in (
        ("x.py", b"a,b\n1,2\n"),
        ("x.sh", b"#!/bin/sh\ntouch owned\n"),
        ("x.html", b"<p>"),
        ("x.pkl", b"\x80\x04"),
        ("", b"a\n1\n"),
    ):
        assert server.send_file("/tables", name, content)[0] in (415, 422), name
    assert server.send_file("/tables", "broken.parquet", b"PAR1 and no more")[0] == 422
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.putrequest("POST", "/tables")  # a terabyte is announced: refused before it is sent
    connection.putheader("content-type", "multipart/form-data; boundary=XX")
    connection.putheader("content-length", str(10**12))
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    assert server.ask("POST", "/compare", "x=" + "y" * 3_000_000)[0] == 413
    assert server.ask("POST", "/compare", "&".join(f"a{i}=1" for i in range(5_000)))[0] in (403, 413)
    assert sorted(p.name for p in uploads.glob("*")) == before  # nothing is left, also no parts


def test_html_in_names_is_text(server):
    status, headers, _ = server.send_file("/tables", "../../<b>hostile.csv", hostile_table())
    assert status == 303 and re.fullmatch(r"/tables/[a-z-]+\.csv", headers["location"])
    status, _, text = server.ask("GET", headers["location"])
    assert status == 200 and "<script>document" not in text and "<img src=x" not in text and "<b>yes" not in text
    assert "&lt;script&gt;document.title" in text and "{{ 7 * 7 }}" in text
    for name in HOSTILE[:4]:
        status, _, text = server.ask("GET", f"{headers['location']}?{urlencode({'target': name})}")
        assert status == 200 and "<script>document" not in text and "<img src=x" not in text, name
    missing = server.ask("GET", f"{headers['location']}?{urlencode({'target': '<i>nothing'})}")
    assert missing[0] == 422 and "<i>nothing" not in missing[2] and "&lt;i&gt;nothing" in missing[2]


def test_other_addresses_need_a_token(tmp_path):
    with pytest.raises(AimtError, match="has no tokens"):
        aimt.studio(tmp_path, host="0.0.0.0", browser=False)
    tokens = tmp_path / "tokens.txt"
    tokens.write_text("a-token-that-is-long-enough\n")
    server = Server(tmp_path, "--host", "0.0.0.0", "--token-file", str(tokens))
    try:
        assert server.ask("GET", "/", accept="text/html")[1]["location"] == "/login"
        assert server.ask("GET", "/")[0] == server.ask("GET", "/tables/german-credit")[0] == 401
        token = server.token("/login")
        assert server.ask("POST", "/compare", urlencode({"csrf": token, "run": "a"}))[0] == 401
        assert server.ask("POST", "/login", urlencode({"csrf": token, "token": "wrong"}))[0] == 403
        assert server.ask("POST", "/login", urlencode({"token": "a-token-that-is-long-enough"}))[0] == 403
        status, headers, _ = server.ask("POST", "/login", urlencode({"csrf": token, "token": "a-token-that-is-long-enough"}))
        cookie = headers["set-cookie"]
        assert status == 303 and "HttpOnly" in cookie and "SameSite=Strict" in cookie and "a-token" not in cookie
        assert server.ask("GET", "/", cookie=cookie.split(";")[0])[0] == 200
        statuses = [server.ask("POST", "/login", urlencode({"csrf": token, "token": f"guess-{i}"}))[0] for i in range(15)]
        assert statuses[-1] == 429  # guessing is slow
    finally:
        server.stop()


@pytest.mark.slow
def test_the_bundled_table_answers_other_questions():
    work = begin(None, TableOptions(target="housing"), Progress(quiet=True))
    define(work)
    assert work.problem.task == "multiclass" and work.problem.cost is None  # costs and groups are about another target
    work = begin(None, TableOptions(), Progress(quiet=True))
    define(work)
    assert work.problem.target == "credit_risk" and work.problem.cost["fn"] == 5


def test_the_link_to_the_documentation_names_a_page(server):
    link = re.search(r'href="[^"]*/(jobs/[\w/]+)/(\w+)\.html">documentation', server.ask("GET", "/")[2])
    assert list((ROOT / "nbs" / link[1]).glob(f"*_{link[2]}.ipynb"))


# --- with a browser: what a person does -----------------------------------------------------------------------------

UNLABELLED = """[...document.querySelectorAll("input:not([type=hidden]), select, textarea, progress")]
  .filter(e => !(e.labels && e.labels.length) && !e.getAttribute("aria-label")).map(e => e.outerHTML.slice(0, 90))"""
VALUES = """[...document.querySelectorAll("#row .field")].map(e =>
  [e.querySelector("label").textContent, e.querySelector("input, select, textarea").value])"""
UNKNOWN_IDS = """[...document.querySelectorAll("[aria-describedby], [aria-labelledby]")].flatMap(e =>
  ((e.getAttribute("aria-describedby") || "") + " " + (e.getAttribute("aria-labelledby") || "")).trim().split(/\\s+/))
  .filter(id => id && !document.getElementById(id))"""


class Person:
    """Drives the browser by what is seen on the page."""

    def __init__(self, browser: check.Browser, server: Server, shots: Path | None):
        self.browser, self.server, self.shots, self.looked = browser, server, shots, 0

    def value(self, expression: str):
        return self.browser.value(expression)

    def wait(self, expression: str, seconds: float = 60):
        return self.server.wait_for(
            lambda: self.value(expression), f"never true: {expression} on {self.value('document.body.innerText')}", seconds
        )

    def open(self, path: str) -> None:
        self.browser.open(self.server.root + path)

    def text(self) -> str:
        return self.value("document.querySelector('main').innerText")

    def click(self, words: str) -> None:
        """Press the button or link with these words, and wait for the next page."""
        self.value("window.here = true")
        found = f"[...document.querySelectorAll('button, a')].find(e => e.textContent.trim() === {json.dumps(words)})"
        assert self.value(f"!!{found}"), f"there is no {words!r} on {self.text()}"
        self.value(f"{found}.click(), true")
        self.wait("!window.here && document.readyState === 'complete'")

    def fill(self, name: str, value: str) -> None:
        self.value(
            f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('input', {{bubbles: true}})); }})"
            f"(document.querySelector('[name={json.dumps(name)}]:not([type=hidden])'))"
        )

    def choose_file(self, path: Path) -> None:
        found = self.browser.call("Runtime.evaluate", expression="document.querySelector('input[type=file]')")["result"]
        self.browser.call("DOM.setFileInputFiles", files=[str(path)], objectId=found["objectId"])

    def look(self, name: str) -> None:
        """The page at two widths, in light and dark: no errors, nothing scrolls sideways, every control has a name."""
        assert self.value(UNLABELLED) == [] and self.value(UNKNOWN_IDS) == [], name
        assert self.value("document.querySelectorAll('h1').length") == 1, name
        assert self.value("[...document.querySelectorAll('[id]')].map(e => e.id).filter((id, i, all) => all.indexOf(id) !== i)") == [], name
        papers = {}
        for width, height, mobile in ((1280, 900, False), (390, 844, True)):
            for dark in (False, True):
                self.browser.look(width, height, dark, mobile)
                assert self.value("document.documentElement.scrollWidth") <= width, f"{name} scrolls sideways at {width} px"
                papers[dark] = self.value("getComputedStyle(document.body).backgroundColor")
                if self.shots:
                    tall = self.value("document.documentElement.scrollHeight")
                    self.browser.look(width, max(height, min(tall, 2600)), dark, mobile)
                    self.browser.screenshot(self.shots / f"{name}-{width}-{'dark' if dark else 'light'}.png")
        assert papers[False] != papers[True], f"{name} does not follow the system's colours"
        self.browser.look(1280, 900, False, False)
        assert self.browser.errors() == [], name
        self.looked += 1


@pytest.fixture
def person(server):
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = check.Browser(CHROMIUM, folder)
        browser.call("DOM.enable")
        shots = os.environ.get("AIMT_SHOTS")  # a folder for screenshots
        try:
            yield Person(browser, server, Path(shots) if shots else None)
        finally:
            browser.close()


@needs_browser
def test_from_the_bundled_table_to_a_service(person, server, tmp_path):
    # the first Tab leads to the content
    person.open("/")
    person.look("home")
    for kind in ("keyDown", "keyUp"):
        person.browser.call("Input.dispatchKeyEvent", type=kind, key="Tab", code="Tab", windowsVirtualKeyCode=9)
    assert person.value("document.activeElement.className") == "skip"

    # the bundled table, its audit, and the command of the form as it is filled in
    person.click("Use the bundled table")
    assert "What the audit says" in person.text() and "Base rates" in person.text()
    person.look("table")
    person.fill("time_limit", "10")
    person.fill("fn", "7")
    person.fill("name", "loans")
    command = "document.querySelector('form[data-preview] [data-command-text]').textContent"
    person.wait(f"{command}.endsWith('loans') && {command}.includes('fn=7') && {command}.includes('--time-limit 10')")
    shown = person.value(command)

    # the training, live
    person.click("Train")
    assert person.value("location.pathname") == "/runs/loans"
    person.wait("document.querySelector('[data-said]').textContent.includes('steps are done')")
    person.wait("document.querySelector('#progress')?.innerText.includes('est so far')")
    assert (
        "left" in person.value("document.querySelector('.now').innerText")
        and 0 < person.value("document.querySelector('progress').value") < 100
    )
    person.look("training")
    person.wait("!!document.querySelector('.word')", 120)

    # the verdict is that of the run, and the run is that of the command
    run = aimt.Run.open(server.folder / "loans")
    assert person.value("document.querySelector('.word').textContent") == run.read("report.json")["verdict"]["verdict"]
    assert person.value("document.querySelectorAll('.gates > li').length") == len(run.read("report.json")["verdict"]["gates"])
    assert run.problem.cost["fn"] == 7 and run.info["settings"]["time_limit"] == 10
    assert person.value("document.querySelector('[data-command-text]').textContent") == shown
    person.look("verdict")
    status, headers, text = server.ask("GET", "/runs/loans/report")
    assert status == 200 and text == (run.path / "report.html").read_text() and headers["content-security-policy"].startswith("sandbox")

    # a row with its reasons: what `predict` says
    person.click("Try a row")
    person.look("try")
    row = dict(person.value(VALUES))
    person.click("What does the model say?")
    scored = aimt.predict(run, pd.DataFrame([row]), quiet=True).iloc[0]
    assert f"{100 * scored['probability']:.1f} %" in person.text() and f"credit_risk: {scored['decision']}" in person.text()
    assert person.value("document.querySelectorAll('.bars rect').length") >= 10
    person.look("answer")
    person.fill("row", "3")
    person.click("Fill it in")
    assert dict(person.value(VALUES)) == {k: str(v) for k, v in load_dataset("german-credit").frame.iloc[3].items() if k != "credit_risk"}
    age = person.value("[...document.querySelectorAll('label')].find(e => e.textContent === 'age').htmlFor")
    person.fill(age, "old")
    person.click("What does the model say?")
    assert person.value("document.querySelector('[aria-invalid]').name") == age and "1 field does not fit" in person.text()
    person.look("fault")
    person.fill(age, "150")
    person.click("What does the model say?")
    assert "outside the training range" in person.text()

    # a second file
    person.click("Predict a file")
    person.look("predict")
    new = load_dataset("german-credit").frame.head(50).drop(columns="credit_risk")
    new.to_csv(tmp_path / "new rows.csv", index=False)
    person.choose_file(tmp_path / "new rows.csv")
    person.click("Predict")
    assert "50 rows were scored" in person.text()
    person.look("predicted")
    address = urlsplit(person.value("document.querySelector('a[download]').href")).path
    got = pd.read_csv(server.folder / "predictions" / address.rpartition("/")[2])
    assert server.ask("GET", address)[2] == (server.folder / "predictions" / address.rpartition("/")[2]).read_text()
    assert np.allclose(got["probability"], aimt.predict(run, tmp_path / "new rows.csv", quiet=True)["probability"])

    # the service
    person.click("Serve")
    person.click("Start the service")
    assert "The model answers at" in person.text()
    person.look("serve")
    port = urlsplit(person.value("[...document.querySelectorAll('main a')].find(e => e.href.endsWith('/docs')).href")).port
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    asked = {k: v if isinstance(v, str) else float(v) for k, v in new.iloc[0].items()}
    connection.request("POST", "/predict", json.dumps(asked), {"content-type": "application/json"})
    answer = json.loads(connection.getresponse().read())
    connection.close()
    assert answer["predictions"][0]["probability"] == pytest.approx(got["probability"].iloc[0], abs=1e-6)
    person.click("Stop the service")
    assert "The service has stopped" in person.text()

    # its monitor, and another run to compare it with
    (run.path / "monitor.jsonl").write_text('{"at": "2026-01-01", "rows": 100, "alarm": "<b>none</b>"}\n')
    person.open("/runs/loans/monitor")
    assert "<b>none</b>" in person.text()
    person.look("monitor")
    aimt.train(out=server.folder / "loans-2", time_limit=1, quiet=True, cost="fn=7,fp=1")
    person.open("/")
    person.look("runs")
    person.value("[...document.querySelectorAll('[name=run]')].forEach(e => { e.checked = true; })")
    person.click("Compare the ticked runs")
    assert "95 % intervals" in person.text() and "loans-2" in person.text()
    person.look("compare")
    assert person.looked == 13


@needs_browser
@pytest.mark.slow
def test_a_dropped_table_with_hostile_names_is_trained_and_stopped(person, server, tmp_path):
    (tmp_path / "hostile.csv").write_bytes(hostile_table())
    person.open("/")
    person.choose_file(tmp_path / "hostile.csv")
    person.click("Look at it")
    assert HOSTILE[0] in person.text() or HOSTILE[0] in person.value("document.querySelector('[name=target]').textContent")
    assert person.value("document.title").startswith("hostile") and person.value("document.querySelectorAll('main img').length") == 0
    person.look("hostile")
    person.fill("time_limit", "120")
    person.fill("name", "stopped")
    person.click("Train")
    person.wait("document.querySelector('.now')?.innerText.startsWith('Train')")
    pid = json.loads((server.folder / "stopped" / "run.json").read_text())["process"]["pid"]
    person.click("Stop the training")
    person.wait("document.querySelector('main').innerText.includes('The training was stopped')")
    person.look("stopped")
    assert aimt.Run.open(server.folder / "stopped", unfinished=True).info["reason"] == "stopped by the user"
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    person.open("/")
    assert "failed" in person.text()


@pytest.mark.skipif(os.name != "posix", reason="process groups are of POSIX")
def test_what_the_studio_started_ends_with_it(tmp_path):
    server = Server(tmp_path)
    body = urlencode({"csrf": server.token(), "name": "long", "time_limit": "300", "target": "credit_risk"})
    assert server.ask("POST", "/tables/german-credit/train", body)[0] == 303
    info = server.wait_for(lambda: (p := server.folder / "long" / "run.json").is_file() and json.loads(p.read_text()), "it does not begin")
    assert "long" in server.ask("GET", "/")[2] and server.ask("GET", "/runs/long/progress")[0] == 200
    assert server.ask("POST", "/tables/german-credit/train", body)[0] == 409  # the name is taken
    server.stop()
    assert server.process.returncode is not None
    with pytest.raises(ProcessLookupError):
        os.kill(info["process"]["pid"], 0)
    assert aimt.Run.open(server.folder / "long", unfinished=True).status in ("failed", "interrupted")

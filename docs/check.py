"""Check the built site: `python docs/check.py [--shots DIR] [--no-browser]`.

Always: every link inside the site leads to a file and an anchor that exist, and no page loads anything from outside.
When a Chromium is found: every page is opened at desktop and phone width, in light and in dark, and must show no
console error, no failed request and no horizontal scroll; and the search must find something.
"""

import argparse
import base64
import functools
import http.server
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

SITE = Path(__file__).resolve().parent.parent / "_docs"
WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --disable-dev-shm-usage --hide-scrollbars --remote-debugging-pipe"
).split()


# --- links ----------------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """The anchors and the addresses of one page."""

    def __init__(self, text: str):
        super().__init__()
        self.ids: Counter = Counter()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.no_alt: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        a = dict(attributes)
        for name in {a.get("id"), a.get("name") if tag == "a" else None} - {None}:
            self.ids[name] += 1
        if tag == "a" and a.get("href"):
            self.links.append(a["href"])
        if tag in ("script", "img", "iframe", "source") and a.get("src"):
            self.loaded.append(a["src"])
        if tag == "link" and a.get("href") and (a.get("rel") or "").split()[:1] != ["canonical"]:
            self.loaded.append(a["href"])
        if tag == "img" and "alt" not in a:
            self.no_alt.append(a.get("src", "")[:60])


def html_pages(site: Path) -> list[Path]:
    return [p for p in sorted(site.rglob("*.html")) if "_static" not in p.parts]


def check_links(site: Path) -> list[str]:
    pages = {p: Links(p.read_text(encoding="utf-8")) for p in html_pages(site)}
    found = []
    for page, parsed in pages.items():
        name = page.relative_to(site).as_posix()
        found += [f"{name}: the id '{i}' occurs {n} times" for i, n in parsed.ids.items() if n > 1]
        found += [f"{name}: the picture '{src}' has no alternative text" for src in parsed.no_alt]
        for address in parsed.links + parsed.loaded:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in parsed.loaded and parts.scheme != "data":
                    found.append(f"{name}: loads {address}")
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                found.append(f"{name}: there is no file '{address}'")
            elif parts.fragment and target in pages and unquote(parts.fragment) not in pages[target].ids:
                found.append(f"{name}: there is no anchor '{address}'")
    return sorted(set(found))


# --- a browser, over its debugging pipe (Chrome DevTools Protocol): nothing to install ---------------------------------


class Browser:
    def __init__(self, program: str, folder: str):
        import fcntl

        ends = [fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (*os.pipe(), *os.pipe())]
        child_in, self.send_fd, self.read_fd, child_out = ends

        def to_3_and_4():
            os.dup2(child_in, 3)
            os.dup2(child_out, 4)

        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={folder}", "about:blank"],
            preexec_fn=to_3_and_4,
            pass_fds=(3, 4),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(child_in)
        os.close(child_out)
        self.messages: queue.Queue = queue.Queue()
        self.events: list[dict] = []
        self.number = 0
        threading.Thread(target=self._listen, daemon=True).start()
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = None
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    session = None

    def _listen(self) -> None:
        rest = b""
        while data := os.read(self.read_fd, 1 << 20):
            *whole, rest = (rest + data).split(b"\0")
            for message in whole:
                self.messages.put(json.loads(message))

    def _next(self, timeout: float) -> dict:
        message = self.messages.get(timeout=timeout)
        if "method" in message:
            self.events.append(message)
        return message

    def call(self, method: str, **params) -> dict:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.send_fd, data) :]
        while True:
            answer = self._next(60)
            if answer.get("id") == self.number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def open(self, url: str) -> None:
        self.events.clear()
        self.call("Page.navigate", url=url)
        end = time.monotonic() + 60
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self._next(max(0.1, end - time.monotonic()))

    def value(self, expression: str):
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        return answer["result"].get("value")

    def look(self, width: int, height: int, dark: bool, mobile: bool) -> None:
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=scheme)
        self.value("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")

    def errors(self) -> list[str]:
        """What went wrong on this page: exceptions, console errors, failed requests."""
        found = []
        for e in self.events:
            p = e["params"]
            if e["method"] == "Runtime.exceptionThrown":
                details = p["exceptionDetails"]
                found.append(details.get("exception", {}).get("description") or details["text"])
            elif e["method"] == "Runtime.consoleAPICalled" and p["type"] in ("error", "assert"):
                found.append(" ".join(str(a.get("value", a.get("description", ""))) for a in p["args"]))
            elif e["method"] == "Log.entryAdded" and p["entry"]["level"] == "error":
                found.append(f"{p['entry']['text']} {p['entry'].get('url', '')}")
            elif e["method"] == "Network.loadingFailed" and not p.get("canceled"):
                found.append(f"a request failed: {p['errorText']}")
        return found

    def screenshot(self, file: Path) -> None:
        data = self.call("Page.captureScreenshot", format="png")["data"]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(base64.b64decode(data))

    def close(self) -> None:
        try:
            self.session = None
            self.call("Browser.close")
            self.process.wait(10)
        except Exception:
            self.process.kill()
            self.process.wait()


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


OVERFLOW = """(() => {
  const width = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth <= width) return "";
  for (const e of document.querySelectorAll("main *")) {
    const box = e.getBoundingClientRect();
    if (box.right > width + 1 && box.width && !e.closest("pre, .cell_output, .math, table")) found.push(
      e.tagName.toLowerCase() + (e.className && e.className.baseVal === undefined ? "." + e.className : ""));
  }
  return `${document.documentElement.scrollWidth} px: ` + found.slice(0, 3).join(", ");
})()"""

SEARCH = """new Promise(done => {
  let tries = 0;
  const look = () => {
    const n = document.querySelectorAll("#search-results ul.search li").length;
    if (n || ++tries > 100) done(n); else setTimeout(look, 100);
  };
  look();
})"""


def check_pages(site: Path, program: str, shots: Path | None, only: str) -> list[str]:
    handler = functools.partial(Quiet, directory=str(site))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    root, found = f"http://127.0.0.1:{server.server_port}/", []
    pages = [p.relative_to(site).as_posix() for p in html_pages(site)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        browser = Browser(program, folder)
        try:
            for page in (p for p in pages if only in p):
                browser.open(root + page)
                for name, (width, height) in WIDTHS.items():
                    for dark in (False, True):
                        browser.look(width, height, dark, name == "phone")
                        where = f"{page} ({name}, {'dark' if dark else 'light'})"
                        if browser.value("document.documentElement.dataset.theme") != ("dark" if dark else "light"):
                            found.append(f"{where}: does not follow the system's colours")
                        if wide := browser.value(OVERFLOW):
                            found.append(f"{where}: scrolls sideways, {wide}")
                        if shots:  # as much of the page as a person can take in
                            tall = browser.value("document.documentElement.scrollHeight")
                            browser.look(width, max(height, min(tall, 2600)), dark, name == "phone")
                            time.sleep(0.3)  # colours fade over
                            shot = f"{page.removesuffix('.html').replace('/', '-')}-{name}-{'dark' if dark else 'light'}"
                            browser.screenshot(shots / f"{shot}.png")
                found += [f"{page}: {error}" for error in browser.errors()]
            browser.open(root + "search.html?q=model")
            if not browser.value(SEARCH):
                found.append("search.html: finds nothing for 'model'")
            found += [f"search.html: {error}" for error in browser.errors()]
        finally:
            browser.close()
            server.shutdown()
    return sorted(set(found))


def main() -> int:
    parser = argparse.ArgumentParser(description="Check the built site")
    parser.add_argument("--shots", type=Path, help="save screenshots in this folder")
    parser.add_argument("--only", default="", help="open only the pages whose address has this in it")
    parser.add_argument("--no-browser", action="store_true", help="check the links only")
    args = parser.parse_args()
    if not (SITE / "index.html").exists():
        print("there is no site: run `python docs/build.py` first", file=sys.stderr)
        return 1
    found = check_links(SITE)
    told = f"{len(html_pages(SITE))} pages: links"
    program = os.environ.get("CHROME") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if program and not args.no_browser and os.name == "posix":
        found += check_pages(SITE, program, args.shots, args.only)
        told += ", console, width and search in Chromium"
    for problem in found:
        print(problem, file=sys.stderr)
    print(f"{told}: {len(found)} problem{'s' * (len(found) != 1)}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())

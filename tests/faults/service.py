"""Requests to a service, and a service under load: the application itself is asked, guard included, without a socket."""

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from faults import inputs as bad
from faults.case import Group, Place

requests, load = Group("requests"), Group("load")
SECRET = "a-token-of-more-than-16-letters"


class Reply(NamedTuple):
    """What a client gets."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def value(self) -> Any:
        return json.loads(self.body)

    @property
    def plain(self) -> bool:
        """Short JSON without a stack trace, and for an error what is wrong."""
        return len(self.body) < 20_000 and b"Traceback" not in self.body and (self.status < 400 or bool(self.value["error"]))


def row(**changes: Any) -> dict[str, Any]:
    return json.loads(bad.customers().drop(columns="left").iloc[0].to_json()) | changes


def text(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


def application(place: Place, **options: Any) -> Any:
    """The application that `aimt serve` starts, for the run on customers."""
    from aimt.jobs.operate.serve import ServeOptions, load_traffic, make_app

    chosen = ServeOptions(runs=(str(place.shared.run.path),), **{"rate": 0.0, **options})
    return make_app(chosen, load_traffic(chosen))


async def ask(
    app: Any,
    body: bytes | Iterable[bytes] = b"",
    *,
    path: str = "/predict",
    query: str = "",
    headers: dict[str, str] | None = None,
    method: str = "POST",
) -> Reply:
    """One request; a body in pieces has no end when the last piece is None."""
    pieces = [body] if isinstance(body, bytes) else list(body)
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        piece = pieces.pop(0) if pieces else None
        if piece is None:
            await asyncio.sleep(60)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    fields = [(name.lower().encode(), value.encode("latin-1")) for name, value in (headers or {}).items()]
    scope = {"type": "http", "method": method, "path": path, "query_string": query.encode(), "headers": fields, "client": ("10.0.0.9", 1)}
    await app(scope, receive, send)
    content = b"".join(m.get("body", b"") for m in sent[1:])
    return Reply(sent[0]["status"], {k.decode(): v.decode("latin-1") for k, v in sent[0]["headers"]}, content)


def one(body: Any, *, options: dict[str, Any] | None = None, **more: Any) -> Callable[[Place], Callable[[], Reply]]:
    """A request to a fresh application, and the usual one after it, which must be answered."""

    def make(place: Place) -> Callable[[], Reply]:
        async def both() -> Reply:
            app = application(place, **(options or {}))
            app.body_seconds = 0.05
            found = await ask(app, body if isinstance(body, list) else text(body), **more)
            if not app.tokens:
                assert (await ask(app, text(row()))).status == 200, "the service is broken"
            return found

        return lambda: asyncio.run(both())

    return make


def several(act: Callable[[Any, Place], Awaitable[Any]], **options: Any) -> Callable[[Place], Callable[[], Any]]:
    return lambda place: (
        lambda: asyncio.run(act(application(place, **{k: v(place) if callable(v) else v for k, v in options.items()}), place))
    )


for fault, body, status, required in (
    ("malformed JSON", b'{"age": 3,', 400, "The place in the body is named."),
    ("an empty body", b"", 400, "The place in the body is named."),
    ("invalid UTF-8", b'{"plan": "\xff"}', 400, "The place in the body is named."),
    ("NaN for a number", b'{"age": NaN}', 422, "It says to send null."),
    ("Infinity for a number", b'{"age": -Infinity}', 422, "It says to send null."),
    ("1e999 for a number", text(row()).replace(b'"age":', b'"age":1e999,"x":'), (400, 422), "Refused, never scored."),
    ("5,000 digits for a number", text(row()).replace(b'"age":', b'"age":' + b"9" * 5000 + b',"x":'), (400, 422), "Refused, never scored."),
    ("nested 200,000 deep", b"[" * 200_000 + b"]" * 200_000, 400, "Refused by the parser."),
    ("a wrong key", {"agee": 3}, 422, "The fields are listed."),
    ("null for the rows", b"null", 422, "It says what to send."),
    ("text for a number", row(age="old"), 422, "The field is named, with what was expected."),
    ("a number as text with a decimal comma", row(charges="12,5"), 422, "The field is named, with what was expected."),
    ("a list in a cell", row(plan=["pro"]), 422, "The field is named, with what was expected."),
    ("100,001 rows", {"rows": [{}] * 100_001}, 413, "The limit is named."),
):
    requests.answered(fault, required, one(body), status)
requests.answered("20 MB", "The limit is named.", one(b" " * 20_000_000), 413)
requests.answered("20 MB in pieces, of unknown length", "Refused when the limit is reached.", one([b" " * 1_000_000] * 20), 413)
requests.answered("a stated length of 2 GB", "Refused before a byte is read.", one([None], headers={"content-length": "2000000000"}), 413)
requests.answered("a stated length that is no number", "Refused before a byte is read.", one([None], headers={"content-length": "-1"}), 413)
requests.answered("a body that never ends", "Refused when its time is over.", one([b"{", None]), 408)
requests.answered(
    "a gzip bomb", "It is never unpacked.", one(gzip.compress(b" " * 50_000_000), headers={"content-encoding": "gzip"}), (400, 415)
)
requests.answered(
    "JSON that is said to be CSV", "It says that columns are missing.", one(row(), headers={"content-type": "text/csv"}), (400, 422)
)
requests.answered("damaged Parquet", "Refused.", one(b"PAR1 no", headers={"content-type": "application/vnd.apache.parquet"}), (400, 422))
requests.answered("a path in the name of the model", "There is no such model.", one(row(), query="model=../../etc/passwd"), (404, 422))
requests.answered("no such page", "The pages are listed.", one(row(), path="/../run.json"), 404)
requests.answered(
    "line breaks in a header",
    "Answered; no header of the reply contains it.",
    one(row(), headers={"x-client-key": "a\r\nSet-Cookie: x=1"}),
    200,
    holds=lambda reply: "x=1" not in str(reply.headers),
)
requests.answered("an unknown category", "Answered, with a warning.", one(row(plan="never seen")), 200, holds=lambda r: r.value["warnings"])
requests.answered(
    "a key twice",
    "The last value counts.",
    one(text(row(plan="pro")).replace(b'"plan":', b'"plan":"basic","plan":')),
    200,
    holds=lambda reply: len(reply.value["predictions"]) == 1,
)


def token_file(place: Place) -> str:
    (place.path / "tokens").write_text(SECRET + "\n")
    return str(place.path / "tokens")


def with_token(value: str | None) -> Callable[[Place], Callable[[], Reply]]:
    async def act(app: Any, place: Place) -> Reply:
        headers = {} if value is None else {"authorization": f"Bearer {value}"}
        assert (await ask(app, text(row()), headers={"authorization": f"Bearer {SECRET}"})).status == 200
        return await ask(app, text(row()), headers=headers)

    return several(act, token_file=token_file)


for fault, value in {"no token": None, "a wrong token": "x" * 32, "a token of a megabyte": "x" * 1_000_000, "an empty token": ""}.items():
    requests.answered(
        fault, "Refused, with the header to send.", with_token(value), 401, holds=lambda r: r.headers["www-authenticate"] == "Bearer"
    )


async def burst(app: Any, place: Place) -> Any:
    return [await ask(app, text(row())) for _ in range(60)]


async def crowd(app: Any, place: Place) -> Any:
    app.max_concurrent = 10
    return await asyncio.gather(*(ask(app, [text(row()), b""]) for _ in range(50)))


async def thousand(app: Any, place: Place) -> Any:
    return await asyncio.gather(*(ask(app, text(row())) for _ in range(1_000)))


async def explained(app: Any, place: Place) -> Any:
    from aimt.deploy.serve.answer_log import read_log

    paths = ["/explain" if i % 4 == 0 else "/predict" for i in range(60)]
    found = await asyncio.gather(*(ask(app, text(row()), path=path) for path in paths))
    await asyncio.to_thread(app.app.log.close)
    return list(zip(paths, found, strict=True)), len(read_log(place.path / "log.db"))


async def full(app: Any, place: Place) -> Any:
    for route in app.app.traffic.routes.values():
        route.champion.batcher.max_waiting = 0
        route.champion.batcher.inline = -1.0
    return await ask(app, text(row()))


async def swapped(app: Any, place: Place) -> Any:
    from aimt.jobs.operate.served_run import served_version

    traffic = app.app.traffic
    new = served_version(place.shared.run)
    asked = [asyncio.ensure_future(ask(app, text(row()))) for _ in range(20)]
    await asyncio.sleep(0)
    traffic.swap(next(iter(traffic.routes)), new)
    return await asyncio.gather(*asked, *(ask(app, text(row())) for _ in range(20)))


async def uncounted(app: Any, place: Place) -> Any:
    def fails(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    place.patch.setattr(app.app.metrics, "_child", fails)
    place.patch.setattr(app.app.metrics._client, "generate_latest", fails)
    return [await ask(app, text(row())), await ask(app, path="/metrics", method="GET"), await ask(app, text(row()))]


async def unwritten(app: Any, place: Place) -> Any:
    engine = app.app.log._engine
    with engine.begin() as connection:
        for table in ("answers", "outcomes"):
            connection.exec_driver_sql(f"DROP TABLE IF EXISTS {table}")
    replies = [await ask(app, text(row())) for _ in range(3)]
    outcome = {"answer": replies[0].value["id"], "row": 0, "outcome": "yes"}
    return [*replies, await ask(app, text(outcome), path="/feedback")]


load.recovered(
    "60 requests of a client that may send one in 100 seconds",
    "ask a service",
    "The first ten are answered, the others get 429 with the time to wait.",
    several(burst, rate=0.01),
    lambda found, p: (
        [r.status for r in found][:10] == [200] * 10 and all(r.status == 429 and int(r.headers["retry-after"]) for r in found[12:])
    ),
)
load.recovered(
    "more requests at once than are worked on",
    "ask a service",
    "As many as there is room for are answered, the others get 503 with the time to wait.",
    several(crowd),
    lambda found, p: (
        {r.status for r in found} == {200, 503} and all(r.plain and "retry-after" in r.headers for r in found if r.status == 503)
    ),
)
load.recovered(
    "1,000 requests at once",
    "ask a service",
    "Each is answered, or gets 503 with the time to wait.",
    several(thousand),
    lambda found, p: (
        sum(r.status == 200 for r in found) >= 500
        and all(r.status == 200 or (r.status == 503 and "retry-after" in r.headers) for r in found)
    ),
)
load.recovered(
    "explanations and writes of the log among predictions",
    "ask a service",
    "All are answered with reasons or a prediction, and every prediction is in the log.",
    several(explained, log=lambda place: str(Path(place.path) / "log.db")),
    lambda found, p: (
        all(reply.status == 200 and reply.value["predictions" if path == "/predict" else "reasons"] for path, reply in found[0])
        and found[1] == sum(path == "/predict" for path, _ in found[0])
    ),
)
load.recovered(
    "a full queue",
    "ask a service",
    "503 with the time to wait.",
    several(full),
    lambda reply, p: reply.status == 503 and reply.plain and "retry-after" in reply.headers,
)
load.recovered(
    "a model that is replaced while requests wait",
    "ask a service",
    "Each is answered by one of the two.",
    several(swapped),
    lambda found, p: all(r.status == 200 and r.value["predictions"] for r in found),
)
load.recovered(
    "metrics that can neither be kept nor read",
    "ask a service",
    "Predictions are answered; the page of the metrics says that it is down, with 503.",
    several(uncounted),
    lambda found, p: [r.status for r in found] == [200, 503, 200] and found[1].plain and "retry-after" in found[1].headers,
)
load.recovered(
    "a log that cannot be written",
    "ask a service",
    "Predictions are answered; an outcome is refused, so that it is sent again.",
    several(unwritten, log=lambda place: str(Path(place.path) / "log.db")),
    lambda found, p: [r.status for r in found] == [200, 200, 200, 503] and found[-1].plain,
)

"""A service of one run in this process, asked with whole files."""

import asyncio
import json
from typing import Any

from aimt.deploy.serve.service import Service
from aimt.deploy.serve.traffic import Route, Traffic
from aimt.jobs.operate.served_run import served_version


def service_of(run: Any) -> Service:
    """The service."""
    version = served_version(run)
    return Service(Traffic({version.name: Route(version)}))


def post_file(service: Service, body: bytes, kind: str, path: str = "/predict", method: str = "POST") -> tuple[int, Any]:
    """Status and body of the reply to a file."""
    sent: list[dict[str, Any]] = []

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    headers = [(b"content-type", kind.encode())]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers, "body": body}
    asyncio.run(service(scope, receive, send))
    return sent[0]["status"], json.loads(b"".join(m.get("body", b"") for m in sent))

"""The service fuzzed from its own OpenAPI description: whatever is sent, no answer is a fault of ours."""

import os

import pytest
from test_serve import Service, shop  # noqa: F401  the fixture
from test_serve_text import runs  # noqa: F401  the fixture

schemathesis = pytest.importorskip("schemathesis", reason="it is in the extra 'dev'")
hypothesis = pytest.importorskip("hypothesis")

EXAMPLES = int(os.environ.get("AIMT_FUZZ", "12"))  # For each operation; more in a longer run


def fuzz(service: Service, examples: int = EXAMPLES) -> dict[int, int]:
    """Replies of each status to what fits the description and to what breaks it; none may be a fault of ours."""
    schema = schemathesis.openapi.from_url(f"http://127.0.0.1:{service.port}/openapi.json")
    seen: dict[int, int] = {}
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in schemathesis.GenerationMode:
            strategy = operation.as_strategy(generation_mode=mode)

            @hypothesis.settings(
                max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=list(hypothesis.HealthCheck)
            )
            @hypothesis.given(case=strategy)
            def send(case):
                reply = case.call()
                seen[reply.status_code] = seen.get(reply.status_code, 0) + 1
                assert reply.status_code < 500, (case.as_curl_command(), reply.text)
                if reply.status_code >= 400 and reply.headers.get("content-type") == "application/json":
                    assert reply.json()["error"]

            try:
                send()
            except hypothesis.errors.Unsatisfiable:
                continue
    return seen


def test_nothing_that_fits_or_breaks_the_description_makes_the_service_fail(shop, tmp_path):  # noqa: F811
    with Service(shop / "runs/shop", "--rate", "0", "--log", tmp_path / "log.db") as service:
        seen = fuzz(service)
        assert sum(seen.values()) > 50 and seen.get(200, 0) > 5 and seen.get(422, 0) > 5, seen
        assert "Traceback" not in service.stop()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["story", "sales", "answers", "kinds", "reviews"])
def test_texts_forecasts_and_networks_do_not_fail_either(runs, name, tmp_path):  # noqa: F811
    with Service(runs[name].path, "--rate", "0", "--log", tmp_path / "log.db") as service:
        seen = fuzz(service, examples=EXAMPLES // 2)
        assert sum(seen.values()) > 20 and seen.get(200, 0) > 2 and seen.get(422, 0) > 2, (name, seen)
        assert "Traceback" not in service.stop()

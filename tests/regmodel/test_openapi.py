"""Whatever is sent to any endpoint: no 500, no traceback in a body, and what is answered is what the schema says."""

from datetime import date
from pathlib import Path

import pytest
import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import content_type_conformance, response_schema_conformance

from regmodel.app import create_app
from regmodel.settings import Settings
from tests.regmodel.conftest import a_service

OPERATIONS = [
    ("POST", "/predict"),
    ("POST", "/train"),
    ("POST", "/evaluate"),
    ("POST", "/promote"),
    ("GET", "/models"),
    ("GET", "/counts"),
    ("GET", "/health"),
]
EXAMPLES = 2 * settings.default.max_examples
"""Requests an endpoint, of valid and of broken input each."""


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    # As little to train on as there can be: the baseline ends with the counts.
    service = a_service(tmp_path_factory.mktemp("fuzz"), data_start=date(2025, 4, 7))
    service.ensure_champion()
    return create_app(Settings(), service=service)


def test_every_endpoint_is_tried(app: FastAPI):
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    found = {(operation.ok().method.upper(), operation.ok().path) for operation in schema.get_all_operations()}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize(
    ("method", "path", "mode"),
    [
        pytest.param(*operation, mode, id=f"{operation[1]}-{mode.value}")
        for operation in OPERATIONS
        for mode in GenerationMode
        # Those two take no input that could be broken.
        if mode is GenerationMode.POSITIVE or operation[1] not in ("/models", "/health")
    ],
)
def test_no_input_breaks_the_api(app: FastAPI, method: str, path: str, mode: GenerationMode):
    schema = schemathesis.openapi.from_asgi("/openapi.json", app)
    statuses = set()

    @settings(
        # Each valid one trains a model.
        max_examples=EXAMPLES // 10 if (path, mode) == ("/train", GenerationMode.POSITIVE) else EXAMPLES,
        derandomize=True,
        deadline=None,
        database=None,
        phases=[Phase.explicit, Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=schema[path][method].as_strategy(generation_mode=mode))
    def sent(case: Case) -> None:
        response = case.call(timeout=120)
        statuses.add(response.status_code)
        case.validate_response(
            response, checks=[not_a_server_error, content_type_conformance, response_schema_conformance]
        )
        assert "Traceback" not in response.text
        assert str(Path(__file__).resolve().parents[2]) not in response.text

    sent()
    assert statuses - {404, 405}, "something has reached the endpoint"
    assert not any(status >= 500 for status in statuses)

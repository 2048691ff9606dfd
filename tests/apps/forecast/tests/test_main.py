import pytest
from main import create_app


@pytest.fixture
def client():
    return create_app({"TESTING": True}).test_client()


def test_a_week(client):
    answer = client.get("/api/v1/forecast?from=2026-01-05&last_week=120")
    assert len(answer.json) == 7


def test_wrong(client):
    assert client.get("/api/v1/forecast").status_code == 400

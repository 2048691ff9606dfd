import service


def test_version():
    assert service.web.test_client().get("/version").data == b"7.2.0"


def test_score():
    answer = service.web.test_client().post("/score", json={"income": 50000, "defaults": 1})
    assert answer.get_json()["score"] == 510

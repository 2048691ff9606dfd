from src.app import app


def test_index():
    assert app.test_client().get("/").status_code == 200


def test_a_price():
    house = {"area": 100, "rooms": 4, "year": 1990, "district": "harbour"}
    response = app.test_client().post("/predict", json=house)
    assert response.status_code == 200
    assert len(response.get_json()["prices"]) == 1

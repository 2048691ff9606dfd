def test_books(client):
    assert b"Dune" in client.get("/books").data


def test_recommend(client):
    answer = client.post("/recommend/", json={"book": "emma"})
    assert answer.json == {"titles": ["Ulysses", "Dune"]}

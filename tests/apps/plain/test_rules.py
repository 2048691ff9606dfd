from rules import sentiment


def test_good():
    assert sentiment("I love it") == "positive"


def test_bad():
    assert sentiment("an awful day") == "negative"

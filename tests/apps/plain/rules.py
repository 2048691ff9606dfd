GOOD = {"good", "great", "love"}
BAD = {"bad", "awful", "hate"}


def sentiment(text):
    words = set(text.lower().split())
    return "positive" if len(words & GOOD) >= len(words & BAD) else "negative"

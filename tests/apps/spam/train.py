"""Train the filter and publish it."""

import random

from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline

import tandem

random.seed(0)
SPAM = "win free prize cash now click offer winner urgent claim bonus".split()
HAM = "lunch meeting tomorrow project report thanks family dinner train book garden".split()
texts, labels = [], []
for number in range(300):
    words, label = (SPAM, "spam") if number % 2 else (HAM, "ham")
    texts.append(" ".join(random.choices(words, k=8) + random.choices(SPAM + HAM, k=2)))
    labels.append(label)

model = make_pipeline(TfidfVectorizer(), LogisticRegression())
model.fit(texts[:200], labels[:200])
tandem.publish(model, name="spam", sample=texts[:20], held_out=(texts[200:], labels[200:]))

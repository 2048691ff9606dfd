"""The example's app: a page to draw a digit on, and the model that reads it."""

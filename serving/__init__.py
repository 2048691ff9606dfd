"""The example's app: a page to draw a digit on, and the released model that reads it."""

"""The way of a release: what is needed, the steps, and what is recorded of them."""

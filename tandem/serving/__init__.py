"""The service that goes into the image: one model package, answering people and programs."""

"""A repository of a registry that speaks the OCI distribution protocol over HTTP."""

"""The REST API: HTTP in, services called, HTTP out. No rules of its own and no SQL."""

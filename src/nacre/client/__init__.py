"""Typed Python client of the REST API. Used by the command line and by programs; knows nothing of the server's insides.

Start at `nacre.client.api.Nacre` (async) or `nacre.client.sync.SyncNacre`.
"""

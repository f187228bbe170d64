"""What the control plane and its agents say to each other. Msgpack-encoded tagged unions; no I/O here."""

"""What the REST API takes and gives: envelopes around model specs. Shared by `control/api` and `client`. No I/O."""

"""The rules, one file per noun. Called by api and gateway inside a transaction that the caller opened."""

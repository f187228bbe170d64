"""The command line: one file per noun. Talks to a control plane through `nacre.client` and nothing else."""

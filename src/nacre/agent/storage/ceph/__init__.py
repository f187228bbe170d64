"""Volumes as images of a Ceph cluster: the pool driver called `ceph`."""

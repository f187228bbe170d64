"""Cloud Hypervisor, one process per machine, driven over its REST API."""

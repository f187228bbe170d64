"""Many nodes in one process: real keys, certificates and links, and machines that are not there. For tests of scale."""

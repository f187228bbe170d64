"""Who is asking, and may they. Cedar decides; tokens and the certificate authority live here too."""

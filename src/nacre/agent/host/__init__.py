"""This host: what it is and has, what is wrong with it, and what it offers to machines."""

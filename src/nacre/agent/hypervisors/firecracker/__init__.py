"""The driver of Firecracker."""

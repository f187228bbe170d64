"""SQL, and only here. One file per noun: its table and its queries."""

"""The words of Nacre: specs, states, transition tables and pure rules. No I/O, no clock, no randomness."""

"""States and policies without I/O: no trio, socket, clock, randomness or logging."""

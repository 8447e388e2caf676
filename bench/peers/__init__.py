"""ffsuper side by side with other job workers, on real servers and real processes: ``python -m bench.peers``."""

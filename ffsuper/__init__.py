"""ffsuper: Python work that must not get lost."""

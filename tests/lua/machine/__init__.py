"""Random lives of executions: what can happen to them, one file a subject, and what must then be true."""

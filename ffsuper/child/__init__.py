"""Child processes: the supervisor's side (``process``), the fork server, and what runs inside a child."""

"""The main job: a survey of the standard library, run through real executions. ``python -m ffsuper.demo``."""

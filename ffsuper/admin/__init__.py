"""The client of a server: executions, and what operators do, over HTTP."""

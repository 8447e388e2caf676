"""Ids and frozen values that travel on channels."""

from __future__ import annotations

from typing import NewType

ExecutionId = NewType("ExecutionId", str)
LaneId = NewType("LaneId", str)

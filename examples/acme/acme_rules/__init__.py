"""House rules: one module per rule, found by their names. What was dropped says what to use instead."""

from __future__ import annotations

REMOVED = {"AC100": "GL101 exploding-path reports the same"}

"""Two processes: the client knows neither torch nor the user's code, a worker runs both, one process for each target.

    client ─── server (imported torch, never computed) ─┬─ fork ── worker: model.py       ── lines of JSON ──► client
    (lint)     in the project's interpreter             ├─ fork ── worker: other.py       ── lines of JSON ──► client
                                                        └─ …

    protocol     what is said between them              pool         starts the server and the workers, watches, collects
    client       a run: what to ask, what to conclude   server       forks a worker for each job
    faults       how a worker ended without a result    child        one job in a process of its own
    environment  which variables a worker sees          sandbox      what the kernel refuses it (Linux)

The left column has no torch; of the right one only ``child`` and what ``server`` imports for it.
"""

__all__: list[str] = []  # its modules are asked for by name

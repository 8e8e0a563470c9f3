"""Checks of the installation: each part is tried, and the result says what was tried.

``checks`` runs and reports them; ``probes`` are the functions that use a part as commands do, each
in a process of its own: a library that crashes or hangs is a result too.
"""

from lookalike.diagnostics.checks import Check, run_checks

__all__ = ["Check", "run_checks"]

"""Checks of the installation, each part tried, and of the files of a gallery.

``gallery`` reads every file of a gallery. ``checks`` runs and reports those of the installation;
``probes`` are the functions that use a part as commands do, each in a process of its own: a library
that crashes or hangs is a result too.
"""

from lookalike.diagnostics.checks import Check, run_checks
from lookalike.diagnostics.gallery import check_gallery

__all__ = ["Check", "check_gallery", "run_checks"]

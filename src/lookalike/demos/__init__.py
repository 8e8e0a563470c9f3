"""The demos behind ``lookalike demo``: ``digits``, ``photos`` and ``products``."""

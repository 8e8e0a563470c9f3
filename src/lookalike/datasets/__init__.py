"""Named data sets and their downloads.

``registry`` names every data set and opens it; ``download`` fetches and verifies files; ``base`` is
what a data set consists of. ``idx``, ``mnist_pickle``, ``emoji`` and ``stamps`` each read or draw
one kind. Data sets serve demos and benchmarks; a user's own images come from
:mod:`lookalike.sources`.
"""

"""Fuzzing of every parser of strangers' bytes.

    python -m tests.fuzz --list
    python -m tests.fuzz [TARGET ...] [--seconds N | --count N] [--seed N]

An exception that is not one of the documented ones, an input that takes too long, and the end of
the process are crashes. Their inputs are written to ``tests/fuzz/cases/TARGET/``, which
``tests/unit/test_fuzz.py`` replays.
"""

"""``python -m tests.fuzz``, see :mod:`tests.fuzz.run`."""

from __future__ import annotations

import sys

from tests.fuzz.run import main

if __name__ == "__main__":  # not in the processes that it starts
    sys.exit(main())

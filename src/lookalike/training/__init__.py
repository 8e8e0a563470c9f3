"""Label-free training; the only part that needs torch."""

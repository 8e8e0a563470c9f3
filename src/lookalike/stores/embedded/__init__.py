"""The store of a gallery's folder: SQLite for rows, append-only mapped files for vectors.

``database`` is the schema and how a database is opened; ``vector_files`` are the mapped files;
``snapshot`` reads and searches the rows of one commit, ``store`` writes; ``columns`` has the
metadata by column, for filters.

A row has a slot, its place in the vector files. A slot never changes: a new embedding is a new
slot, and a removed row leaves a dead one, until compaction copies the others to files of the next
generation. So what is derived from the slots below a number can be behind, but never wrong.

A write appends vectors behind the last slot, flushes them, and then commits the rows with the new
number of slots. Bytes behind it belong to nobody, and the next write replaces them.
"""

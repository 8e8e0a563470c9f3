"""The store of a gallery's folder: SQLite for rows, append-only mapped files for vectors.

``store`` writes, ``reader`` is a read transaction, ``snapshot`` what is read and searched in one,
and ``compaction`` leaves out what was removed. ``database`` is the schema and how a database is
opened, ``connections`` are those that a store keeps, ``failures`` their errors. ``rows`` are the
rows, ``packing`` how they are packed, ``dead_slots`` where rows were; ``vector_files`` are the
mapped files. ``derived`` writes what is derived from rows in the database: full text, and
``columns``, the metadata by column (``column_*``); ``beside`` is how parts of a write run at the
same time. ``graph`` is the approximate index (``graph_*``). ``check`` and ``repair`` find damage
and leave it out.

A row has a slot, its place in the vector files. A slot never changes: a new embedding is a new
slot, and a removed row leaves a dead one, until compaction copies the others to files of the next
generation. So what is derived from the slots below a number can be behind, but never wrong.

A write appends vectors behind the last slot, flushes them, and then commits the rows with the new
number of slots. Bytes behind it belong to nobody, and the next write replaces them.
"""

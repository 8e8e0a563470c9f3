"""Measure search quality.

``evaluate`` scores a gallery against labels or ground truth, beside baselines; ``metrics`` has the
formulas, ``relevance`` and ``ground_truth`` say what counts as correct, ``protocols`` fixes known
benchmarks. ``variants`` compares ways to search, ``synthetic_queries`` makes queries from gallery
images, ``robustness`` retrieves originals from corrupted images, ``human_judgements`` scores what
people said of results. ``model_selection`` (with ``candidates`` and ``agreement``) picks an encoder
from a few labels; ``sanity_check`` looks for collapsed embeddings. ``results``, ``summary`` and
``saved`` hold, word and store what was measured.
"""

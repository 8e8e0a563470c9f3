"""Evaluation: search quality, robustness, human judgements, model selection.

* ``trial``: hits of queries and which are correct, the source of every figure; ``metrics`` has the
  formulas and intervals, ``comparison`` the verdict on an encoder and its baselines, and
  ``single_pass`` decodes images once for several encoders.
* ``evaluate``: precision@k, mAP@k and recall of a gallery, beside baselines. ``relevance`` and
  ``ground_truth`` decide which rows are relevant, ``protocols`` holds published protocols,
  ``variants`` compares search options, ``synthetic_queries`` makes queries.
* ``robustness``: do corrupted images find their originals?
* ``human_judgements``: precision and preferences from people's judgements.
* ``model_selection``: choose an encoder with a few labels (``candidates``, ``agreement``,
  ``label_sheet``).
* ``sanity_check``: a trained encoder beside the baselines.
* ``results``, ``summary``, ``saved``: the result of an evaluation, in sentences, on disk.

``lookalike.evaluate``, ``evaluate_robustness``, ``evaluate_judgements``, ``choose`` and
``sanity_check`` are the public functions.
"""

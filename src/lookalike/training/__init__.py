"""Training without labels.

``train`` trains an encoder by a recipe (``recipes``) and needs torch: ``loop`` runs the epochs,
``tasks`` combines a network (``networks``, ``towers``) with a loss (``losses``) and augmentations,
``checkpoints`` and ``interrupts`` make runs resumable, ``distributed`` spreads a batch over
processes. ``adapt`` learns a projection of a pretrained encoder's embeddings from synthetic queries
(``synthesis``); only its refinement (``contrastive_refinement``) needs torch.

Import ``train``, ``adapt`` and their options from :mod:`lookalike`; nothing is imported here, so
that recipes can be listed without torch.
"""

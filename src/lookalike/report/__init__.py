"""Reports as single HTML files, and the figures in them.

``page`` lays out a report; ``evaluation``, ``robustness``, ``human_judgements`` and ``training``
fill it; ``figures`` draws with matplotlib.
"""

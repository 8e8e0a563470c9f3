"""Transfer of files over HTTP to this machine: retried, resumed, verified, whole or not at all.

For files of data sets, networks and the hub, whose addresses the program or its user chooses.
Images whose addresses others choose are fetched by :mod:`lookalike.url_fetch`.
"""

"""A client of the public hub of models: their files, verified, from one commit, and cached.

Every file is verified by the sum that the hub states, SHA-256 or git's SHA-1. After the first
opening of a model nothing is requested again, neither for its files nor for those that it has not.
"""

from lookalike.hub.models import HubModel, open_model
from lookalike.transfer.sums import RemoteFile

__all__ = ["HubModel", "RemoteFile", "open_model"]

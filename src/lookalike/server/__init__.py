"""The web service: an HTTP API and a page for searching galleries.

:func:`lookalike.server.app.create_app` builds the ASGI application and
:func:`lookalike.server.uvicorn_server.run` serves it. ``service`` runs searches and writes for
concurrent requests, ``api``, ``items`` and ``exploring`` are the routes of the HTTP API, ``pages``
those of the page, and ``middleware`` checks every request.
"""

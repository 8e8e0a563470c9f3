"""The service: HTTP API and page over galleries. Everything here is thin; the work is below."""

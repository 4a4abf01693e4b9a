"""Measures of what callers see: jobs through the SDK's production mode or an endpoint, against other handlers."""

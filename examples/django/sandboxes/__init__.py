"""The application: a small sandbox API."""

"""Verification, identification, templates and the report on them."""

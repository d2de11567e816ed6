"""Catalogue of teachers: records, weights, experience, provenance."""

"""Command line, Ray processes, supervision, evaluation and reports. The only package that imports ray."""

"""The built-in rule pack: one module per rule, named after its code, whose class docstring is its page.

GL1xx depth and path · GL2xx initialisation · GL3xx activation and normalisation · GL4xx recurrence · GL5xx numeric range and
singularities · GL6xx training script · GL9xx limits of the analysis.
"""

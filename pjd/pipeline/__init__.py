"""The study: parameterised notebooks, runs, figures, the report."""

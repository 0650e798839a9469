"""The study: notebooks with parameters, runs, figures, the report."""

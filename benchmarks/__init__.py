"""Where the time goes: steps against seconds, on the shapes of the paper's models."""

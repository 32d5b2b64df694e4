"""Models that run in this process. What they need is an extra; `models.open_model`."""

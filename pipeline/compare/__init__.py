"""Which variant, with which settings, for my data, and how sure."""

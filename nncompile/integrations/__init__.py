"""A compiled file in tools that serve models or run batch jobs. Needs what the runtime needs, no torch."""

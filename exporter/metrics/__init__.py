"""The catalogue of metrics, and what is served of them. Pure."""

"""The HTTP face: metrics for Prometheus, health for orchestrators, a status page for people."""

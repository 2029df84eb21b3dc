"""The Grafana dashboards of deploy/grafana, as code: `python -m scripts.dashboards` writes them."""

"""The dashboards, and the files in which Grafana gets them."""

import json
from pathlib import Path

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models.dashboard import Dashboard

from scripts.dashboards import backends, overview, schedules, task

FOLDER = Path(__file__).parents[2] / "deploy" / "grafana"
FILES = {
    FOLDER / f"{module.DASHBOARD.uid}.json": module.DASHBOARD
    for module in (overview, task, backends, schedules)
}


def text(dashboard: Dashboard) -> str:
    """Return what is in the file."""
    return (
        json.dumps(dashboard, cls=JSONEncoder, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    )

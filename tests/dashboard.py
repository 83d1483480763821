"""Holds a dashboard to the types of Grafana's own SDK. usage: dashboard.py FILE

What the SDK does not know it leaves out when it reads, so what comes back shows it."""

import json
import sys

from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models.dashboard import Dashboard

# The data source of Prometheus reads these, and the SDK has none of its annotations.
OF_PROMETHEUS = {"annotations.list.0.titleFormat", "annotations.list.0.textFormat"}


def leaves(value, path=""):
    """All values in it, by their paths."""
    if isinstance(value, dict):
        pairs = value.items()
    elif isinstance(value, list):
        pairs = enumerate(value)
    else:
        return {path: value}
    return {place: leaf for key, inner in pairs for place, leaf in leaves(inner, f"{path}.{key}" if path else str(key)).items()}


def main():
    register_default_plugins()
    with open(sys.argv[1], encoding="utf-8") as file:
        written = json.load(file)
    understood = leaves(json.loads(JSONEncoder().encode(Dashboard.from_json(written))))
    lost = {path: leaf for path, leaf in leaves(written).items() if understood.get(path) != leaf}
    unknown = lost.keys() - OF_PROMETHEUS
    assert not unknown, f"Grafana does not know {sorted(unknown)}"
    assert lost.keys() == OF_PROMETHEUS, "the SDK knows more by now"


main()

"""Write the alerts: `python -m k8s.alerts.generate`, from the root of the repository.

Both files hold the same rules: `rules.yaml` for Prometheus itself, `prometheus-rule.yaml` for its operator.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from k8s.alerts.rules import ALERTS

FOLDER = Path(__file__).parent
RUNBOOKS = "docs/alerts.md"

_NOTE = "# Written by 'python -m k8s.alerts.generate'; change k8s/alerts/rules.py instead.\n"


def groups(runbooks: str = RUNBOOKS) -> dict[str, Any]:
    """Return the rules as Prometheus reads them; `runbooks` is where the page with the runbooks is."""
    rules = [
        {
            "alert": alert.name,
            "expr": alert.expr,
            "for": alert.lasts,
            "labels": {"severity": alert.severity},
            "annotations": {
                "summary": alert.summary,
                "description": alert.description,
                "runbook_url": f"{runbooks}#{alert.name.lower()}",
            },
        }
        for alert in ALERTS
    ]
    return {"groups": [{"name": "tta-server", "rules": rules}]}


def main(arguments: Sequence[str] | None = None) -> None:
    """Write both files to the folder that is given, or to their place in the repository."""
    parser = argparse.ArgumentParser(prog="k8s.alerts.generate", description="Write the alerts.")
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="where to (default: beside this file)")
    parser.add_argument("--runbooks", default=RUNBOOKS, help="address of the page with the runbooks")
    options = parser.parse_args(arguments)
    rules = groups(options.runbooks)
    resource = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tta-server", "labels": {"app.kubernetes.io/name": "tta-server"}},
        "spec": rules,
    }
    for name, content in (("rules.yaml", rules), ("prometheus-rule.yaml", resource)):
        text = yaml.safe_dump(content, sort_keys=False, width=120)
        (options.folder / name).write_text(_NOTE + text, encoding="utf-8")


if __name__ == "__main__":
    main()

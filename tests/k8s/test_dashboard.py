"""The dashboard as a file: made by its generator, laid out without overlap, and about metrics that exist."""

import itertools
import re
import subprocess
import sys

from tests.k8s.expressions import metrics_of
from tta_server.settings import Settings

# Families that no panel shows, each with the reason why not.
NOT_SHOWN: dict[str, str] = {}


def expressions(dashboard, panels):
    """Return every expression: of panels and of annotations."""
    shown = [target["expr"] for panel in panels for target in panel["targets"]]
    return [*shown, *(annotation["expr"] for annotation in dashboard["annotations"]["list"])]


def test_the_names_in_an_expression_are_found():
    expr = 'sum by (le) (rate(one_total{a="two"}[5m])) / on (three) (four > 0) or vector(0) and time() - five_bucket'

    found = metrics_of(expr)

    assert found == {"one_total", "four", "five_bucket"}


def test_the_committed_dashboard_is_what_the_generator_writes(root, tmp_path):
    path = tmp_path / "again.json"

    subprocess.run([sys.executable, "-m", "k8s.dashboards.generate", str(path)], cwd=root, check=True, timeout=60)

    committed = (root / "k8s/dashboards/tta-server.json").read_text()
    assert path.read_text() == committed, "run: python -m k8s.dashboards.generate"


def test_ids_and_titles_are_unique(dashboard):
    ids = [panel["id"] for panel in dashboard["panels"]]
    titles = [panel["title"] for panel in dashboard["panels"]]

    assert len(set(ids)) == len(ids)
    assert len(set(titles)) == len(titles)


def test_queries_of_a_panel_have_different_ids(panels):
    for panel in panels:
        ids = [target["refId"] for target in panel["targets"]]

        assert len(set(ids)) == len(ids), panel["title"]


def test_no_two_panels_overlap_and_none_leaves_the_grid(dashboard):
    taken: dict[tuple[int, int], str] = {}
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        assert at["x"] >= 0, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        for cell in itertools.product(range(at["x"], at["x"] + at["w"]), range(at["y"], at["y"] + at["h"])):
            other = taken.setdefault(cell, panel["title"])

            assert other == panel["title"]


def test_every_row_leaves_no_gap_before_the_next(dashboard):
    bottom = 0
    for panel in dashboard["panels"]:
        at = panel["gridPos"]
        if panel["type"] == "row":
            assert at["y"] == bottom, panel["title"]
        bottom = max(bottom, at["y"] + at["h"])


def test_the_rows_are_there_in_order(dashboard):
    rows = [panel["title"] for panel in dashboard["panels"] if panel["type"] == "row"]

    assert rows == ["Fleet", "Drift by stream", "Domains", "Adaptation", "Safety", "Streams and storage", "Serving"]
    assert dashboard["schemaVersion"] >= 38


def test_restores_drift_domains_and_starts_are_marked_on_every_panel(dashboard):
    marked = {each["name"]: metrics_of(each["expr"]) for each in dashboard["annotations"]["list"]}

    assert marked == {
        "Restores": {"tta_restores_total"},
        "Drift": {"tta_drift_events_total"},
        "Domains": {"tta_domain_events_total"},
        "Starts": {"process_start_time_seconds", "tta_build_info"},
    }


def test_every_query_goes_to_the_chosen_data_source(dashboard, panels):
    targets = [target for panel in panels for target in panel["targets"]]
    asking = [*panels, *targets, *dashboard["annotations"]["list"], *dashboard["templating"]["list"][1:]]

    assert {part["datasource"]["uid"] for part in asking} == {"${datasource}"}


def test_every_panel_says_what_it_means_and_has_a_unit(panels):
    for panel in panels:
        unit = panel["fieldConfig"]["defaults"].get("unit") or panel["options"].get("yAxis", {}).get("unit")

        assert len(panel["description"]) > 60, panel["title"]
        assert unit or panel["type"] == "table", panel["title"]


def test_the_variables_are_used_and_only_they(dashboard, panels):
    names = {variable["name"] for variable in dashboard["templating"]["list"]}
    used = set(re.findall(r"\$(\w+)", " ".join(expressions(dashboard, panels))))

    assert names == {"datasource", "namespace", "model", "stream"}
    assert used == {"namespace", "model", "stream", "__rate_interval", "__range"}


def test_installations_in_two_namespaces_are_never_added_up_unless_all_are_chosen(dashboard, panels):
    for expr in expressions(dashboard, panels):
        assert expr.count('namespace=~"$namespace"') == len(re.findall(r"\btta_\w+\b", expr)), expr


def test_where_targets_have_no_namespace_all_namespaces_are_those_too(dashboard):
    (every,) = [each["allValue"] for each in dashboard["templating"]["list"] if each["name"] == "namespace"]

    assert re.fullmatch(every, "")  # as Prometheus matches a label that is not there


def test_every_metric_in_an_expression_exists(dashboard, panels, families):
    existing = set().union(*families.values())

    for expr in expressions(dashboard, panels):
        assert metrics_of(expr) <= existing, expr


def test_every_family_of_ours_is_shown_or_left_out_for_a_reason(panels, families):
    shown = {name for panel in panels for target in panel["targets"] for name in metrics_of(target["expr"])}
    ours = {name for name in families if name.startswith("tta_")}
    missing = {name for name in ours if not families[name] & shown}

    assert missing == set(NOT_SHOWN)


def test_the_settings_that_descriptions_name_exist(panels):
    sections = "|".join(Settings.model_fields)
    named = {match for panel in panels for match in re.findall(rf"\b({sections})\.(\w+)", panel["description"])}

    assert ("streams", "max_streams") in named
    for section, key in named:
        assert key in type(getattr(Settings(), section)).model_fields, f"{section}.{key}"


def test_the_panels_that_descriptions_name_exist(panels):
    titles = {panel["title"] for panel in panels}
    named = {name for panel in panels for name in re.findall(r"'([A-Z][^']+)'", panel["description"])}

    assert named
    assert named <= titles

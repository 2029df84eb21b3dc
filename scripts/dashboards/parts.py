"""What the dashboards are made of: variables, queries, panels."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from string import ascii_uppercase
from typing import NamedTuple

from grafana_foundation_sdk.builders import bargauge, common, prometheus, stat, table, timeseries
from grafana_foundation_sdk.builders import dashboard as build
from grafana_foundation_sdk.models import common as options
from grafana_foundation_sdk.models import dashboard as model
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from exporter.metrics import catalogue
from exporter.metrics.catalogue import Metric

DOCS = "https://celery-results-exporter.readthedocs.io/"
TAG = "celery-results"
SOURCE = model.DataSourceRef(type_val="prometheus", uid="${datasource}")

#: Labels of a target: what of it the dashboards filter by, and what joins process metrics.
TARGET = ("cluster", "namespace", "job")
#: What each variable takes its values from, and what it says of itself.
VARIABLES = {
    "cluster": ("celery_backend_up", "As your Prometheus or its agents name it, if they do."),
    "namespace": ("celery_backend_up", "Where the exporter runs in Kubernetes."),
    "job": ("celery_backend_up", "The scrape job of the exporter."),
    "backend": ("celery_backend_up", "Result backends, by their configured names."),
    "task": ("celery_task_results_total", "Tasks with results. All includes those without a name."),
    "queue": ("celery_task_results_total", "Known only where the app sets result_extended."),
    "worker": ("celery_task_results_total", "Known only where the app sets result_extended."),
}
WITH_EXEMPLARS = (catalogue.RESULTS.name, catalogue.FAILURES.name)


class Filters:
    """The variables of a dashboard, as matchers of whatever has their labels."""

    def __init__(self, *names: str) -> None:
        self.names = (*TARGET, "backend", *names)

    def of(self, metric: Metric, state: str = "", suffix: str = "") -> str:
        """Select a metric of the exporter; of a state, or of several: "SUCCESS|FAILURE"."""
        labels = {*metric.label_names, *TARGET}
        matchers = [f'state{"=~" if "|" in state else "="}"{state}"'] if state else []
        return self._select(metric.name + suffix, labels, matchers)

    def recorded(self, name: str, *matchers: str) -> str:
        """Select what rules make of tasks."""
        return self._select(name, {*TARGET, "backend", "task"}, matchers)

    def process(self, name: str) -> str:
        """Select a metric that every process has."""
        return self._select(name, {*TARGET}, ())

    def variables(self) -> list[build.QueryVariable]:
        """Make the variables, each narrowed down by those before it."""
        made = []
        for position, name in enumerate(self.names):
            metric, description = VARIABLES[name]
            selector = metric + _braces(f'{one}=~"${one}"' for one in self.names[:position])
            query = f"label_values({selector}, {name})"
            made.append(
                build.QueryVariable(name)
                .label(name.capitalize())
                .description(description)
                .datasource(SOURCE)
                .query({"qryType": 1, "query": query, "refId": "A"})
                .refresh(model.VariableRefresh.ON_TIME_RANGE_CHANGED)
                .sort(model.VariableSort.ALPHABETICAL_ASC)
                .multi(multi=True)
                .include_all(include_all=True)
                .all_value(".*")  # .+ would lose what has no such label
                .current(model.VariableOption(selected=True, text=["All"], value=["$__all"]))
            )
        return made

    def _select(self, name: str, labels: set[str], matchers: Sequence[str]) -> str:
        filters = [f'{one}=~"${one}"' for one in self.names if one in labels]
        return name + _braces([*filters, *matchers])


def _braces(matchers: Iterable[str]) -> str:
    joined = ",".join(matchers)
    return f"{{{joined}}}" if joined else ""


class Query(NamedTuple):
    """A line of a graph, or several."""

    expression: str
    legend: str


class Column(NamedTuple):
    """A column of a table, or a row's value."""

    expression: str
    heading: str
    unit: str = "short"


class Step(NamedTuple):
    """From which value on a colour is shown; None: from the least."""

    value: float | None
    color: str


GREEN = Step(None, "green")
BLUE = Step(None, "blue")
UP_OR_DOWN = model.ValueMap(
    {
        "0": model.ValueMappingResult(text="Down", color="red"),
        "1": model.ValueMappingResult(text="Up", color="green"),
    }
)
YES_OR_NO = model.ValueMap(
    {
        "0": model.ValueMappingResult(text="no"),
        "1": model.ValueMappingResult(text="yes"),
    }
)

Panel = stat.Panel | timeseries.Panel | bargauge.Panel | table.Panel


def number(
    title: str,
    description: str,
    value: Column,
    *steps: Step,
    width: int = 4,
) -> stat.Panel:
    """Show one value, or one for each series, as of now; its heading is the name of each."""
    return (
        stat.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .with_target(_now(value.expression, "A").legend_format(value.heading))
        .unit(value.unit)
        .thresholds(_thresholds(steps or (BLUE,)))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .color_mode(options.BigValueColorMode.BACKGROUND)
        .graph_mode(options.BigValueGraphMode.NONE)
        .span(width)
        .height(4)
    )


def whether(
    title: str, description: str, value: Column, mapping: model.ValueMap, width: int
) -> stat.Panel:
    """Show in words whether something is so, in green, or is not, in red."""
    panel = number(title, description, value, Step(None, "red"), Step(1, "green"), width=width)
    return panel.mappings([mapping])


def graph(
    title: str,
    description: str,
    *queries: Query,
    unit: str = "short",
    links: Sequence[str] = (),
    width: int = 12,
) -> timeseries.Panel:
    """Show lines over time. `links`: addresses that a click on a point offers."""
    panel = (
        timeseries.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit(unit)
        .axis_soft_min(0)  # clocks may be behind
        .fill_opacity(10)
        .show_points(options.VisibilityMode.AUTO)
        .legend(
            common.VizLegendOptions()
            .display_mode(options.LegendDisplayMode.TABLE)
            .placement(options.LegendPlacement.BOTTOM)
            .show_legend(show_legend=True)
            .calcs(["lastNotNull", "max"])
        )
        .tooltip(common.VizTooltipOptions().mode(options.TooltipDisplayMode.MULTI))
        .span(width)
        .height(8)
    )
    for ref, query in zip(ascii_uppercase, queries, strict=False):
        panel.with_target(
            prometheus.Dataquery()
            .expr(query.expression)
            .legend_format(query.legend)
            .range()
            .exemplar(any(name in query.expression for name in WITH_EXEMPLARS))
            .ref_id(ref)
            .datasource(SOURCE)
        )
    return panel.data_links([_link(address) for address in links]) if links else panel


def bars(title: str, description: str, value: Column, *, width: int = 12) -> bargauge.Panel:
    """Show the values of now as bars; the heading of the value is the name of each."""
    return (
        bargauge.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .with_target(_now(value.expression, "A").legend_format(value.heading))
        .unit(value.unit)
        .min(0)
        .thresholds(_thresholds((BLUE,)))
        .reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]))
        .orientation(options.VizOrientation.HORIZONTAL)
        .display_mode(options.BarGaugeDisplayMode.BASIC)
        .span(width)
        .height(8)
    )


def rows(
    title: str,
    description: str,
    labels: Sequence[str],
    *columns: Column,
    links: dict[str, str] | None = None,
    width: int = 24,
) -> table.Panel:
    """Show a row for each set of these labels. `links`: addresses, by the label that has them."""
    values = {
        f"Value #{ref}" if len(columns) > 1 else "Value": column
        for ref, column in zip(ascii_uppercase, columns, strict=False)
    }
    names = {label: label.replace("_", " ").capitalize() for label in labels}
    names |= {value: column.heading for value, column in values.items()}
    panel = (
        table.Panel()
        .title(title)
        .description(description)
        .datasource(SOURCE)
        .unit("short")
        .with_transformation(model.DataTransformerConfig(id_val="merge", options={}))
        .with_transformation(
            model.DataTransformerConfig(
                id_val="organize",
                options={
                    "excludeByName": {"Time": True},
                    "indexByName": {name: index for index, name in enumerate(names)},
                    "renameByName": names,
                },
            )
        )
        .span(width)
        .height(9)
    )
    for ref, column in zip(ascii_uppercase, columns, strict=False):
        panel.with_target(_now(column.expression, ref).format(PromQueryFormat.TABLE))
        panel.override_by_name(
            column.heading, [model.DynamicConfigValue(id_val="unit", value=column.unit)]
        )
    for label, address in (links or {}).items():
        link = {"title": "Open", "url": address}
        panel.override_by_name(
            names[label], [model.DynamicConfigValue(id_val="links", value=[link])]
        )
    return panel


def runbook(panel: Panel, alert: str) -> Panel:
    """Link a panel to what to do when the alert on it fires."""
    address = f"{DOCS}runbook/#{alert.lower()}"
    return panel.links([_link(address, f"Runbook: {alert}").target_blank(target_blank=True)])


OF_A_TASK = ("backend", "task")


def _to_task(backend: str, task: str) -> str:
    """Address the dashboard of a task, named by what a link fills in."""
    kept = "&".join(f"${{{name}:queryparam}}" for name in ("datasource", *TARGET))
    own = f"var-backend=${{{backend}:percentencode}}&var-task=${{{task}:percentencode}}"
    return f"/d/celery-results-task/celery-results-task?{kept}&{own}&${{__url_time_range}}"


TASK_OF_SERIES = _to_task("__field.labels.backend", "__field.labels.task")
TASK_OF_ROW = _to_task("__data.fields.Backend", "__data.fields.Task")


def dashboard(
    name: str, title: str, description: str, filters: Filters, content: dict[str, list[Panel]]
) -> model.Dashboard:
    """Lay out rows of panels, by their titles."""
    made = (
        build.Dashboard(f"Celery results / {title}")
        .uid(f"celery-results-{name}")
        .description(description)
        .tags([TAG, "celery"])
        .editable()
        .tooltip(model.DashboardCursorSync.CROSSHAIR)
        .refresh("30s")
        .time("now-6h", "now")
        .timezone("browser")
        .link(
            build.DashboardLink("Celery results")
            .type(model.DashboardLinkType.DASHBOARDS)
            .tags([TAG])
            .include_vars(include_vars=True)
            .keep_time(keep_time=True)
        )
        .link(_link(f"{DOCS}runbook/", "Runbook").target_blank(target_blank=True))
        .with_variable(
            build.DatasourceVariable("datasource").label("Data source").type("prometheus")
        )
    )
    for variable in filters.variables():
        made.with_variable(variable)
    for row, panels in content.items():
        made.with_row(build.Row(row))
        for panel in panels:
            made.with_panel(panel)
    built = made.build()
    for position, placed in enumerate(built.panels or [], 1):
        placed.id_val = position
    return built


def top(rate: str, increase: str) -> str:
    """Keep of the rates those ten series that increase most over the time shown."""
    return f"{rate}\nand\ntopk(10, {increase} > 0)"


def per_minute(selector: str, by: str) -> str:
    """Sum the rates of a counter."""
    return f"sum by ({by}) (rate({selector}[$__rate_interval])) * 60"


def backends(filters: Filters, width: int) -> Panel:
    """Show which backends are up."""
    panel = whether(
        "Backends",
        "Whether the last poll of each backend succeeded.",
        Column(f"min by (backend) ({filters.of(catalogue.UP)})", "{{backend}}", "none"),
        UP_OR_DOWN,
        width,
    )
    return runbook(panel, "CeleryResultBackendDown")


def _now(expression: str, ref: str) -> prometheus.Dataquery:
    return prometheus.Dataquery().expr(expression).instant().ref_id(ref).datasource(SOURCE)


def _thresholds(steps: Sequence[Step]) -> build.ThresholdsConfig:
    return (
        build.ThresholdsConfig()
        .mode(model.ThresholdsMode.ABSOLUTE)
        .steps([model.Threshold(value=step.value, color=step.color) for step in steps])
    )


def _link(address: str, title: str = "Open") -> build.DashboardLink:
    return build.DashboardLink(title).type(model.DashboardLinkType.LINK).url(address)

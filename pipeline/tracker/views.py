"""Saved views of MLflow's page: one link shows curves, the parts of the ELBO, and sample grids side by side.

A saved view is an experiment tag `mlflow.sharedViewState.<id>`, a JSON object whose `state` is `deflate;` followed by
base64(zlib(JSON)) of the page's filter, order, columns and charts. MLflow does not document this format. The names
below are those of MLflow 3.17, whose page ignores names that it does not know. Only this file knows the format, and a
test opens the views in a browser. If a view cannot be written, there is a warning, and the study continues.
"""

import base64
import json
import re
import time
import uuid
import warnings
import zlib
from collections.abc import Iterable, Sequence
from typing import Any

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

PREFIX = "mlflow.sharedViewState."
PICTURES = (
    "reconstructions", "samples", "correlations", "counts", "traversals", "interpolations", "latent", "aggregate", "kl",
    "classes", "completions", "pseudo_inputs", "codes", "forecasts", "forecast_errors", "levels", "neighbours",
    "probe_curve", "rate_distortion",
)  # fmt: skip
PICTURE_STEP = 0  # of the final pictures of all trials, which end at different epochs: a view shows a single step
PORT = 5000
CRITERIA = {  # by which a comparison chooses configurations -> the metric by which their finals are sorted
    "elbo": "test/elbo", "probe": "probe/test_accuracy", "reconstruction": "test/reconstruction",
}  # fmt: skip
KINDS = ("real", "positive", "count", "binary", "category")  # the kinds of values that a reconstruction is split into
COLOURS = (  # of trials: Tol's bright, vibrant and muted schemes, which colour-blind readers can tell apart
    "#4477aa", "#ee6677", "#228833", "#ccbb44", "#66ccee", "#aa3377", "#ee7733", "#0077bb", "#33bbee", "#ee3377",
    "#cc3311", "#009988", "#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#cc6677", "#882255",
)  # fmt: skip

_RERUN_COLUMNS = [f"tags.`{tag}`" for tag in ("verdict", "verdicts", "baseline", "commit", "hardware")]

Card = dict[str, Any]
Section = tuple[str, Sequence[Card], dict[str, int]]


def write(client: MlflowClient, experiment: str, searched: Iterable[str]) -> None:
    """Write the views of the trials and finals of an experiment, given by its id.

    `searched` are the names of the parameters that the parallel coordinates show. The view Variants shows the finals
    by their tag `group`, which names the variant and the criteria that chose the configuration. As long as there are no
    finals, it shows the trials of each variant. The views "Variants by CRITERION" have the finals that one criterion
    chose, and so the means of a report, also if it has several repetitions, each of which chose a configuration of its
    own.
    """
    has_finals = bool(client.search_runs([experiment], "tags.kind = 'final'", max_results=1))
    _write(client, experiment, _views(list(searched), has_finals))


def write_reruns(client: MlflowClient, experiment: str, series: Iterable[str]) -> None:
    """Write the view Reruns: each series (CASE/METRIC) over the reruns of a benchmark, in a section per metric."""
    metrics: dict[str, list[str]] = {}
    for name in sorted(s for s in series if "/" in s):
        metrics.setdefault(name.split("/", 1)[1], []).append(name)
    sections: list[Section] = [
        (metric, [_line(name) for name in names], {"columns": 3}) for metric, names in metrics.items()
    ]
    state = _state("tags.kind = 'rerun' and tags.state = 'complete'", sections, [], group="suite")
    state |= {"orderByKey": "attributes.start_time", "runsHiddenMode": "SHOWALL", "selectedColumns": _RERUN_COLUMNS}
    _write(client, experiment, {"Reruns": state})


def _write(client: MlflowClient, experiment: str, states: dict[str, dict[str, Any]]) -> None:
    for name, state in states.items():
        packed = base64.b64encode(zlib.compress(json.dumps(state).encode())).decode()
        now = int(time.time() * 1000)
        value = {"name": name, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"}
        try:
            client.set_experiment_tag(experiment, PREFIX + _id(experiment, name), json.dumps(value))
        except MlflowException as error:
            warnings.warn(f"the MLflow view {name!r} could not be written: {error}", stacklevel=2)


def _server(uri: str, port: int) -> str:
    """Return the address of the tracking server, or of the one that `python -m pipeline.ui` starts."""
    if uri.startswith(("http:", "https:")):
        return re.sub(r"//[^/@]*@", "//", uri.rstrip("/"))  # without a password
    return f"http://127.0.0.1:{port}"


def run_link(uri: str, experiment: str, run: str) -> str:
    """Return the address of a run's page."""
    return f"{_server(uri, PORT)}/#/experiments/{experiment}/runs/{run}"


def link(uri: str, experiment: str, view: str, port: int = PORT) -> str:
    """Return the address that opens a view."""
    page = f"runs?workflowType=machine_learning&compareRunsMode=CHART&viewStateShareKey={_id(experiment, view)}"
    return f"{_server(uri, port)}/#/experiments/{experiment}/{page}"


def _id(experiment: str, view: str) -> str:
    return uuid.uuid5(uuid.NAMESPACE_URL, f"{experiment}/{view}").hex


def _views(searched: list[str], has_finals: bool) -> dict[str, dict[str, Any]]:
    parts: Section = (
        "ELBO and its parts (nats per example, at beta = 1)",
        [
            _line("valid/elbo"), _line("train/elbo", "valid/elbo"), _scatter("valid/reconstruction", "valid/kl"),
            _line("valid/reconstruction"), _line("valid/kl"), _bar("latent/active_units"),
            *(_bar(f"valid/reconstruction_{kind}") for kind in KINDS), _bar("valid/elbo_units"),
        ],
        {"columns": 3},
    )  # fmt: skip
    codes: Section = (
        "What the codes are good for",
        [
            _bar("probe/accuracy"), _bar("probe/balanced_accuracy"), _bar("probe/majority"),
            _bar("probe/roc_area"), _bar("probe/precision_recall_area"), _bar("probe/random_projection"),
            _scatter("valid/elbo", "probe/accuracy"), _bar("latent/mmd"), _bar("latent/posterior_spread"),
            _scatter("valid/reconstruction", "latent/mmd"),
        ],
        {"columns": 3},
    )  # fmt: skip
    search: Section = ("Search", [_parallel(searched, ["probe/accuracy", "valid/elbo"])], {"columns": 1})
    cost: Section = ("Cost", [_bar("time/trial_seconds"), _line("time/examples_per_second")], {"columns": 2})
    pictures: Section = ("Pictures", [_images(*PICTURES[:2])], {"columns": 1, "cardHeight": 460})
    all_pictures: Section = ("Side by side", [_images(*PICTURES)], {"columns": 1, "cardHeight": 1600})
    tested = (  # the metrics by which a report compares variants, and what stands beside them
        [
            _bar("test/elbo"), _bar("probe/test_accuracy"), _bar("probe/test_balanced_accuracy"),
            _bar("test/reconstruction"), _bar("test/kl"), _bar("test/iw500"), _bar("test/ais"),
            _scatter("test/kl", "test/reconstruction"), _scatter("test/elbo", "probe/test_accuracy"),
            _bar("time/trial_seconds"),
        ],
        {"columns": 3},
    )  # fmt: skip
    trials = "tags.kind = 'trial'"
    compared = _state(f"{trials} and tags.state = 'complete'", [parts, codes, cost], searched, group="variant")
    chosen = {}
    if has_finals:
        finals = "tags.kind = 'final' and tags.state = 'complete'"
        latest = f"{finals} and tags.group LIKE '%)'"  # those of the latest comparison, such as `vae (elbo, probe)`
        of_group: Section = (
            "Finals on the test split: mean over those of a variant that the same criteria chose",
            *tested,
        )
        compared = _state(latest, [of_group, parts], [], group="group", runsHiddenMode="SHOWALL")
        for criterion, metric in CRITERIA.items():
            runs = f"{finals} and tags.group LIKE '%(%{criterion}%)'"
            title = (
                f"Finals on the test split: mean over the configurations that {criterion} chose, one in each repetition"
            )
            chosen[f"Variants by {criterion}"] = _state(
                runs, [(title, *tested), parts], [], group="variant", orderByKey=f"metrics.`{metric}`",
                orderByAsc=criterion == "reconstruction",
            )  # fmt: skip
    return {
        "Trials": _state(trials, [parts, pictures, codes, search, cost], searched),
        "Variants": compared,
        "Samples": _state(trials, [all_pictures], searched, runListHidden=True),
        **chosen,
    }  # fmt: skip


def _state(
    runs: str, sections: Sequence[Section], searched: list[str], group: str | None = None, **more: Any
) -> dict[str, Any]:
    """Return the state of a page that shows the runs of a filter with these sections of charts.

    The best ELBO is first, unless `more` says otherwise.
    """
    cards: list[Card] = []
    groups = []
    for title, charts, shape in sections:
        groups.append({"uuid": uuid.uuid4().hex, "name": title, "display": True, "isReordered": True, **shape})
        cards += [{**chart, "metricSectionId": groups[-1]["uuid"]} for chart in charts]
    by = {"aggregateFunction": "average", "groupByKeys": [{"mode": "tag", "groupByData": group}]}
    metrics = ("valid/elbo", "valid/reconstruction", "valid/kl", "probe/accuracy", "latent/active_units")
    columns = ["tags.`state`", *(f"metrics.`{m}`" for m in metrics), *(f"params.`{p}`" for p in searched)]
    return {
        "searchFilter": runs, "orderByKey": "metrics.`valid/elbo`", "orderByAsc": False, "startTime": "ALL",
        "lifecycleFilter": "Active", "modelVersionFilter": "All Runs", "datasetsFilter": [],
        "selectedColumns": columns, "compareRunCharts": [*cards, *_hidden(cards)], "compareRunSections": groups,
        "isAccordionReordered": True, "runsHiddenMode": "FIRST_20_RUNS", "hideEmptyCharts": True,
        "groupBy": by if group else None, "useGroupedValuesInCharts": True, **more,
    }  # fmt: skip


def _hidden(cards: list[Card]) -> list[Card]:
    """Return deleted charts: without them, the page would add a chart for each metric and picture that has none."""
    shown = {card.get("metricKey") for card in cards} | {tuple(card.get("imageKeys", ())) for card in cards}
    parts = [f"{split}/{name}" for split in ("train", "valid") for name in ("elbo", "reconstruction", "kl", "loss")]
    others = ["time/train_seconds", "time/valid_seconds", "time/examples_per_second", "time/trial_seconds"]
    others += ["time/epochs", "time/best_epoch", "time/scores_seconds", "time/pictures_seconds"]
    probes = ["probe/accuracy", "probe/balanced_accuracy", "probe/majority", "probe/random_projection"]
    probes += ["probe/roc_area", "probe/precision_recall_area", "probe/raw_pixels", "latent/active_units"]
    probes += [f"baseline/valid_{name}" for name in ("independent", "gaussian", "multinomial", "ppca", "mean")]
    probes += [f"bits/valid_{name}" for name in ("independent", "mean", "png", "webp")]
    probes += ["valid/bits_per_dimension"]
    probes += ["latent/mmd", "latent/posterior_mean", "latent/posterior_spread"]
    metrics = [{**_bar(m), "deleted": True} for m in [*parts, *others, *probes] if m not in shown]
    return metrics + [{**_images(p), "deleted": True} for p in PICTURES if (p,) not in shown]


def _card(kind: str, **fields: Any) -> Card:
    return {"type": kind, "uuid": uuid.uuid4().hex, "deleted": False, "isGenerated": False, **fields}


def _line(*metrics: str) -> Card:
    return _card(
        "LINE", metricKey=metrics[0], selectedMetricKeys=list(metrics), lineSmoothness=0, useGlobalLineSmoothing=False,
        xAxisKey="step", useGlobalXaxisKey=False, xAxisScaleType="linear", selectedXAxisMetricKey="",
        scaleType="linear", range={}, yAxisKey="metric", yAxisExpressions=[], ignoreOutliers=False,
    )  # fmt: skip


def _bar(metric: str) -> Card:
    return _card("BAR", metricKey=metric)


def _scatter(x: str, y: str) -> Card:
    return _card("SCATTER", xaxis={"key": x, "type": "METRIC"}, yaxis={"key": y, "type": "METRIC"})


def _parallel(params: list[str], metrics: list[str]) -> Card:
    return _card("PARALLEL", selectedParams=params, selectedMetrics=metrics, showAllRuns=False)


def _images(*keys: str) -> Card:
    return _card("IMAGE", imageKeys=list(keys), step=PICTURE_STEP, showRunParams=False)

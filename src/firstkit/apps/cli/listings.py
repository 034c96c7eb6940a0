# SPDX-License-Identifier: Apache-2.0
"""`first models`, `clusters`, `deployments`, `instances`, `jobs`, `usage`: what there is, since when and why."""

from __future__ import annotations

import click

from firstkit.adapters.clients.target import Asked
from firstkit.apps.cli.connecting import connected, operate, use
from firstkit.apps.cli.durations import Duration
from firstkit.apps.cli.printing import Cell, Row, json_option, print_json, print_rows, seconds


def _counts(counts: dict[str, int], limit: int | None) -> str:
    text = ", ".join(f"{number} {state.lower()}" for state, number in counts.items())
    return f"{text or 'none'} (at most {limit})" if limit is not None else text or "none"


def progress_text(row: Row) -> str:
    """Say how far loading has come."""
    if row["state"] != "LOADING":
        return ""
    fraction = "" if row["fraction"] is None else f"{row['fraction']:.0%} "
    return f"{fraction}{row['progress']}".strip()


def why_text(row: Row) -> str:
    """Say the reason, and the detail behind it."""
    return f"{row['reason']}: {row['detail']}" if row["detail"] else str(row["reason"])


def _state(row: Row) -> str:
    first = row["first"]
    if first["held"]:
        return f"held ({first['state']})"
    fraction = first.get("fraction")
    return first["state"] if fraction is None else f"{first['state']} {fraction:.0%}"


def _model_detail(row: Row) -> str:
    first = row["first"]
    return first["progress"] or first["detail"] or first["reason"].lower().replace("_", " ")


MODELS: dict[str, Cell] = {
    "MODEL": lambda row: row["id"],
    "ALIASES": lambda row: ", ".join(row["first"]["aliases"]),
    "STATE": _state,
    "FOR": lambda row: seconds(row["first"]["for_s"]) if row["first"]["state"] != "cold" else "",
    "HOT IN": lambda row: "" if row["first"]["state"] == "hot" else seconds(row["first"]["time_to_hot_s"], unknown="?"),
    "CONTEXT": lambda row: str(row["context_length"] or ""),
    "CLUSTERS": lambda row: ", ".join(row["first"]["clusters"]),
    "WHY": _model_detail,
}

CLUSTERS: dict[str, Cell] = {
    "CLUSTER": lambda row: row["name"],
    "STATE": lambda row: "stopped" if row["stopped"] else "open",
    "SCHEDULER": lambda row: row["scheduler"],
    "LINK": lambda row: row["link"] or "",
    "JOBS": lambda row: _counts(row["jobs"], row["job_limit"]),
    "INSTANCES": lambda row: _counts(row["instances"], None),
    "MODELS": lambda row: ", ".join(row["models"]),
    "LEFT OUT": lambda row: ", ".join(f"{one['node']} ({seconds(one['left_s'])})" for one in row["excluded"]),
    "NOTE": lambda row: "; ".join(filter(None, [row["stop_note"], *row["notices"]])),
}

DEPLOYMENTS: dict[str, Cell] = {
    "DEPLOYMENT": lambda row: row["name"],
    "MODEL": lambda row: row["model"],
    "CLUSTER": lambda row: row["cluster"] or "(external)",
    "ENGINE": lambda row: row["engine"],
    "MIN-MAX": lambda row: f"{row['min']}-{row['max']}",
    "INSTANCES": lambda row: _counts(row["instances"], None),
    "OVERRIDES": lambda row: ", ".join(row["overrides"]),
}

INSTANCES: dict[str, Cell] = {
    "INSTANCE": lambda row: row["id"],
    "DEPLOYMENT": lambda row: row["deployment"],
    "CLUSTER": lambda row: row["cluster"],
    "STATE": lambda row: row["state"],
    "PROGRESS": progress_text,
    "FOR": lambda row: seconds(row["for_s"]),
    "IN FLIGHT": lambda row: str(row["in_flight"]) if row["state"] in {"READY", "DRAINING"} else "",
    "TIME LEFT": lambda row: seconds(row["time_left_s"]),
    "FOLLOWS": lambda row: row["replaces"],
    "WHY": why_text,
}

JOBS: dict[str, Cell] = {
    "JOB": lambda row: row["id"],
    "CLUSTER": lambda row: row["cluster"],
    "DEPLOYMENT": lambda row: row["deployment"],
    "STATE": lambda row: row["state"],
    "FOR": lambda row: seconds(row["for_s"]),
    "SCHEDULER'S": lambda row: row["scheduler_id"],
    "NODE": lambda row: ", ".join(row["nodes"]),
    "TIME LEFT": lambda row: seconds(row["time_left_s"]),
    "STARTS IN": lambda row: seconds(row["starts_in_s"]),
    "WHY": why_text,
}

USAGE: dict[str, Cell] = {
    "MODEL": lambda row: row["model"],
    "REQUESTS": lambda row: str(row["requests"]),
    "TOKENS IN": lambda row: str(row["input_tokens"]),
    "TOKENS OUT": lambda row: str(row["output_tokens"]),
}


@click.command("models")
@connected
@json_option
def models_command(*, asked: Asked, as_json: bool) -> None:
    r"""List the models you may use: what is hot, warm, queued or cold, since when and why.

    \b
    first models
    first models --json | jq -r '.[] | select(.first.state == "hot") | .id'
    """
    with use(asked) as client:
        rows = client.listing("/v1/models")
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, MODELS, empty="There is no model that you may use; ask an operator for access.")


@click.command("clusters")
@connected
@json_option
def clusters_command(*, asked: Asked, as_json: bool) -> None:
    r"""List the clusters, what runs there and whether they are stopped.

    \b
    first clusters
    """
    with operate(asked) as client:
        rows = client.listing("/api/v1/clusters")
    if as_json:
        print_json(rows)
    else:
        print_rows(
            rows, CLUSTERS, empty="There is no cluster in the catalog; add one and run `first deploy apply FILE`."
        )


@click.command("deployments")
@connected
@json_option
def deployments_command(*, asked: Asked, as_json: bool) -> None:
    r"""List the deployments with their bounds, instances and overrides.

    \b
    first deployments
    """
    with operate(asked) as client:
        rows = client.listing("/api/v1/deployments")
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, DEPLOYMENTS, empty="There is no deployment; add one and run `first deploy apply FILE`.")


@click.command("instances")
@connected
@click.option("--ended", is_flag=True, help="Those too that ended in the last day.")
@click.option("--watch", is_flag=True, help="Follow them until Ctrl-C, with progress while they load.")
@json_option
def instances_command(*, asked: Asked, ended: bool, watch: bool, as_json: bool) -> None:
    r"""List running engines: which model, where, how far loading has come, and why.

    \b
    first instances
    first instances --watch
    first instances --ended --json
    """
    with operate(asked) as client:
        if watch:
            from firstkit.apps.cli.following import follow_instances

            follow_instances(client, as_json=as_json)
            return
        rows = client.listing("/api/v1/instances", **({"ended": "true"} if ended else {}))
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, INSTANCES, empty="No instance is running; the first request for a model starts one.")


@click.command("jobs")
@connected
@click.option("--ended", is_flag=True, help="Those too that ended in the last day.")
@json_option
def jobs_command(*, asked: Asked, ended: bool, as_json: bool) -> None:
    r"""List scheduler jobs.

    \b
    first jobs
    first jobs --ended
    """
    with operate(asked) as client:
        rows = client.listing("/api/v1/jobs", **({"ended": "true"} if ended else {}))
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, JOBS, empty="No job is waiting or running.")


@click.command("usage")
@connected
@click.option("--since", type=Duration(), default="1d", show_default=True, help="How far to look back, as 1h or 30d.")
@click.option("--mine", is_flag=True, help="What the key was used for, instead of everybody's.")
@json_option
def usage_command(*, asked: Asked, since: float, mine: bool, as_json: bool) -> None:
    r"""Sum up finished requests and tokens by model.

    \b
    first usage --since 7d
    first usage --mine
    """
    params = {"within_s": str(since)}
    with use(asked) if mine else operate(asked) as client:
        rows = client.listing("/api/v1/usage", **(params if mine else params | {"all": "true"}))
    if as_json:
        print_json(rows)
    else:
        print_rows(rows, USAGE, empty="Nothing was asked for in that time.")

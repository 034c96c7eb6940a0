# SPDX-License-Identifier: Apache-2.0
"""What an engine's own adapter says about the deployments that use it."""

from __future__ import annotations

from collections.abc import Mapping

from firstkit.config.build import build_deployment
from firstkit.config.catalog_sections import Deployment
from firstkit.config.catalog_sections import Engine as EngineSection
from firstkit.config.document import MapNode, Path
from firstkit.config.drafts import Draft, DraftDeployment
from firstkit.config.report import Report, did_you_mean
from firstkit.config.shape import describe_unknown_key
from firstkit.core.errors import FirstError
from firstkit.core.nearest import or_list
from firstkit.ports.engine import Engine


def check_kinds(report: Report, draft: Draft, engines: Mapping[str, Engine] | None) -> None:
    """Check every engine's kind, and that its kind has the keys it gives; without adapters nothing is said."""
    if engines is None:
        return
    for name, deployment in draft.deployments.items():
        path: Path = ("deployments", name, "engine")
        kind = deployment.engine.kind if deployment.engine else ""
        adapter = engines.get(kind)
        if kind and adapter is None:
            kinds = sorted(engines)
            report.add(
                (*path, "kind"),
                f"there is no engine of the kind `{kind}`",
                expected=or_list(f"`{known}`" for known in kinds),
                hint=did_you_mean(kind, kinds),
            )
        _check_options(report, path, [adapter] if adapter else list(engines.values()))


def _check_options(report: Report, path: Path, adapters: list[Engine]) -> None:
    """Report keys that none of these adapters knows; one that does not list its keys may know any."""
    node = report.node(path)
    options = [adapter.traits.option_names for adapter in adapters]
    if not isinstance(node, MapNode) or not all(options):
        return
    known = [*EngineSection.model_fields, *sorted(frozenset[str]().union(*options))]
    for key in node.entries:
        if key not in known:
            describe_unknown_key(report, (*path, key), known=known)


def ask_engines(report: Report, draft: Draft, engines: Mapping[str, Engine] | None) -> None:
    """Let each adapter judge the deployments of its kind; it comes last, so that nothing is said twice."""
    for name, deployment in draft.deployments.items():
        kind = deployment.engine.kind if deployment.engine else ""
        adapter = (engines or {}).get(kind)
        if adapter is not None:
            _ask(report, ("deployments", name, "engine"), name, deployment, adapter)


def _ask(report: Report, path: Path, name: str, deployment: DraftDeployment, adapter: Engine) -> None:
    """Ask about one deployment; keys that are known to be wrong already are left out."""
    given = deployment.engine
    assert given is not None  # noqa: S101 asked by the caller
    draft = Deployment.model_construct(
        model=deployment.model,
        cluster=deployment.cluster or None,
        engine=given,
        resources=deployment.resources,
        scaling=deployment.scaling,
        update="roll",
    )
    try:
        mistakes = adapter.check(build_deployment(name, draft))
    except FirstError as error:
        mistakes = [("kind", error.message)]
    for key, sentence in mistakes:
        where = (*path, *_steps(key))
        nothing = report.node(where) is None
        if any(report.has(where[:length]) for length in range(len(path) + 1, len(where) + 1)):
            continue
        if nothing:
            report.add(path, f"`{key}` {sentence}", key=True)
        else:
            report.add(where, sentence)


def _steps(key: str) -> Path:
    """Split an adapter's key; `args` and `env` hold keys that may have dots of their own."""
    head, dot, rest = key.partition(".")
    if not dot:
        return (head,)
    if head in {"args", "env"}:
        return (head, rest)
    return (head, *(int(step) if step.isdigit() else step for step in rest.split(".")))

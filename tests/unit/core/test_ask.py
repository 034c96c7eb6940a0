# SPDX-License-Identifier: Apache-2.0
"""What a job asks: the deployment's words over the cluster's."""

from firstkit.core.ask import Ask, GpuRequest, ask_of
from firstkit.core.catalog import Resources, SchedulerSpec
from firstkit.testing.records import make_cluster

CLUSTER = make_cluster(
    scheduler=SchedulerSpec(
        kind="other",
        options={
            "partition": "gpu",
            "account": "theirs",
            "gpu_request": "gpus-per-node",
            "exclusive": True,
            "extra": ["--licenses=a"],
            "python": "/opt/python",
        },
    )
)


def test_what_the_deployment_leaves_open_is_the_clusters_word() -> None:
    assert ask_of(CLUSTER, Resources(gpus=2, walltime_s=60.0)) == Ask(
        gpus=2,
        walltime_s=60.0,
        partition="gpu",
        account="theirs",
        gpu_request=GpuRequest.GPUS_PER_NODE,
        exclusive=True,
        extra=("--licenses=a",),
    )


def test_the_deployments_word_goes_first_also_when_it_is_no() -> None:
    ours = {"partition": "big", "account": "ours", "qos": "high", "exclusive": False, "extra": ["--licenses=b"]}
    ask = ask_of(CLUSTER, Resources(options=ours))
    assert (ask.partition, ask.account, ask.qos, ask.exclusive) == ("big", "ours", "high", False)
    assert ask.extra == ("--licenses=a", "--licenses=b"), "options add up"

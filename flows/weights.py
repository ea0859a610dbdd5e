"""The `weights` flow: weights from the miners' histories, submitted to the chain once a tempo."""

from prefect import flow, task

from perturb.flows.engine.artifacts import show_table
from perturb.flows.engine.retry import when_out_of_reach
from perturb.schemas.settings import load_settings
from perturb.tasks.weights.emission import DEFAULT_EMISSION_POLICY
from perturb.tasks.weights.weigh import WeightsSummary, weigh_miners


@task(name="plan and submit", retries=3, retry_delay_seconds=60, retry_condition_fn=when_out_of_reach)
def _submit(store: str | None, policy: str, dry_run: bool) -> WeightsSummary:
    weighed = weigh_miners(load_settings(store=store), emission_policy=policy, dry_run=dry_run)
    show_table("weights", weighed.rows, f"weights under {weighed.policy}")
    return weighed


@flow(name="weights")
def weights(store: str | None = None, policy: str = DEFAULT_EMISSION_POLICY, dry_run: bool = False) -> WeightsSummary:
    """Submit weights from the corpus' records; on the local network and in a dry run they are only planned."""
    return _submit(store, policy, dry_run)

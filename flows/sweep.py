from prefect import flow

from flows.settings import Settings


@flow(name="sweep", persist_result=False)
def sweep(settings: Settings) -> None:
    """x"""

"""Where worker processes begin: named by the supervisor, which loads nothing of what they do."""

from multiprocessing.connection import Connection

from streamd.processes.specs import InferenceSpec, IngestSpec


def ingest_main(spec: IngestSpec, connection: Connection) -> None:
    """An ingest worker's whole life."""
    from streamd.ingest.worker import run_ingest  # noqa: PLC0415  # in its process only

    run_ingest(spec, connection)


def inference_main(spec: InferenceSpec, connection: Connection) -> None:
    """An inference worker's whole life."""
    from streamd.inference.worker import run_inference  # noqa: PLC0415  # in its process only

    run_inference(spec, connection)

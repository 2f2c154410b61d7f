"""Open bundle: take a bundle that was verified into the store, as an emulator or as a tuning."""

from pathlib import Path
from typing import Any

from tasks.engine.stage import stage
from tasks.engine.work import Work
from tasks.exchange.received import ReceivedBundle
from tasks.store.files import link_or_copy


@stage(packages=())
def open_bundle(work: Work, bundle: ReceivedBundle) -> dict[str, Any]:
    """Write the folder that was made of a verified bundle: that of `emulate`, or that of `tune`.

    The files share the disk space of the copy in the home, where that is on the same disk.
    """
    for source in sorted(Path(bundle.path).iterdir()):
        link_or_copy(source, work.out / source.name)
    if bundle.kind == "tuned_blocks":
        return {}
    from tasks.models.folder_tensors import count_parameters
    from tasks.models.tensor_files import weight_bytes

    return {"num_bytes": weight_bytes(work.out), "num_parameters": count_parameters(work.out)}

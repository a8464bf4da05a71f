"""The batches of the pass's own loader: no worker is waited for without end, none is left behind."""

from collections.abc import Generator
from typing import Any

from torch.utils.data import DataLoader

from lightning_nc.run.frozen_loader import ALTERNATIVE
from lightning_nc.run.progress import say_unless_cancelled

_IN_THIS_PROCESS = (
    "Set frozen_num_workers=0 to load in this process, which touches what the data set keeps by itself"
)


def batches_of(loader: DataLoader) -> Generator[Any, None, None]:
    """The batches of a loader, whose worker processes end with this generator, whatever happens.

    Args:
        loader: A private loader.

    Yields:
        Its batches.

    Raises:
        RuntimeError: If a worker process fails, or none brings a batch in time.
    """
    batches: Any = None
    waiting = say_unless_cancelled(_waits(loader))
    try:
        batches = iter(loader)
        waiting.start()  # after the workers were forked: a fork and a thread do not go together
        for batch in batches:
            waiting.cancel()
            yield batch
    except Exception as error:
        if not loader.num_workers:
            raise
        for worker in getattr(batches, "_workers", ()):
            worker.terminate()
        raise _explained(error, loader.timeout) from error
    finally:
        waiting.cancel()
        # by themselves they would live for as long as a traceback that holds the iterator
        if hasattr(batches, "_shutdown_workers"):
            batches._shutdown_workers()


def _waits(loader: DataLoader) -> str:
    where = f"its {loader.num_workers} worker processes" if loader.num_workers else "this process"
    until = f", for at most {loader.timeout:g} s" if loader.timeout else ""
    return f"Neural collapse, frozen pass: waits for the first batch from {where}{until}"


def _explained(error: Exception, timeout: float) -> RuntimeError:
    if "timed out" in str(error):
        return RuntimeError(
            f"Expected the worker processes of the frozen pass to bring a batch within {timeout:g} s, "
            "but none came. Does the data set hold a thread pool, a lock, an open file or a "
            f"connection, for which a forked process may wait without end? {_IN_THIS_PROCESS}, or "
            f"a longer timeout of the training loader where a batch takes that long. {ALTERNATIVE}"
        )
    return RuntimeError(
        "Expected the training data to load in worker processes of the frozen pass's own, which "
        f"keep the data set as it is, but it failed: {type(error).__name__}: {error}. Does it "
        "hold tensors on a GPU, or something that cannot be handed to another process? "
        f"{_IN_THIS_PROCESS}. {ALTERNATIVE}"
    )

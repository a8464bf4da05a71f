"""Features by name where W is sharded: put together under FSDP2, refused under FSDP1."""

import re

import pytest

pytestmark = pytest.mark.ddp


def refusal(rank):
    """What a fit under FSDP1 says where the classifier's weight is wanted outside of its forward."""
    # imported here, because only these tests need Lightning in the processes
    from support import ways
    from support.networks import Sharded
    from support.training import fit

    from lightning_nc import NeuralCollapseCallback

    callback = NeuralCollapseCallback(classifier="net.fc", features="net.body")
    try:
        fit(Sharded(), [callback], strategy=ways.fsdp1_on_cpu(), devices=2)
    except ValueError as error:
        return str(error)
    return "nothing"


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_under_fsdp1_features_by_name_are_refused_on_all_ranks(two_processes):
    for said in two_processes.run(refusal):
        text = "Expected the weight of 'net.fc' to be whole, or sharded by FSDP2, with features, but "
        assert re.match(re.escape(text) + r"it is sharded by FSDP1 .* Use ModelParallelStrategy", said)

"""Hooks come and go, and stay away from copies."""

import copy
import io
import pickle
import warnings

import pytest
import torch
from support.watching import capture_of, hooks_of, opened
from torch import nn
from torch.utils.checkpoint import checkpoint

from lightning_nc.watch.hook import Hook, Hooks, as_rows, is_compiled, is_dense, leading_shape


def network_of():
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def test_hooks_rest_and_wake_under_the_same_names():
    network, seen, hooks = nn.Linear(1, 1), [], Hooks()
    own = network.register_forward_hook(lambda *_: seen.append("own"))
    hooks.add(network.register_forward_hook, lambda *_: seen.append("after"))
    hooks.add(network.register_forward_pre_hook, lambda *_: seen.append("before"))
    names = set(network._forward_hooks), set(network._forward_pre_hooks)
    assert len(hooks) == 2
    for _ in range(2):
        hooks.rest()
        hooks.rest()
        assert list(network._forward_hooks) == [own.id]
        assert not network._forward_pre_hooks
        hooks.wake()
        hooks.wake()
        assert (set(network._forward_hooks), set(network._forward_pre_hooks)) == names
    network(torch.ones(1, 1))
    assert seen == ["before", "own", "after"]
    hooks.remove()
    hooks.wake()
    assert (len(hooks), hooks_of(network)) == (0, 1)


def test_hooks_of_a_module_that_is_gone_stay_away():
    network, hooks = nn.Linear(1, 1), Hooks()
    hooks.add(network.register_forward_hook, lambda *_: None)
    del network
    hooks.rest()
    hooks.wake()
    hooks.remove()


def through_pickle(network):
    return pickle.loads(pickle.dumps(network))


def through_torch(network):
    file = io.BytesIO()
    torch.save(network, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, through_pickle, through_torch])
def test_a_copy_that_is_made_while_a_batch_is_open_is_not_observed(copied):
    network, x = network_of(), torch.randn(5, 6)
    capture = opened(capture_of(network, "2", forwards="all", layers=["0"]))
    twin = copied(network)
    assert torch.equal(twin(x), network(x))
    twin(x)
    assert len(capture.batch.forwards) == 1
    assert capture.batch.num_forwards == 1
    capture.detach()
    assert hooks_of(network) == 0


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_between_batches_the_network_can_be_scripted():
    network, x = network_of(), torch.randn(5, 6)
    capture = capture_of(network, "2")
    for _ in range(2):
        opened(capture)
        network(x)
        assert capture.take()[0]
        assert torch.equal(torch.jit.script(network)(x), network(x))


class Keeps:
    batch, holds_errors = None, False


def test_a_hook_is_told_what_comes_by_while_a_batch_is_open():
    told, keeper = [], Keeps()
    hook = Hook(keeper, "path", lambda *arguments: told.append(arguments))
    network = nn.Identity()
    network.register_forward_hook(hook)
    x = torch.ones(1)
    network(x)
    keeper.batch = "open"
    network(x)
    assert [(k, b, name, args[0] is x, y is x) for k, b, name, args, y in told] == [
        (keeper, "open", "path", True, True)
    ]


def test_a_forward_that_is_not_the_steps_own_is_not_kept():
    told, keeper = [], Keeps()
    keeper.batch = "open"
    network = nn.Linear(2, 2)
    network.register_forward_hook(Hook(keeper, "", lambda *_: told.append(1)))
    x = torch.ones(3, 2, requires_grad=True)
    for reentrant in (True, False):
        z = checkpoint(network, x, use_reentrant=reentrant)
        before = len(told)
        z.sum().backward()
        assert len(told) == before
    torch.func.vmap(network)(x)
    assert len(told) == 2


class OpenBatch:
    error = None


def test_the_first_error_is_held_where_that_is_asked_for():
    errors = [RuntimeError("first"), RuntimeError("second")]
    waiting = iter(errors)

    def keep(*_):
        raise next(waiting)

    keeper = Keeps()
    keeper.batch, keeper.holds_errors = OpenBatch(), True
    hook = Hook(keeper, "", keep)
    hook(nn.Identity(), ())
    hook(nn.Identity(), ())
    assert keeper.batch.error is errors[0]
    waiting, keeper.holds_errors = iter(errors), False
    with pytest.raises(RuntimeError, match="first"):
        hook(nn.Identity(), ())


def test_compiled_modules_are_told():
    plain = network_of()
    assert not is_compiled(plain.modules())
    assert is_compiled(nn.ModuleList([torch.compile(plain, backend="eager")]).modules())
    plain[0].compile(backend="eager")
    assert is_compiled(plain.modules())


def nested(layout):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The PyTorch API of nested tensors is in prototype stage")
        return torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=layout)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (torch.ones(2, 3), True),
        (torch.ones(2, 3, dtype=torch.bfloat16), True),
        (torch.ones(2, 3).to_sparse(), False),
        (nested(torch.jagged), False),
        (nested(torch.strided), False),
        (torch.tensor(1.0), False),
        (None, False),
        ((torch.ones(2, 3),), False),
    ],
)
def test_rows_are_read_of_one_dense_tensor(value, expected):
    assert is_dense(value) is expected
    assert as_rows((value, torch.ones(2, 3))) is (value if expected else None)
    assert as_rows(()) is None


TOKENS = torch.zeros(4, 5, 3)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (TOKENS, (4, 5)),
        (TOKENS[:, 0], (4,)),
        (TOKENS.reshape(-1, 3), (4, 5)),
        (TOKENS.flatten(0, 1), (4, 5)),
        (TOKENS.transpose(0, 1), (5, 4)),
        (TOKENS.reshape(-1, 15), (4,)),
        (TOKENS.view(-1, 3)[:7], (7,)),
        (TOKENS.view(-1, 3).clone(), (20,)),
        (torch.zeros(2, 3, 4, 5).flatten(0, 2), (2, 3, 4)),
        (torch.zeros(3), ()),
    ],
)
def test_flat_features_show_the_dimensions_that_they_had(x, expected):
    assert leading_shape(x) == expected

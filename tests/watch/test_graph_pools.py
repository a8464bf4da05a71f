"""How what a layer puts out for nodes becomes rows, and which labels these have."""

import pytest
import torch
from support.graph_data import NODES, Batch, Data, graph, graphs
from support.graph_oracles import neighborhood_mean
from support.watching import capture_of, hooks_of, opened
from torch import nn

from lightning_nc.tasks import Multiclass, Settings, make_task
from lightning_nc.values.recorded import HEAD
from lightning_nc.watch.batch import Forward
from lightning_nc.watch.graph_batch import GraphBatch, find_graph
from lightning_nc.watch.graph_pools import GRAPH_POOLS, of_graph
from lightning_nc.watch.layers import Layer
from lightning_nc.watch.node_record import NodeRecord, rows_of_nodes
from lightning_nc.watch.pools import ChosenPools, pooled, require_pool
from lightning_nc.watch.recorder import Recorder

SEVERAL = Batch.from_data_list(graphs(3))
NODES_OF_ALL = len(SEVERAL.y)
OF_SEVERAL = find_graph(SEVERAL).with_labels(NODES_OF_ALL)
OF_ONE = find_graph(graph()).with_labels(NODES)
H = torch.randn(NODES_OF_ALL, 3, generator=torch.Generator().manual_seed(0))


def layer(pool):
    return Layer("conv", "conv", pool)


def network(**layers):
    """Layers, and a head that meets the rows of nodes."""
    return nn.ModuleDict({**layers, "head": nn.Linear(3, 3)})


def forward_of(net, capture, h, graphs, labels, source=None):
    """What the layer "conv" leaves of its output in a batch."""
    opened(capture, labels, source=source, graph=graphs)
    output = net["conv"](h)
    net["head"](h)
    output.zero_()  # as the network may do afterwards
    [forward], _ = capture.take()
    return forward


def test_rows_of_nodes_are_copies_and_graphs_have_their_means():
    for each in ("nodes", "neighborhood_mean"):  # of which the recorder takes the means
        rows = of_graph(layer(each), H, OF_SEVERAL, SEVERAL)
        assert torch.equal(rows, H)
        assert rows.data_ptr() != H.data_ptr()
    means = of_graph(layer("graph_mean"), H, OF_SEVERAL, SEVERAL)
    expected = [H[SEVERAL.batch == i].mean(0) for i in range(3)]
    torch.testing.assert_close(means, torch.stack(expected))
    one = of_graph(layer("graph_mean"), H[:NODES], OF_ONE, graph())
    torch.testing.assert_close(one, H[:NODES].mean(0, keepdim=True))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_means_of_graphs_of_different_sizes_count_every_node(dtype):
    """A half counts to 256 or to 2,048, and no further."""
    sizes = torch.tensor([5000, 300, 0])
    of_node = torch.arange(3).repeat_interleave(sizes)
    x = torch.randn(5300, 2, generator=torch.Generator().manual_seed(0)).to(dtype) + 3
    means = of_graph(layer("graph_mean"), x, GraphBatch(None, 3, of_node, 5300), None)
    expected = torch.stack([x[of_node == 0].double().mean(0), x[of_node == 1].double().mean(0)])
    assert means.dtype == torch.promote_types(dtype, torch.float32)
    torch.testing.assert_close(means[:2].double(), expected, rtol=1e-5, atol=0)
    assert (means[2] == 0).all()


def test_a_copy_of_the_rows_of_nodes_is_used_again():
    nodes = H.clone()
    for pool in ("nodes", "neighborhood_mean"):
        assert of_graph(layer(pool), H, OF_SEVERAL, SEVERAL, nodes) is nodes


def test_all_pools_of_a_layer_come_from_one_hook():
    net = network(conv=nn.Linear(3, 3))
    pools = {"conv": ["nodes", "neighborhood_mean", "graph_mean"]}
    capture = capture_of(net, "head", layers=pools)
    forward = forward_of(net, capture, H, OF_SEVERAL, (NODES_OF_ALL,), SEVERAL)
    expected = net["conv"](H)
    assert list(forward.layers) == ["conv.nodes", "conv.neighborhood_mean", "conv.graph_mean"]
    torch.testing.assert_close(forward.layers["conv.nodes"], expected)
    assert forward.layers["conv.nodes"] is forward.layers["conv.neighborhood_mean"]
    torch.testing.assert_close(
        forward.layers["conv.graph_mean"][1], expected[SEVERAL.batch == 1].mean(0)
    )
    opened(capture, (NODES_OF_ALL,), source=SEVERAL, graph=OF_SEVERAL)
    assert hooks_of(net) == 3  # two of them are the head's
    capture.detach()
    assert hooks_of(net) == 0


@pytest.mark.parametrize(
    ("rows", "graphs", "labels", "expected"),
    [
        (NODES_OF_ALL, OF_SEVERAL, NODES_OF_ALL, "auto"),
        (NODES_OF_ALL, OF_SEVERAL, 3, "graph_mean"),
        (3, OF_SEVERAL, 3, "auto"),  # pooled already
        (NODES, OF_ONE, 1, "graph_mean"),
        (NODES, OF_ONE, NODES, "auto"),
        (7, OF_ONE, 1, "auto"),
        (NODES, None, 1, "auto"),
        (1, GraphBatch(None, num_nodes=1), 1, "auto"),  # a graph of one node
    ],
)
def test_nodes_of_labeled_graphs_become_means_of_graphs_by_themselves(rows, graphs, labels, expected):
    pools = ChosenPools({"conv": nn.Linear(3, 3)})
    x, shape = torch.zeros(rows, 3), torch.Size([labels])
    assert pools.of(layer("auto"), x, shape, graphs).pool == expected
    # a pool that was named stays
    assert pools.of(layer("nodes"), x, shape, graphs).pool == "nodes"


def twice(x, batch):
    return torch.cat([x, batch.x], 1)


def test_a_function_of_ones_own_gets_nodes_and_other_rows_of_two_dimensions_do_not():
    own = layer(f"{__name__}.twice")
    modules = {"conv": nn.Linear(3, 3)}
    rows = pooled(own, modules, H, SEVERAL, torch.Size([NODES_OF_ALL]), OF_SEVERAL)
    torch.testing.assert_close(rows, torch.cat([H, SEVERAL.x], 1))
    plain = pooled(own, modules, H, Data(), torch.Size([NODES_OF_ALL]))  # rows already
    torch.testing.assert_close(plain, H)
    named = pooled(layer("first"), modules, H, SEVERAL, torch.Size([NODES_OF_ALL]), OF_SEVERAL)
    torch.testing.assert_close(named, H)


def test_pools_of_graphs_are_pools():
    for pool in GRAPH_POOLS:
        require_pool(pool)
    with pytest.raises(ValueError, match="nodes, neighborhood_mean, graph_mean, or the dotted path"):
        require_pool("node")


# What is refused


@pytest.mark.parametrize("pool", GRAPH_POOLS)
def test_a_pool_of_graphs_needs_a_graph(pool):
    text = f"a graph in the batch for layer 'conv' with pool '{pool}', .* but got a tuple without"
    with pytest.raises(ValueError, match=text):
        of_graph(layer(pool), H, None, (H,))


@pytest.mark.parametrize("pool", GRAPH_POOLS)
@pytest.mark.parametrize("x", [H[:7], H[None], H[:, 0]])
def test_other_rows_than_nodes_are_refused(pool, x):
    with pytest.raises(ValueError, match=rf"a row for each of {NODES_OF_ALL} nodes from layer 'conv'"):
        of_graph(layer(pool), x, OF_SEVERAL, SEVERAL)


@pytest.mark.parametrize(
    ("graphs", "text"),
    [
        (GraphBatch(None, num_nodes=NODES), r"got a DataBatch with adj_t in its place"),
        (
            GraphBatch(OF_ONE.edge_index, num_nodes=NODES, num_seeds=12),
            r"whole neighborhoods for layer 'conv' .* a sample around 12 nodes \(batch_size\)",
        ),
        (GraphBatch(OF_ONE.edge_index), r"how many nodes the batch has .* Set num_nodes\."),
    ],
)
def test_a_mean_over_neighbors_needs_all_of_them(graphs, text):
    with pytest.raises(ValueError, match=text):
        of_graph(layer("neighborhood_mean"), H[:NODES], graphs, SEVERAL)
    assert len(of_graph(layer("nodes"), H[:NODES], graphs, SEVERAL)) == NODES


@pytest.mark.parametrize("place", ["conv", "conv:in"])
@pytest.mark.parametrize("pool", GRAPH_POOLS)
def test_features_have_no_pool_of_graphs(pool, place):
    text = f"pool to make rows of features='{place}', but '{pool}' is for layers. Leave pool out"
    with pytest.raises(ValueError, match=text):
        capture_of(network(conv=nn.Linear(3, 3)), "head", features=place, pool=pool)


# The rows of a recorder


def recorder(ignored=-100):
    return Recorder(Multiclass(Settings(ignore_index=ignored)), ["near", "plain"], near=["near"])


def test_isolated_nodes_have_no_label_where_the_means_over_neighbors_are():
    bare = OF_ONE.edge_index[:, OF_ONE.edge_index[1] != 4]
    nodes = GraphBatch(bare, num_nodes=NODES, has_labels=True)
    record, y = NodeRecord(frozenset({"near"}), -100), graph().y
    assert torch.equal(record.rows_and_labels("plain", H[:NODES], y, nodes)[1], y)
    near = record.rows_and_labels("near", H[:NODES], y, nodes)[1]
    assert near[4] == -100
    assert (near != y).sum() == 1
    column = record.rows_and_labels("near", H[:NODES], y[:, None], nodes)[1]
    assert torch.equal(column[:, 0], near)
    # of a multi-label target, all entries of the node
    tags = record.rows_and_labels("near", H[:NODES], torch.ones(NODES, 5), nodes)[1]
    assert (tags == -100).all(1).nonzero().flatten().tolist() == [4]
    with pytest.raises(ValueError, match=r"an ignore_index with pool 'neighborhood_mean'.*got None"):
        NodeRecord(frozenset({"near"}), None).rows_and_labels("near", H[:NODES], y, nodes)


def test_the_means_of_all_layers_are_those_over_the_neighbors():
    record = NodeRecord(frozenset({"near", "wide"}), -100)
    wide = torch.cat([H, H + 1], 1)[:NODES]
    rows = record.with_means({"near": H[:NODES], "plain": H[:NODES], "wide": wide}, OF_ONE)
    assert list(rows) == ["near", "plain", "wide"]
    assert torch.equal(rows["plain"], H[:NODES])
    for name, given in (("near", H[:NODES]), ("wide", wide)):
        expected = neighborhood_mean(given.double().numpy(), OF_ONE.edge_index.numpy())
        torch.testing.assert_close(rows[name], torch.tensor(expected), rtol=1e-9, atol=1e-9)
    for nodes in (None, find_graph(SEVERAL)):
        with pytest.raises(ValueError, match=r"Layer 'near': Expected labels of nodes with pool"):
            record.with_means({"near": H[:NODES]}, nodes)


@pytest.mark.parametrize("rows", [H[:7], H[None]])
def test_rows_of_other_things_than_nodes_are_refused_all_or_nothing(rows):
    text = rf"a row for each of {NODES_OF_ALL} labels of nodes, but got \({rows.shape[0]}, .* Does the"
    with pytest.raises(ValueError, match=text):
        rows_of_nodes(rows, SEVERAL.y)
    each = recorder()
    with pytest.raises(ValueError, match=f"Layer 'plain': Expected {text}"):
        each.add(Forward("head", H, None, {"plain": rows}), SEVERAL.y, 3, OF_SEVERAL)
    assert not each.close().evidence


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_isolated_nodes_are_counted_once_and_not_in_the_check_before_training(task):
    bare = OF_ONE.edge_index[:, OF_ONE.edge_index[1] > 1]
    nodes = GraphBatch(bare, num_nodes=NODES, has_labels=True)
    each = Recorder(make_task(task, Settings()), ["near"], near=["near"])
    forward = Forward("head", H[:NODES], None, {"near": H[:NODES]})
    target, rows = (graph().y, 3) if task == "multiclass" else (H[:NODES, :2], 2)
    each.check(forward, target, rows, nodes)
    each.add(forward, target, rows, nodes)
    text = each.close().notices["isolated", "near"]
    assert text.startswith("2 nodes have no neighbor, and so no mean over neighbors: they are left out")


def rows_of(h):
    return Forward("head", h, None, {"near": h, "plain": h})


GIVEN = {
    "several": (rows_of(H), SEVERAL.y, 3, OF_SEVERAL),
    "one": (rows_of(H[:NODES]), graph().y, 3, OF_ONE),
}


def stages(each, *kinds):
    """What a recorder gives in one stage after another."""
    for kind in kinds:
        each.add(*GIVEN[kind])
        yield each.close()
        each.reset()


def test_a_stage_starts_anew():
    each = recorder()
    each.close()  # without rows, which decides nothing
    each.reset()
    first, second = stages(each, "several", "several")
    assert first.evidence[HEAD].num_graphs == second.evidence[HEAD].num_graphs == 3
    first, second = stages(recorder(), "one", "one")
    assert first.evidence[HEAD].num_samples == second.evidence[HEAD].num_samples == NODES
    assert "nc1/cdnv" in second.outcomes["near"]
    assert ("graphs later", HEAD) not in second.notices


def test_keys_that_a_stage_began_with_stay():
    first, *later = stages(recorder(), "one", "several", "one", "several")
    for each, rows in zip(later, (NODES_OF_ALL, NODES, NODES_OF_ALL), strict=True):
        assert each.outcomes["near"].keys() == first.outcomes["near"].keys()
        assert each.evidence[HEAD].num_samples == rows
        is_told = ("graphs later", HEAD) in each.notices
        assert is_told == (rows == NODES_OF_ALL)
    text = later[0].notices["graphs later", HEAD]
    assert text.startswith("This stage began with a single graph, and now has 3: its keys stay, of the")
    first, *later = stages(recorder(), "several", "one", "several")
    for each, number in zip(later, (1, 3), strict=True):
        assert each.outcomes[HEAD].keys() == first.outcomes[HEAD].keys()
        assert each.evidence[HEAD].num_graphs == number
        assert not any(kind == "graphs later" for kind, _ in each.notices)


def test_what_waits_is_a_copy():
    """Here all that a batch holds is used again for the next one."""
    given = (H, SEVERAL.y, SEVERAL.edge_index, SEVERAL.batch, torch.full((3, 3), 2.0))

    def values(spoils):
        rows, y, edges, of_node, weight = memory = [tensor.clone() for tensor in given]
        each = recorder()
        each.classifier.keep(weight, None)
        nodes = GraphBatch(edges, 3, of_node, NODES_OF_ALL, has_labels=True)
        each.add(Forward("head", rows, None, {"near": H.clone()}), y, 3, nodes)
        for own in memory if spoils else ():
            own.zero_()
        each.classifier.keep(weight, None)  # the next one's
        found = each.close().outcomes.items()
        return {(name, key): repr(each.value) for name, of in found for key, each in of.items()}

    assert values(spoils=True) == values(spoils=False)


@pytest.mark.parametrize("has_nodes", [True, False])
def test_where_every_graph_is_a_node_labels_are_what_they_were_before(has_nodes):
    single = Batch.from_data_list([graph(i, [0], 1) for i in range(3)])
    graphs_of = find_graph(single).with_labels(3)
    assert graphs_of.is_of_single_nodes
    assert not graphs_of.has_labels
    record = NodeRecord(frozenset(), -100)
    if has_nodes:
        record.add(OF_SEVERAL, SEVERAL.y, {HEAD: H}, None, {}, lambda: None)
    nodes = record.nodes_of(graphs_of)
    assert (nodes is not None and nodes.has_labels) == has_nodes
    assert record.nodes_of(find_graph(SEVERAL).with_labels(3)) is None
    record.reset()
    assert record.nodes_of(graphs_of) is None

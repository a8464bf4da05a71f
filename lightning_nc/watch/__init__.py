"""One network under observation; knows no Trainer.

- watch, recorder: what joins it all, and one stage of it.
- places, labels, mask, decided: what the user has named, and what a batch gives.
- paths, layers, channels, pools: where in the network, and how it becomes rows.
- linear, find_map: a head that was named, W and b.
- heads, sight, rows, graph: what could be a head that was not named.
- choice, by_loss, by_order: which of them is it.
- capture, hook, keep, batch, chunks: while the network runs.
- sense, order, agreement, parts, dropout: whether what came by can be what it is taken for.
"""

"""Which linear map is measured: the one that is certain, the same in all stages; else none."""

import copy
import re

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from support.training import BATCH, NUM_CLASSES, ROWS, Network, assert_close, digits, fit, trainer
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from lightning_nc import NeuralCollapseCallback, NeuralCollapseWarning


def refused(module, text, **settings):
    """A fit is refused with this text, before anything was trained."""
    before = {name: p.clone() for name, p in module.named_parameters()}
    with pytest.raises(ValueError, match=text) as told:
        fit(module, [NeuralCollapseCallback(**settings)])
    assert all(torch.equal(p, before[name]) for name, p in module.named_parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    return str(told.value)


# A head that never runs as a module


class Functional(Network):
    def forward(self, x):
        return F.linear(self.features(x), self.fc.weight, self.fc.bias)

    def note(self, stage, batch):
        return F.cross_entropy(self(batch[0]), batch[1])


class Attends(Functional):
    """In it, the output projection of the attention has a gradient, and never ran either."""

    def __init__(self):
        super().__init__()
        self.mix = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)

    def features(self, x):
        return self.mix(super().features(x)[:, None])[:, 0]


class Tied(L.LightningModule):
    """A language model whose head is its embedding."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(12, 16)
        self.body = nn.Sequential(nn.Linear(16, 24), nn.ReLU(), nn.Linear(24, 16))

    def training_step(self, batch, batch_idx):
        x, y = batch
        return F.cross_entropy((self.body(self.embedding(x)) @ self.embedding.weight.T).mT, y)

    validation_step = training_step

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("network", [Functional, Attends])
def test_a_head_that_is_applied_as_a_function_is_refused_by_its_weight(network):
    refused(network(), r"be certain .* as a function.*: 'fc\.weight' \(10 rows.*Set classifier")


def test_a_tied_embedding_is_refused_though_it_ran():
    tokens = torch.randint(0, 12, (24, 5), generator=torch.Generator().manual_seed(0))
    data = DataLoader(torch.utils.data.TensorDataset(tokens, tokens.roll(1, 1)), 8)
    with pytest.raises(
        ValueError, match=r"as a function.*'embedding\.weight' \(12 rows of a Embedding"
    ):
        fit(Tied(), [NeuralCollapseCallback()], train=data, val=data)


# Others of as many rows


class Teacher(Network):
    """A frozen copy that runs last."""

    def __init__(self):
        super().__init__()
        self.teacher = copy.deepcopy(self.fc).requires_grad_(False)

    def note(self, stage, batch):
        loss = super().note(stage, batch)
        with torch.no_grad():
            soft = self.teacher(self.features(batch[0])).softmax(1)
        return loss + F.cross_entropy(self.fc(self.features(batch[0])), soft)


class EarlyExit(Network):
    def __init__(self):
        super().__init__()
        self.exit = nn.Linear(32, NUM_CLASSES)

    def note(self, stage, batch):
        early = self.exit(self.hidden(self.frozen_norm(batch[0])).relu())
        return super().note(stage, batch) + F.cross_entropy(early, batch[1])


class Auxiliary(Network):
    """A head of as many rows for another loss, which runs last."""

    def __init__(self):
        super().__init__()
        self.aux = nn.Linear(16, NUM_CLASSES)

    def note(self, stage, batch):
        loss = super().note(stage, batch)
        return loss + 0.1 * self.aux(self.features(batch[0])).square().mean()


class LoRA(nn.Module):
    """Laid out as peft does: the sum of a frozen map and of a factored one."""

    def __init__(self, base, rank=2):
        super().__init__()
        self.base_layer = base.requires_grad_(False)
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, rank, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(rank, base.out_features, bias=False)})
        nn.init.zeros_(self.lora_B["default"].weight)

    def forward(self, x):
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


class Adapted(Network):
    """All of it is frozen, and the classifier has an adapter."""

    def __init__(self):
        super().__init__()
        self.requires_grad_(False)
        self.fc = LoRA(self.fc)

    def note(self, stage, batch):
        return F.cross_entropy(self(batch[0]), batch[1])


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (Teacher, r"'fc' could be it, and so could others: a teacher.*'teacher\.weight' \(10 rows"),
        (EarlyExit, r"several could be it: 'fc\.weight' \(10 .*'exit\.weight' \(10 "),
        (Auxiliary, r"several could be it: 'fc\.weight' \(10 .*'aux\.weight' \(10 "),
        (Adapted, r"so could others.* the base of an adapter.*'fc\.base_layer\.weight' \(10 rows"),
    ],
)
def test_where_others_could_be_it_all_of_them_are_named(network, text):
    assert "Set classifier" in refused(network(), text)


class Positions(Network):
    """A residual stream from a parameter of many rows to the head, as in a vision transformer."""

    def __init__(self):
        super().__init__()
        self.positions = nn.Parameter(0.1 * torch.randn(17, 16))
        self.block = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True, norm_first=True)

    def features(self, x):
        return self.block(super().features(x)[:, None] + self.positions).mean(1)


class Penalized(Network):
    """The squares of all weights and of the features are in the loss, and so is W W'."""

    def keep(self, stage, h, y, logits):
        super().keep(stage, h, y, logits)
        w = self.fc.weight
        self.penalty = h.square().mean() + sum(p.square().sum() for p in self.parameters())
        self.penalty = self.penalty + (w @ w.T - torch.eye(NUM_CLASSES)).square().sum()

    def note(self, stage, batch):
        return super().note(stage, batch) + 1e-4 * self.penalty


class Picks(Network):
    """The loss takes the entries of the labels, and a head of fewer rows is of no concern."""

    def __init__(self):
        super().__init__()
        self.value = nn.Linear(16, 1)

    def note(self, stage, batch):
        h, y = self.features(batch[0]), batch[1]
        logits = self.fc(h)
        self.keep(stage, h, y, logits)
        picked = logits.log_softmax(1)[torch.arange(len(y)), y]
        return self.value(h).square().mean() - picked.mean()


@pytest.mark.parametrize("network", [Positions, Penalized, Picks])
def test_what_is_certain_is_measured(network):
    module = network()
    run = fit(module, [NeuralCollapseCallback()])
    for stage in ("train_online", "val"):
        assert_close(run.callback_metrics, module.reference(stage, 1), stage)


class Rescaled(Network):
    """A factor for each class after the head, which changes the decisions."""

    def __init__(self):
        super().__init__()
        self.factor = nn.Parameter(torch.rand(NUM_CLASSES))

    def forward(self, x):
        return self.factor * super().forward(x)

    def note(self, stage, batch):
        return F.cross_entropy(self(batch[0]), batch[1])


class Mixed(Rescaled):
    """A fixed matrix after the head."""

    def forward(self, x):
        return self.fc(self.features(x)) @ (torch.eye(NUM_CLASSES) + 0.1)


class Spreads(Rescaled):
    """A sparse product over the rows after the head, as in a graph network."""

    def forward(self, x):
        neighbours = (torch.eye(len(x)) + torch.eye(len(x)).roll(1, 0)).to_sparse()
        return torch.sparse.mm(neighbours, self.fc(self.features(x)))


class Normalizes(Rescaled):
    def forward(self, x):
        return F.batch_norm(self.fc(self.features(x)), None, None, training=True)


class Prototypes(Network):
    """Distances to points that no product meets, in as many dimensions as there are classes."""

    def __init__(self):
        super().__init__(width=NUM_CLASSES)
        self.points = nn.Parameter(torch.randn(1, NUM_CLASSES, NUM_CLASSES))

    def note(self, stage, batch):
        h = self.neck(self.hidden(batch[0]).relu())
        return F.cross_entropy(-(h[:, None] - self.points).square().sum(-1), batch[1])


class FixedETF(Network):
    """The last layer is not trained."""

    def __init__(self):
        super().__init__()
        self.fc.requires_grad_(False)


@pytest.mark.parametrize(
    ("network", "text"),
    [
        (Spreads, r"of another kind is applied last: 'fc\.weight' \(10 rows"),
        (Normalizes, r"of another kind is applied last: 'fc\.weight' \(10 rows"),
        (Prototypes, r"'points' \(1 x 10 rows|several could be it"),
        (FixedETF, r"is applied last: 'fc\.weight' \(10 rows of a Linear, without gradient\)"),
        (Rescaled, r"something else is applied after the last one: 'factor'"),
        (Mixed, r"of another kind is applied last: 'fc\.weight' \(10 rows"),
    ],
)
def test_what_is_not_decided_by_the_last_linear_map_is_refused(network, text):
    refused(network(), text)


def test_the_number_of_classes_settles_it_where_only_one_has_as_many_rows():
    class Projects(Network):
        def __init__(self):
            super().__init__()
            self.project = nn.Linear(16, 24)

        def note(self, stage, batch):
            loss = super().note(stage, batch)
            return loss + 0.1 * self.project(self.features(batch[0])).square().mean()

    refused(Projects(), r"several could be it: .*'project\.weight' \(24 rows")
    module = Projects()
    run = fit(module, [NeuralCollapseCallback(num_classes=NUM_CLASSES)])
    assert_close(run.callback_metrics, module.reference("val", 1), "val")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("fc", r"but it is a LoRA\. Its output is the sum of 'base_layer', .*'lora_B\.default'"),
        ("fc.base_layer", r"a whole head, but 'fc' around it puts out something else"),
    ],
)
def test_no_part_of_an_adapter_is_taken_for_the_classifier_even_if_named(name, text):
    message = refused(Adapted(), text, classifier=name)
    assert "Did you mean" not in message


# The same in all stages


class AuxiliaryInTest(Network):
    """Outside of training another head of as many rows runs last, and a body is wider still."""

    def __init__(self):
        super().__init__()
        self.aux = nn.Linear(16, NUM_CLASSES)

    def test_step(self, batch, batch_idx):
        loss = super().test_step(batch, batch_idx)
        self.aux(self.features(batch[0]))
        return loss

    def validation_step(self, batch, batch_idx):
        loss = super().validation_step(batch, batch_idx)
        self.aux(self.features(batch[0]))
        return loss


def results_of(run, module, **settings):
    [result] = run.test(module, DataLoader(digits(ROWS, 96), BATCH), verbose=False, **settings)
    return result


def test_fit_and_test_measure_the_same_head_and_so_does_who_has_the_checkpoint(tmp_path):
    module = AuxiliaryInTest()
    keep = ModelCheckpoint(tmp_path)
    callback = NeuralCollapseCallback()
    run = fit(module, [callback, keep], enable_checkpointing=True, default_root_dir=tmp_path)
    assert_close(run.callback_metrics, module.reference("val", 1), "val")
    module.noted.clear()
    first = results_of(run, module)
    assert_close(first, module.reference("test", run.current_epoch), "test")

    # a process of its own: a fresh callback takes the checkpoint's choice
    other = AuxiliaryInTest()
    fresh = trainer([NeuralCollapseCallback(), ModelCheckpoint(tmp_path)], enable_checkpointing=True)
    assert results_of(fresh, other, ckpt_path=keep.best_model_path) == pytest.approx(first, rel=1e-5)

    # and without one, two could be it
    with pytest.raises(ValueError, match=r"'aux' .*ran last.* others could be it: 'fc\.weight' \(10"):
        results_of(trainer([NeuralCollapseCallback()]), AuxiliaryInTest())


def test_a_choice_of_another_network_is_not_taken():
    callback = NeuralCollapseCallback()
    fit(Network(), [callback])

    class Wider(Network):
        def __init__(self):
            super().__init__(width=24)
            self.fc, self.head = nn.Linear(24, 24), nn.Linear(24, NUM_CLASSES)

        def features(self, x):
            return self.fc(super().features(x))

        def forward(self, x):
            return self.head(self.features(x))

        def keep(self, stage, h, y, logits):
            pass

        def note(self, stage, batch):
            return F.cross_entropy(self(batch[0]), batch[1])

    results_of(trainer([callback]), Wider())
    assert callback.statistics["test"].num_features == 24
    assert callback._choice.name == "head"


# A head that is not W h + b


class Cosine(nn.Linear):
    def forward(self, x):
        return 8 * F.linear(F.normalize(x), F.normalize(self.weight))


class Margin(nn.Linear):
    def forward(self, x):
        return super().forward(x) - 0.1


class Quantized(nn.Linear):
    def forward(self, x):
        step = self.weight.detach().abs().max() / 127
        rounded = self.weight + ((self.weight / step).round() * step - self.weight).detach()
        return F.linear(x, rounded, self.bias)


class Merged(nn.Linear):
    """An adapter inside the layer itself, as loralib has it."""

    def __init__(self, width, rows):
        super().__init__(width, rows)
        self.weight.requires_grad_(False)
        self.A, self.B = nn.Parameter(torch.randn(2, width)), nn.Parameter(torch.randn(rows, 2))

    def forward(self, x):
        return super().forward(x) + x @ self.A.T @ self.B.T


@pytest.mark.parametrize("head", [Cosine, Margin, Quantized, Merged])
def test_a_head_that_is_not_w_h_plus_b_is_refused_even_if_named(head):
    module = Network()
    module.fc = head(16, NUM_CLASSES)
    refused(module, r"output of the classifier 'fc' to be W h \+ b, but they differ", classifier="fc")
    module = Network()
    module.fc = head(16, NUM_CLASSES)
    refused(module, r"W h \+ b, but they differ|so could others|several could|as a function")


def test_the_check_knows_how_coarse_bfloat16_is():
    module = Network()
    run = fit(module, [NeuralCollapseCallback()], precision="bf16-mixed")
    assert run.callback_metrics["nc0/num_samples/train_online"] == ROWS


# The W that the features met


class Swaps(Network):
    """Writes other weights inside each training step, past the version counter, as averages do."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        for p in self.fc.parameters():
            p.data.copy_(0.5 * p.data)
        return loss


@pytest.mark.parametrize("named", ["fc", None])
def test_weights_that_are_swapped_inside_a_step_are_those_that_the_features_met(named):
    module = Swaps()
    run = fit(module, [NeuralCollapseCallback(classifier=named)], max_epochs=1)
    assert_close(run.callback_metrics, module.reference("train_online", 0), "train_online")


class Overwrites(Network):
    """Changes the features in place after the head, where autograd keeps but their half."""

    def features(self, x):
        return super().features(x).float() * 1.0

    def keep(self, stage, h, y, logits):
        super().keep(stage, h, y, logits.float())
        h.add_(3.0)


def test_features_that_autocast_leaves_to_be_overwritten_are_those_that_the_head_met():
    module = Overwrites()
    run = fit(module, [NeuralCollapseCallback()], max_epochs=1, precision="bf16-mixed")
    mean = run.callback_metrics["nc1/within_between_ratio/train_online"]
    truth = module.reference("train_online", 0)["nc1/within_between_ratio"]
    assert float(mean) == pytest.approx(truth, rel=1e-5)


# Networks that are exported, lazy, or called in unusual ways


class Exports(Network):
    """Scripts its head wherever a run lets it."""

    def __init__(self):
        super().__init__()
        self.exported = []

    def script(self):
        self.exported.append(torch.jit.script(self.fc)(torch.zeros(2, 16)))

    on_validation_epoch_end = on_train_epoch_end = script

    def on_train_batch_end(self, outputs, batch, batch_idx):
        self.script()


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:DeprecationWarning")
def test_a_network_is_scripted_in_the_middle_of_a_fit():
    module = Exports()
    run = fit(module, [NeuralCollapseCallback(classifier="fc", layers=["neck"])])
    assert len(module.exported) == 2 * (ROWS // BATCH) + 2 + 2 + 1  # the sanity check's as well
    assert_close(run.callback_metrics, module.reference("val", 1), "val")


class TakesPairs(nn.Linear):
    """A linear layer of rows that come in two parts, or sparse."""

    def forward(self, x):
        x = torch.cat(x, 1) if isinstance(x, tuple) else x
        return F.linear(x.to_dense() if x.is_sparse else x, self.weight, self.bias)


@pytest.mark.parametrize("form", ["tuple", "sparse"])
def test_inputs_that_are_no_dense_rows_pass_by(form):
    class Odd(Network):
        def __init__(self):
            super().__init__()
            self.hidden = TakesPairs(64, 32)

        def features(self, x):
            x = self.drop(self.frozen_norm(x))
            x = (x[:, :30], x[:, 30:]) if form == "tuple" else x.to_sparse()
            return self.neck(self.norm(self.drop(self.hidden(x))).relu()).relu()

    module = Odd()
    run = fit(module, [NeuralCollapseCallback()])
    assert_close(run.callback_metrics, module.reference("val", 1), "val")


@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature")
@pytest.mark.parametrize("settings", [{}, {"classifier": "fc"}, {"layers": ["neck"]}])
def test_a_lazy_layer_is_measured_once_it_has_its_shape(settings):
    class Lazy(Network):
        def __init__(self):
            super().__init__()
            self.neck, self.fc = nn.LazyLinear(16), nn.LazyLinear(NUM_CLASSES)

    module = Lazy()
    run = fit(module, [NeuralCollapseCallback(**settings)])
    logged = {k: v for k, v in run.callback_metrics.items() if not k.endswith("/neck")}
    assert_close(logged, module.reference("val", 1), "val")


class Unlabelled(Network):
    def test_step(self, batch, batch_idx):
        self(batch[0] if isinstance(batch, list) else batch)


X, Y = digits(ROWS, 96).tensors


@pytest.mark.parametrize(
    ("data", "settings", "text"),
    [
        (DataLoader(X, BATCH), {}, "Expected labels as a tensor in the batch"),
        (DataLoader(X, BATCH), {"classifier": "fc", "target": 1}, "Expected labels as a tensor"),
        (
            DataLoader(torch.utils.data.TensorDataset(X[:, None].expand(-1, 2, -1).flatten(0, 1)[:96],
                                                      Y), BATCH, collate_fn=lambda rows: [
                torch.cat([torch.stack([x for x, _ in rows])] * 5), torch.stack([y for _, y in rows])]),
            {},
            "Expected one label per feature, but got 240",
        ),
    ],
)  # fmt: skip
def test_after_a_fit_a_test_without_labels_measures_nothing_and_says_it_once(data, settings, text):
    module, callback = Unlabelled(), NeuralCollapseCallback(**settings)
    run = fit(module, [callback])
    with pytest.warns(NeuralCollapseWarning) as told:
        run.test(module, data, verbose=False)
    said = [str(w.message) for w in told if issubclass(w.category, NeuralCollapseWarning)]
    assert len([words for words in said if text in words]) == 1
    assert not any(key.endswith("/test") for key in callback.history)
    # a callback that has measured nothing yet says at once that it cannot
    with pytest.raises(ValueError, match=text):
        trainer([NeuralCollapseCallback(classifier="fc", target=settings.get("target"))]).test(
            module, data, verbose=False
        )


# Optimized by hand


class Critic(Network):
    """A second loss with an optimizer and a head of its own."""

    def __init__(self, rows=NUM_CLASSES, first=False):
        super().__init__()
        self.automatic_optimization = False
        self.critic, self.first = nn.Linear(16, rows), first

    def training_step(self, batch, batch_idx):
        mine = lambda: self.note("train_online", batch)  # noqa: E731
        other = lambda: self.critic(self.features(batch[0])).square().mean()  # noqa: E731
        for loss in (other, mine) if self.first else (mine, other):
            self.optimizers().zero_grad()
            self.manual_backward(loss())
            self.optimizers().step()


@pytest.mark.parametrize("first", [True, False])
def test_what_has_still_to_enter_a_loss_is_a_doubt(first):
    refused(Critic(first=first), r"so could others.* the head of another loss: '(fc|critic)\.weight'")


class Toggles(Critic):
    """Takes the other optimizer's parameters out of a backward, as Lightning's example does."""

    def training_step(self, batch, batch_idx):
        self.fc.requires_grad_(False)
        self.optimizers().zero_grad()
        self.manual_backward(self.critic(self.features(batch[0])).square().mean())
        self.optimizers().step()
        self.fc.requires_grad_(True)
        self.manual_backward(self.note("train_online", batch))


def test_what_is_taken_out_of_a_backward_for_a_while_is_a_doubt_as_well():
    refused(Toggles(rows=12), r"so could others.* the head of another loss: 'fc\.weight'")


@pytest.mark.parametrize("first", [True, False])
def test_a_loss_whose_map_cannot_be_it_is_none(first):
    module = Critic(rows=3, first=first)
    run = fit(module, [NeuralCollapseCallback(num_classes=NUM_CLASSES)])
    assert_close(run.callback_metrics, module.reference("val", 1), "val")


# Ranks


def differ(rank, folder):
    module = Auxiliary()
    names = ["fc", "aux"]
    callback = NeuralCollapseCallback(classifier=names[rank])
    with pytest.warns(NeuralCollapseWarning, match="to measure the same modules") as told:
        run = fit(module, [callback], strategy="ddp", devices=2, default_root_dir=folder)
    words = next(str(w.message) for w in told if "the same modules" in str(w.message))
    values = {k: float(v) for k, v in run.callback_metrics.items() if k.startswith("nc")}
    return words, values


@pytest.mark.ddp
def test_ranks_that_measure_different_heads_of_one_shape_tell_no_value(two_processes, tmp_path):
    for rank, (words, values) in enumerate(two_processes.run(differ, str(tmp_path))):
        assert re.search(rf"this one measures the input of '{['fc', 'aux'][rank]}'\.", words)
        assert values
        assert all(value != value for value in values.values())

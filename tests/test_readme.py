"""README and docs/: blocks run as written, links lead somewhere, and tables are the code's."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from lightning_nc.functional import MEASURES, select
from lightning_nc.tasks import Multilabel
from lightning_nc.values.regression import RegressionEvidence
from lightning_nc.values.tag_evidence import TagEvidence

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
README = PAGES[0].read_text()
TRAINING = (DOCS / "training.md").read_text()
LABELS = (DOCS / "labels.md").read_text()
GRAPHS = (DOCS / "graphs.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()

# their blocks are no programs, or are run by tests of their own
NOT_RUN = {"contracts.md", "conversions.md", "models.md"}


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


PYTHON = [b for page in PAGES if page.name not in NOT_RUN for b in blocks("python", page.read_text())]


def prose(text):
    """A page without its blocks of code."""
    return re.sub(r"```.*?```", "", text, flags=re.DOTALL)


def words(text):
    """What a reader reads: all but the blocks of code, the table of keys and where links lead."""
    without_keys = re.sub(r"^\| key .*?\n\n", "", prose(text), flags=re.DOTALL | re.MULTILINE)
    without_targets = re.sub(r"\]\([^)]*\)", "]", without_keys)
    return [word for word in without_targets.split() if re.search(r"\w", word)]


def links_in(text):
    """Where links and pictures lead, other sites left out."""
    found = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"`[^`\n]*`", "", prose(text)))
    return [link for link in found if "://" not in link]


def anchors(text):
    """The headings, as a link names them."""
    heads = re.findall(r"^#+ (.+)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def broken_links(page):
    return [link for link in links_in(page.read_text()) if not leads_somewhere(page, link)]


def leads_somewhere(page, link):
    path, _, anchor = link.partition("#")
    target = page.parent / path if path else page
    return target.exists() and (not anchor or anchor in anchors(target.read_text()))


def test_the_table_lists_the_logged_keys_with_their_values_at_collapse():
    rows = {}
    for line in README.splitlines():
        if line.startswith("| `nc") and line.count("|") >= 4:
            cells = line.replace("\\|", "/").strip("|").split("|")
            for key in re.findall(r"`(nc\d/[a-z_]+)`", cells[0]):
                rows[key] = cells[-1].strip()
    default = {measure.key for measure in select(["default"])}
    assert default <= set(rows) <= set(MEASURES)
    assert len(rows) >= 24
    for key, collapse in rows.items():
        if key != "nc4/ncc_accuracy":
            assert collapse == MEASURES[key].at_collapse, key


def keys_of_labels(text):
    """By key the value at collapse in the tables of docs/labels.md; "_m" stands for 2 to 8 tags."""
    rows = {}
    for line in text.splitlines():
        if re.match(r"\| `\w+/", line):
            named, *_, collapse = line.strip("|").split("|")
            for key in re.findall(r"`([a-z\d]+/\w+)`", named):
                each = [key[:-1] + str(m) for m in range(2, 9)] if key.endswith("_m") else [key]
                rows |= dict.fromkeys(each, collapse.strip())
    return rows


@pytest.mark.parametrize("evidence", [TagEvidence, RegressionEvidence])
def test_the_tables_of_other_tasks_list_their_keys_with_their_values_at_collapse(evidence):
    rows = keys_of_labels(LABELS)
    assert {measure.key for measure in select(["default"], evidence)} <= set(rows) <= set(MEASURES)
    assert rows == {key: MEASURES[key].at_collapse for key in rows}


def test_the_table_of_graphs_lists_their_keys():
    told = {key for line in GRAPHS.splitlines() for key in re.findall(r"^\| `(graph/\w+)`", line)}
    errors = {key for key in MEASURES if key.startswith("graph/") and key.endswith("_se")}
    assert told == {key for key in MEASURES if key.startswith("graph/")} - errors
    assert {f"{key}_se" for key in told - {"graph/num_graphs"}} == errors


def test_every_key_of_the_mapping_exists():
    mapping = (ROOT / "docs" / "conversions.md").read_text()
    named = re.findall(r"`(nc\d/[a-z_]+)`", mapping)
    assert len(named) > 40
    assert set(named) <= set(MEASURES)


@pytest.mark.parametrize("block", [b for b in PYTHON if "L.Trainer(" in b])
def test_the_trainer_blocks_run(block, capsys):
    from support.training import BATCH, ROWS, Network, digits
    from torch.utils.data import DataLoader

    names = {
        "model": Network(),
        "train_loader": DataLoader(digits(), BATCH, shuffle=True),
        "val_loader": DataLoader(digits(ROWS, 96), BATCH),
    }
    quick = (
        "max_epochs=1, logger=False, accelerator='cpu', enable_checkpointing=False, log_every_n_steps=1"
    )
    exec(block.replace("L.Trainer(", f"L.Trainer({quick}, "), names)
    assert "nc1/cdnv/val" in names["trainer"].callback_metrics
    assert ("print" in block) == ("nc1/cdnv/val" in capsys.readouterr().out)


@pytest.mark.parametrize("block", [b for b in PYTHON if "L.Trainer(" not in b])
def test_the_other_python_blocks_run(block, capsys):
    exec(block, {})
    assert ("print" in block) == bool(capsys.readouterr().out)


def test_the_monitored_key_is_one_that_falls_from_the_start():
    for text in (README, TRAINING):
        # tests/callback/test_monitoring.py shows why
        assert re.findall(r'monitor="([^"]+)"', text) == ["nc1/cdnv/val"]
        told = text.split('monitor="')[1].split("\n- ")[0]
        assert re.search(r"`nc1/within_between_pinv`\s+may\s+rise\s+first", told)


def test_a_newcomer_reads_it_in_five_minutes():
    assert 800 < len(words(README)) <= 1500


def test_what_counts_as_a_word():
    text = "# Two words\n\n| key | what |\n|---|---|\n| `a` | b |\n\n[three](of/five.md) & `four`\n"
    assert len(words(text + "```python\nnot counted\n```\n")) == 4


def test_what_it_costs_is_from_the_whole_table():
    whole = {
        tuple(line.strip("|").split("|")[:2]) for line in (DOCS / "costs.md").read_text().splitlines()
    }
    part = README.split("## What it costs")[1].split("\n## ")[0]
    rows = [tuple(line.strip("|").split("|")) for line in part.splitlines() if line.startswith("| ")]
    assert len(rows) >= 4
    assert set(rows) <= whole


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page):
    assert broken_links(page) == []


def test_a_link_that_leads_nowhere_is_noticed(tmp_path):
    links = [
        "a.md",
        "b.md",
        "#here-it-is",
        "#there",
        "a.md#there",
        "a.md#here-it-is",
        "https://a.b/c.md",
    ]
    text = "# Here `it` is\n" + "".join(f"[x\ny]({link})" for link in links) + "`[x](no.md)`\n"
    (tmp_path / "a.md").write_text(text)
    assert broken_links(tmp_path / "a.md") == ["b.md", "#there", "a.md#there"]


def test_the_readme_leads_to_every_page():
    linked = {link.partition("#")[0] for link in links_in(README)}
    assert {page.relative_to(ROOT).as_posix() for page in PAGES[1:]} <= linked


def configured(text):
    """The callback of the only config of a page."""
    from jsonargparse import ArgumentParser
    from lightning.pytorch import Callback

    from lightning_nc import NeuralCollapseCallback

    [block] = blocks("yaml", text)
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    parsed = parser.parse_object({"callbacks": yaml.safe_load(block)["trainer"]["callbacks"]})
    # the newer name of the same method, where there is one
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    [callback] = instantiate(parsed).callbacks
    assert isinstance(callback, NeuralCollapseCallback)
    return callback


def test_the_yaml_block_configures_the_callback():
    callback = configured(README)
    assert callback._plan.frozen_every == 10
    assert callback._plan.places.layers == {"backbone.*": "spatial_mean"}


def test_the_yaml_block_of_graphs_configures_pools_and_masks():
    places = configured(GRAPHS)._plan.places
    assert places.layers == {"convs.*": ["nodes", "neighborhood_mean"]}
    assert places.mask == {"train_online": "train_mask", "val": "val_mask"}
    assert places.names_graphs


def test_the_yaml_block_of_labels_configures_its_task():
    task = configured(LABELS)._plan.task
    assert isinstance(task, Multilabel)
    assert (task.settings.threshold, task.settings.penalties.features) == (0.5, 5e-6)


def test_the_oldest_versions_are_those_of_the_package():
    project = (ROOT / "pyproject.toml").read_text()
    lines = [line for block in blocks("sh", CONTRIBUTING) for line in block.splitlines()]
    [command] = [line for line in lines if "lightning==" in line]
    told = dict(re.findall(r'"?([a-z-]+)(?:\[signatures\])?==([\d.]+)', command))
    for name in ("lightning", "torchmetrics", "jsonargparse"):
        [least] = re.findall(rf'"{name}(?:\[signatures\])?>=([\d.]+)', project)
        assert told[name].removesuffix(".0") == least.removesuffix(".0")
    assert told["pytorch-lightning"] == told["lightning"]


def test_both_commands_are_there_and_start_from_nothing():
    commands = [line for block in blocks("bash") for line in block.splitlines()]
    assert len(commands) == 2
    for command, last in zip(commands, ["examples/digits.py", "-m pytest -n 2"], strict=True):
        assert command.startswith("python3 -m venv .venv && ")
        assert command.endswith(f".venv/bin/python {last}")


def test_what_contributing_names_is_there():
    named = set(re.findall(r"`([a-z_/]+\.py)`", CONTRIBUTING))
    assert len(named) > 15
    for path in named:
        assert (ROOT / path).exists() or (ROOT / "lightning_nc" / path).exists(), path
    [block] = blocks("python", CONTRIBUTING)
    table = ast.parse((ROOT / "lightning_nc/functional/table/collapse.py").read_text())
    line = ast.dump(ast.parse(block.strip(), mode="eval").body)
    assert any(ast.dump(node) == line for node in ast.walk(table) if isinstance(node, ast.Call))

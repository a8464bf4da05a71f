"""The README's blocks run as written, and its table is the table of measures."""

import ast
import re
from pathlib import Path

import pytest
import yaml

from lightning_nc.functional import MEASURES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()


def blocks(language, text=README):
    return re.findall(rf"```{language}\n(.*?)```", text, flags=re.DOTALL)


def test_the_table_lists_the_logged_keys_with_their_values_at_collapse():
    rows = {}
    for line in README.splitlines():
        if line.startswith("| `nc") and line.count("|") >= 4:
            cells = line.replace("\\|", "/").strip("|").split("|")
            for key in re.findall(r"`(nc\d/[a-z_]+)`", cells[0]):
                rows[key] = cells[-1].strip()
    default = {key for key, measure in MEASURES.items() if measure.default}
    assert default <= set(rows) <= set(MEASURES)
    assert len(rows) >= 24
    for key, collapse in rows.items():
        if key != "nc4/ncc_accuracy":
            assert collapse == MEASURES[key].at_collapse, key


def test_every_key_of_the_mapping_exists():
    mapping = (ROOT / "docs" / "conversions.md").read_text()
    named = re.findall(r"`(nc\d/[a-z_]+)`", mapping)
    assert len(named) > 40
    assert set(named) <= set(MEASURES)


def test_the_trainer_block_runs(monkeypatch):
    from support.training import BATCH, ROWS, Network, digits
    from torch.utils.data import DataLoader

    [block] = [b for b in blocks("python") if "L.Trainer" in b]
    names = {
        "model": Network(),
        "train_loader": DataLoader(digits(), BATCH, shuffle=True),
        "val_loader": DataLoader(digits(ROWS, 96), BATCH),
    }
    quick = "callbacks=[NeuralCollapseCallback()], max_epochs=1, logger=False, accelerator='cpu', "
    quick += "enable_checkpointing=False, log_every_n_steps=1"
    exec(block.replace("callbacks=[NeuralCollapseCallback()]", quick), names)
    assert "nc1/cdnv/val" in names["trainer"].callback_metrics


@pytest.mark.parametrize("block", [b for b in blocks("python") if "L.Trainer" not in b])
def test_the_other_python_blocks_run(block, capsys):
    exec(block, {})
    assert ("print" in block) == bool(capsys.readouterr().out)


def test_the_monitored_key_is_one_that_falls_from_the_start():
    monitored = [key for block in blocks("python") for key in re.findall(r'monitor="([^"]+)"', block)]
    assert monitored == ["nc1/cdnv/val"]  # tests/callback/test_monitoring.py shows why
    told = README.split("**Monitoring.**")[1].split("- With")[0]
    assert "`nc1/within_between_pinv` may rise first" in told


def test_the_yaml_block_configures_the_callback():
    from jsonargparse import ArgumentParser
    from lightning.pytorch import Callback

    from lightning_nc import NeuralCollapseCallback

    [block] = blocks("yaml")
    parser = ArgumentParser()
    parser.add_argument("--callbacks", type=list[Callback])
    parsed = parser.parse_object({"callbacks": yaml.safe_load(block)["trainer"]["callbacks"]})
    # the newer name of the same method, where there is one
    instantiate = getattr(parser, "instantiate", None) or parser.instantiate_classes
    [callback] = instantiate(parsed).callbacks
    assert isinstance(callback, NeuralCollapseCallback)
    assert callback._plan.frozen_every == 10
    assert callback._plan.places.layers == {"backbone.*": "spatial_mean"}


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
    table = ast.parse((ROOT / "lightning_nc/functional/table.py").read_text())
    line = ast.dump(ast.parse(block.strip(), mode="eval").body)
    assert any(ast.dump(node) == line for node in ast.walk(table) if isinstance(node, ast.Call))

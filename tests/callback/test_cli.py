"""The LightningCLI example: its configs run, layer and print, and what is wrong in them is named."""

import importlib
import inspect
import math
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from docstring_parser import parse
from lightning.pytorch.callbacks import ModelCheckpoint

from lightning_nc import NeuralCollapseCallback
from lightning_nc.functional.select import select

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "examples" / "cli" / "configs").glob("*.yaml"))
OURS = "lightning_nc.NeuralCollapseCallback"
QUICK = [
    "--trainer.max_epochs=1", "--trainer.enable_progress_bar=false",
    "--trainer.enable_model_summary=false",
]  # fmt: skip


class Undocumented(NeuralCollapseCallback):
    """For the test of the test."""

    def __init__(self, unsaid: int = 0, **kwargs):
        super().__init__(**kwargs)


@pytest.fixture
def main(monkeypatch, tmp_path):
    """The program's function, with what it and Lightning change in the process put back."""
    monkeypatch.syspath_prepend(ROOT / "examples" / "cli")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py"])
    # what Lightning calls in the newest jsonargparse
    monkeypatch.setenv("JSONARGPARSE_DEPRECATION_WARNINGS", "off")
    for name in ("PL_GLOBAL_SEED", "PL_SEED_WORKERS"):
        monkeypatch.setenv(name, "0")
    threads = torch.get_num_threads()
    yield importlib.import_module("train").main
    torch.set_num_threads(threads)
    for name in ("train", "own"):
        sys.modules.pop(name, None)


@pytest.fixture
def printed(main, capsys):
    """What --print_config prints."""

    def print_config(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit:
            main([*arguments, "--print_config"])
        assert exit.value.code == 0
        return capsys.readouterr().out

    return print_config


def command(name):
    """The arguments in the comment at the top of a config."""
    [config] = [config for config in CONFIGS if config.stem == name]
    first = config.read_text().replace("\\\n#", "").splitlines()[0]
    hash_sign, python, program, *arguments = shlex.split(first)
    assert (hash_sign, python, program) == ("#", "python", "examples/cli/train.py")
    assert str(config.relative_to(ROOT)) in arguments
    return [str(ROOT / a) if a.endswith(".yaml") else a for a in arguments]


def finite_values(cli):
    values = {key: value.item() for key, value in cli.trainer.callback_metrics.items()}
    assert all(map(math.isfinite, values.values())), values
    return values


def callbacks(config):
    return {c["class_path"]: c["init_args"] for c in config["trainer"]["callbacks"]}


DEFAULT = {measure.key for measure in select(["default"])}
STAGES = {
    "collapse": ["train", "train_online", "val"],
    "base": ["train_online", "val"],
    "watch": ["train_online", "val"],
    "short": ["train_online", "val"],
    "functions": ["train_online", "val"],
}


@pytest.mark.parametrize("name", [config.stem for config in CONFIGS])
def test_every_config_runs_by_the_command_at_its_top(name, main, tmp_path):
    # one with its logger is enough: pictures take their time
    logger = [] if name == "collapse" else ["--trainer.logger=false"]
    cli = main([*command(name), *QUICK, *logger])
    values = finite_values(cli)
    assert cli.trainer.global_step == 1437 // cli.datamodule.batch_size
    measured = {key.split("/")[2] for key in values if key.startswith("nc")}
    assert measured == set(STAGES[name])
    for stage in measured:
        assert {f"{key}/{stage}" for key in DEFAULT} <= set(values)
    curves = list((tmp_path / "runs" / "cli").glob("**/events.*"))
    assert len(curves) == (name == "collapse")


def test_functions_of_ones_own_and_layers_by_name_are_measured(main):
    cli = main([*command("functions"), *QUICK])
    values = finite_values(cli)
    bold = sum((batch[0].mean(dim=1) > 0.3).sum().item() for batch in cli.datamodule.val_dataloader())
    assert 0 < values["nc0/num_samples/val"] == bold < 360
    for stage in ("train_online", "val"):
        assert values[f"custom/widest_class/{stage}"] > values[f"nc1/within_between_ratio/{stage}"] > 0
        assert f"nc1/variability_collapse_index/{stage}" in values
        # the second block's output is the head's input
        shallow, deep = (values[f"nc1/cdnv/{stage}/backbone.{i}"] for i in (0, 1))
        assert shallow != values[f"nc1/cdnv/{stage}"]
        assert deep == pytest.approx(values[f"nc1/cdnv/{stage}"], rel=1e-4)


def test_the_program_run_from_anywhere_knows_the_short_name_and_the_module_beside_it(tmp_path):
    program = [sys.executable, str(ROOT / "examples" / "cli" / "train.py"), *command("short"), *QUICK]
    own = "--trainer.callbacks.target=own.labels_of_bold_digits"
    # a config of an earlier run without a logger is no reason to fail
    (tmp_path / "config.yaml").touch()
    done = subprocess.run([*program, own], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "`max_epochs=1` reached" in done.stderr
    saved = yaml.safe_load((tmp_path / "config.yaml").read_text())
    assert callbacks(saved)[OURS]["target"] == "own.labels_of_bold_digits"


def test_a_layer_of_config_adds_the_callback_and_keeps_the_rest(printed, main):
    both = command("watch")
    base = yaml.safe_load(printed(*both[:3]))
    layered = yaml.safe_load(printed(*both))
    added = [c for c in layered["trainer"]["callbacks"] if c not in base["trainer"]["callbacks"]]
    assert [c["class_path"] for c in added] == [OURS]
    assert added[0]["init_args"]["every_n_epochs"] == 2
    assert base["trainer"]["callbacks"]
    layered["trainer"]["callbacks"] = [c for c in layered["trainer"]["callbacks"] if c not in added]
    assert layered == base

    cli = main([*both, *QUICK, "--trainer.logger=false"])
    [checkpoint] = [c for c in cli.trainer.callbacks if isinstance(c, ModelCheckpoint)]
    assert checkpoint.monitor == "val_loss"
    assert checkpoint.best_model_path
    assert sum(isinstance(c, NeuralCollapseCallback) for c in cli.trainer.callbacks) == 1
    assert (cli.model.head.in_features, cli.model.hparams.dropout) == (64, 0.1)


@pytest.mark.parametrize("name", [config.stem for config in CONFIGS])
def test_a_printed_config_gives_the_same_configuration(name, printed, tmp_path):
    again = tmp_path / "printed.yaml"
    again.write_text(printed(*command(name)))
    assert printed("fit", "--config", str(again)) == again.read_text()
    config = yaml.safe_load(again.read_text())
    settings = callbacks(config)[OURS]
    assert set(settings) == set(inspect.signature(NeuralCollapseCallback).parameters)
    said = [yaml.safe_load(Path(path).read_text()) for path in command(name) if path.endswith(".yaml")]
    for layer in said:
        trainer = layer["trainer"]
        for callback in [*trainer.get("callbacks", []), *trainer.get("callbacks+", [])]:
            if callback["class_path"].endswith("NeuralCollapseCallback"):
                assert callback.get("init_args", {}).items() <= settings.items()


def help_texts(out):
    """The text of each argument, less its type and default."""
    entries = re.findall(
        r"^  --trainer\.callbacks\.(?:init_args\.)?(\w+) (.*?)\(type:", out, re.M | re.S
    )
    texts = {}
    for name, entry in entries:
        # the names of an option and its values end where the line does, or two spaces before the text
        texts[name] = " ".join(re.split(r"\n|  ", entry, maxsplit=1)[-1].split())
    return texts


def undocumented(printed_help, callback):
    shown = help_texts(printed_help)
    documented = {p.arg_name: " ".join(p.description.split()) for p in parse(callback.__doc__).params}
    arguments = set(inspect.signature(NeuralCollapseCallback).parameters) | set(shown)
    return {name for name in arguments if not shown.get(name) or shown[name] != documented.get(name)}


def ask_for_help(main, capsys, monkeypatch, class_path):
    monkeypatch.setenv("COLUMNS", "2000")
    with pytest.raises(SystemExit) as exit:
        main(["fit", f"--trainer.callbacks.help={class_path}"])
    assert exit.value.code == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("name", [OURS, "NeuralCollapseCallback"])
def test_help_shows_every_argument_with_the_text_of_the_docstring(main, capsys, monkeypatch, name):
    out = ask_for_help(main, capsys, monkeypatch, name)
    assert "Measures neural collapse (NC1 to NC4) while a LightningModule trains" in out
    assert not undocumented(out, NeuralCollapseCallback)


def test_an_argument_without_a_text_would_be_noticed(main, capsys, monkeypatch):
    out = ask_for_help(main, capsys, monkeypatch, f"{__name__}.Undocumented")
    assert undocumented(out, NeuralCollapseCallback) == {"unsaid"}


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"frozen_every": 3},
            r"""Option 'frozen_every' is not accepted|No action for key "frozen_every" """,
        ),
        (
            {"every_n_epochs": "two"},
            r"""key "every_n_epochs":\s+Expected a <class 'int'>. Got value: two""",
        ),
        ({"layers": 3}, r"""key "layers":\s+Does not validate against any .*Given value: 3"""),
        ({"online": "always"}, r"""key "online":\s+Expected a <class 'bool'>. Got value: always"""),
        (
            {"measures": "default"},
            r"""key "measures":\s+Expected a <class 'list'>. Got value: default""",
        ),
    ],
)
def test_a_wrong_name_or_type_is_refused_by_its_name(settings, text, main, capsys, tmp_path):
    wrong = {"trainer": {"callbacks": [{"class_path": OURS, "init_args": settings}]}}
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(wrong))
    with pytest.raises(SystemExit) as exit:
        main(["fit", "--config", "wrong.yaml"])
    assert exit.value.code == 2
    assert re.search(text, capsys.readouterr().err, re.S)


def test_a_misspelled_class_is_refused_by_its_name(main, capsys):
    with pytest.raises(SystemExit) as exit:
        main(["fit", "--trainer.callbacks+=lightning_nc.NeuralCollapsCallback"])
    assert exit.value.code == 2
    assert "'lightning_nc' has no attribute 'NeuralCollapsCallback'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("setting", "text"),
    [
        ("every_n_epochs=0", "Expected every_n_epochs to be at least 1, but got 0"),
        ("task=ranking", "Expected task to be one of .*, but got 'ranking'"),
        ("measures=[nc1/cdnw]", "Expected measures to name .* got 'nc1/cdnw'. Did you mean 'nc1/cdnv'"),
    ],
)
def test_a_wrong_value_is_refused_by_the_callback_itself(setting, text, main):
    with pytest.raises(ValueError, match=text):
        main(["fit", "--trainer.callbacks+=NeuralCollapseCallback", f"--trainer.callbacks.{setting}"])

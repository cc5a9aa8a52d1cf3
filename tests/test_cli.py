import signal
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from commands import slowness

import amu_experiments.cells
import amu_experiments.tasks
from amu_experiments import sweeps
from amu_experiments.analysis import report
from amu_experiments.cli import main
from amu_experiments.conf_files import choices
from amu_experiments.options import ConfigurationError
from amu_experiments.overrides import load


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty folder, in which the commands are given."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def trained(monkeypatch):
    """The configurations that would have been trained; a seed of 13 fails, 14 is a fault, 15 is Ctrl-C, 16 too much."""
    configurations = []

    def run(config):
        configurations.append(config)
        errors = {
            13: ConfigurationError("no data\nhere"),
            14: RuntimeError("a fault"),
            15: KeyboardInterrupt(),
            16: MemoryError("no 4 TiB to be had"),
        }
        if config["seed"] in errors:
            raise errors[config["seed"]]
        return SimpleNamespace(folder=config["results_dir"])

    def prepared(config):
        return SimpleNamespace(config=config, folder=Path("nowhere"), trials=[config["seed"]])

    monkeypatch.setattr(sweeps, "prepare", prepared)
    for name, function in (("training.run", run), ("analysis.tables.run_table", str)):
        module, _, function_name = name.rpartition(".")
        stand_in = ModuleType(f"amu_experiments.{module}")
        setattr(stand_in, function_name, function)
        monkeypatch.setitem(sys.modules, stand_in.__name__, stand_in)
    return configurations


# Mistakes ---------------------------------------------------------------------------------------------------

TOP = (
    "a run has trials, seed, backend, device, instructions, threads, processes, results_dir, stop_signals, "
    "stop_seconds, training, model, task"
)
TASKS = "amu-run --help lists them"

WRONG = {
    "": "no task is given; write task=NAME (amu-run --help lists the tasks)",
    "task=": f"task=: no such task; {TASKS}",
    "task=addng": f"task=addng: no such task; {TASKS} (did you mean adding?)",
    "task=[adding]": f"{TASKS} (did you mean adding?)",
    "task=adding model=lstn": "model=lstn: no such model; amu-run --help lists them (did you mean lstm?)",
    "task=adding experiment=none/such": "experiment=none/such: no such experiment",
    "task=adding foo=1": f"foo=1: no such key; {TOP}",
    "task=adding +foo=1": f"foo=1: no such key; {TOP}",
    "task=adding ++foo=1": f"foo=1: no such key; {TOP}",
    "task=adding +trials=3": "+trials=3: keys cannot be added; write trials=3",
    "task=adding ~trials": "~trials: a key cannot be removed",
    "task=adding learning_rate=0.1": "did you mean training.learning_rate?",
    "task=adding trainig.learning_rate=0.1": "did you mean training.learning_rate?",
    "task=adding training.lerning_rate=0.1": "did you mean training.learning_rate?",
    "task=adding training={lr:0.1}": "training.lr=0.1: no such key; training has batch_size, ",
    "task=adding model.hiden=3": "model.hiden=3: no such key; model amu has units, parameters, layers, cell, ",
    "task=adding model=lstm model.gradient=full": "model.gradient=full: no such key; model lstm has ",
    "task=adding task.variant=noisy_target": "no such key; task adding has problem, form, ",
    "task=adding model.cell=lstm": "model.cell=lstm: must be amu here (model=NAME chooses another,",
    "task=adding trials=ten": "trials=ten: must be a whole number from 1 to 10000",
    "task=adding trials=": "trials=: must be a whole number from 1 to 10000",
    "task=adding trials.x=3": 'trials={"x": 3}: must be a whole number from 1 to 10000',
    "task=adding training.learning_rate=-1": "training.learning_rate=-1: must be a number above 0",
    "task=adding training.learning_rate=nan": "training.learning_rate=nan: must be a number above 0",
    "task=adding training.optimizer=adamw": "training.optimizer=adamw: must be one of adam, rmsprop, sgd",
    "task=adding training.stop=erc": "training.stop=erc: must be one of solved, or null",
    "task=adding model.units=0": "model.units=0: must be a whole number from 1 to 1000000000, or null",
    "task=adding model.parameters=null": "one of them must be a number",
    "task=adding model.units=5 model.parameters=100": "has no effect beside model.units=5",
    "task=adding task.form=2001": "task.form=2001: must be one of modern, 1997",
    "task=two_sequence task.targets.noise_free=[a,b]": "task.targets.noise_free[0]=a: must be a number",
    "task=adding results_dir=???": "Missing mandatory value: results_dir",
    "task=adding trials=${seeds}": "Interpolation key 'seeds' not found",
    "task=adding trials": "trials: not understood; write key=value",
    "task=adding trials=a(b": "trials=a(b: not understood; write key=value; quotes around a value are for",
    "task=temporal_order task.positions.6a=[[1,2],[3,4]]": '"task.positions={6a: [[1,2],[3,4]]}"',
    "experiment=null": "no task is given; write task=NAME",
    "-m task=adding seed=range(0,5,0)": "seed=range(0,5,0): not understood",
    "task=adding seed=2147483647 trials=2": "seed=2147483647, trials=2: the last trial's number must be 2147483647",
    "task=gun_point task.criteria.good=null": "must be a comparison (<, <=, ==, >=, >), a space and a number, such",
    "task=gun_point task.criteria={1:{accuracy:'>=1e400'}}": "task.criteria.1.accuracy=>=1e400: must be a comparison",
    "task=adding training.learning_rate='0.1'": 'training.learning_rate="0.1": must be a number above 0',
    "task=adding training.learning_rate=3e38": "must be a number above 0 (from 1e-37 to 1e+30)",
    "task=adding trials=3 trials=4": "trials=3 and trials=4: trials is given twice",
    "task@x=adding": "task@x=adding: write task=adding",
    "task=adding hydra.run.dir=x": "of Hydra's keys only hydra/launcher and hydra.launcher.* can be set",
    "-m task=adding +hydra.sweeper.params.seed=1,2": "of Hydra's keys only hydra/launcher and hydra.launcher.*",
    "task=adding hydra/launcher=null": "hydra/launcher=null",
    "task=adding hydra.launcher.foo=3": "Could not override 'hydra.launcher.foo'.",
    "task=adding hydra/launcher=cluster": "Could not find 'hydra/launcher/cluster'",
    "task=adding model=amu,lstm": "model=amu,lstm: several values are a sweep; add -m",
    "task=adding hydra.mode=MULTIRUN": "a sweep needs the flag -m",
    "-m task=adding,addng": f"task=addng: no such task; {TASKS}",
    "-m task=adding training.learning_rate=0.1,-1": "training.learning_rate=-1: must be a number above 0",
    "-m task=adding model=amu,lstm model.neurons_per_unit=2": "model lstm has units, ",
    "-m task=adding seed=interval(0,1)": "sweep over single values",
    "-m task=adding model=glob(x*)": "the sweep is empty",
    "task=adding --trials 3": "unrecognized arguments: --trials 3; keys are written key=value",
    "task=adding --cfg everything": "invalid choice: 'everything'",
    "task=adding --cfg job -m": "--cfg and --multirun: give only one of them",
    "task=adding --resolve": "--resolve: works only with --cfg",
    "task=adding --config-name=mine": "--config-name: does not work here",
    "task=adding --config-dir=none": "--config-dir none: no such folder",
    "task=adding --config-dir=": "--config-dir : no such folder",
    "task=adding --package model": "--package: works only with --cfg",
    "task=adding --hydra-help --cfg job": "--cfg and --hydra-help: give only one of them",
    "task=adding --shell-completion": "--shell-completion: needs install=SHELL or uninstall=SHELL",
    "--shell-completion install=fish9": "--shell-completion: needs install=SHELL or uninstall=SHELL",
    "task=adding trials=１": 'trials="１": must be a whole number from 1 to 10000',
    "task=adding trials=10001": "trials=10001: must be a whole number from 1 to 10000",
    "task=adding seed=2147483648": "seed=2147483648: must be a whole number from 0 to 2147483647",
    "task=adding task.T=1e9": "task.T=1000000000.0: must be a whole number from 2 to 1000000",
    "task=adding training.learning_rate=1e39": "training.learning_rate=1e+39: must be a number above 0 (from 1e-37 to",
    "task=adding training.learning_rate=1e-40": "training.learning_rate=1e-40: must be a number above 0 (from 1e-37 to",
    "task=adding training.learning_rate=1e400": "training.learning_rate=inf: must be a number above 0",
    "task=adding training.clip_norm=1e300": "training.clip_norm=1e+300: must be a number above 0 (from 1e-37 to 3e+38)",
    "task=adding model.initial_range=1e300": "model.initial_range=1e+300: must be a number above 0",
    "task=two_sequence task.targets.noise_free=[1e300,0]": "noise_free[0]=1e+300: must be a number, 3e+38 at most",
    "task=two_sequence task.criteria={}": "task.criteria={}: changes nothing, since groups are merged",
    "task=adding training={}": "training={}: changes nothing",
    "task=adding training=[]": "training=[]: no such training; choose one of adam, ",
    "task=embedded_reber task.targets=all": "task.targets=all: must be one of next, legal",
    "task=long_lag task.variant=2c task.trigger_probability=1": "must be a number between 0 and 1",
    "task=adding results_dir=": "results_dir=: must be text that is not empty",
    "task=adding trials=~": "trials=~: must be a whole number from 1",
    "experiment=adding/lstn": "amu-run --help lists them (did you mean adding/lstm?)",
    "-m task=adding seed=range(0,3),x": "seed=range(0,3),x: not understood; sweep over single values",
    "-m task=adding model.units=2,0": "model.units=0: must be a whole number from 1",
}


GROUP = "must be a group of keys (modern, 1997)"
NO_TRAINING = "no such training; choose one of adam, default, sgd"
UNREADABLE = "not understood; write key=value; quotes around a value"
SEED = "must be a whole number from 0 to 2147483647"

WRONG |= {
    # A group replaced, then a key of it.
    "task=adding task.criteria=null": f"task.criteria=null: {GROUP}",
    "task=adding task.criteria=3 task.criteria.a=1": f"task.criteria=3: {GROUP}",
    "-m task=adding task.criteria=null task.T=20,30": f"task.criteria=null: {GROUP}",
    "task=adding task.criteria.modern.solved={mse:'<1'} task.criteria=[1]": f"task.criteria=[1]: {GROUP}",
    "task=adding task.criteria=${model}": f"task.criteria=${{model}}: {GROUP}",
    "task=adding training=null training.max_sequences=20": f"training=null: {NO_TRAINING}",
    "task=adding training=3 training.stop=null": f"training=3: {NO_TRAINING}",
    "task=adding training=adm": f"training=adm: {NO_TRAINING} (did you mean adam?)",
    "task=adding training=${model}": f"training=${{model}}: {NO_TRAINING}",
    "task=adding training={batch_size:2} training.batch_size=3": "training.batch_size is given twice",
    "task=adding model={} model.units=3": "model={}: changes nothing",
    "task=adding model={unit:3}": "model.unit=3: no such key",
    "task=null": "task=null: no such task",
    "model=null task=adding": "model=null: no such model",
    # Numbers.
    "task=adding seed=0x10": f"seed=0x10: {SEED}",
    "task=adding seed=0b1": f"seed=0b1: {SEED}",
    "task=adding seed=1_0_": f"seed=1_0_: {SEED}",
    "task=adding seed=٣": f'seed="٣": {SEED}',
    "task=adding seed=1e5000": f"seed=inf: {SEED}",
    "task=adding seed=nan": f"seed=nan: {SEED}",
    "task=adding seed=-inf": f"seed=-inf: {SEED}",
    "task=adding seed=str(3)": f'seed="3": {SEED}',
    "task=adding seed=float(nan)": f"seed=nan: {SEED}",
    "task=adding seed='1'": f'seed="1": {SEED}',
    "task=adding threads=1.5": "threads=1.5: must be a whole number from 1 to 1024, or null",
    "task=adding training.learning_rate=.nan": "training.learning_rate=.nan: must be a number above 0",
    "task=adding task.tolerance=nan": "task.tolerance=nan: must be a number above 0",
    # Signs.
    "task=adding +": f"+: {UNREADABLE}",
    "task=adding ++": f"++: {UNREADABLE}",
    "task=adding =": f"=: {UNREADABLE}",
    "task=adding =3": f"=3: {UNREADABLE}",
    "task=adding @x=3": f"@x=3: {UNREADABLE}",
    "task=adding ==3": f"==3: {UNREADABLE}",
    "task=adding trials==3": "trials==3: must be a whole number from 1 to 10000",
    "task=adding trials:3": f"trials:3: {UNREADABLE}",
    "task=adding -3": f'"-3": {UNREADABLE}',
    "task=adding .": f".: {UNREADABLE}",
    "task=adding ..trials=1": f"..trials=1: {UNREADABLE}",
    "task=adding trials.=1": f"trials.=1: {UNREADABLE}",
    "task=adding training..stop=null": f"training..stop=null: {UNREADABLE}",
    "task=adding training[stop]=null": f"training[stop]=null: {UNREADABLE}",
    "task=adding task[0]=1": f"task[0]=1: {UNREADABLE}",
    "task=adding seed=1,": f"seed=1,: {UNREADABLE}",
    'task="adding': f'task="adding: {UNREADABLE}',
    "task=adding,": f"task=adding,: {UNREADABLE}",
    # Adding, removing, packages.
    "~task": "~task: a key cannot be removed",
    "task=adding ~model": "~model: a key cannot be removed",
    "task=adding ~training.stop=null": "~training.stop=null: a key cannot be removed",
    "task=adding ~": f"~: {UNREADABLE}",
    "+task=adding": "+task=adding: keys cannot be added; write task=adding",
    "task=adding ++model=lstm": "++model=lstm: keys cannot be added; write model=lstm",
    "task=adding ++trials=3": "++trials=3: keys cannot be added; write trials=3",
    "task=adding +task.foo=3": "task.foo=3: no such key; task adding has ",
    "task=adding model@y=lstm": "model@y=lstm: write model=lstm",
    "task=adding trials@x=3": "trials@x=3: write trials=3",
    "task=adding +training.seed@x=3": "+training.seed@x=3: write training.seed=3",
    "task=adding model@model:x=lstm": f"model@model:x=lstm: {UNREADABLE}",
    # References.
    "task=adding trials=${seed}": "trials=0: must be a whole number from 1 to 10000",
    "task=adding trials=${": f"trials=${{: {UNREADABLE}",
    "task=adding trials=${}": f"trials=${{}}: {UNREADABLE}",
    "task=adding trials=$": "trials=$: must be a whole number",
    "task=adding trials=${oc.env:NOT_SET_ANYWHERE}": "Environment variable 'NOT_SET_ANYWHERE' not found",
    "task=adding trials=${oc.env}": "trials: Interpolation key 'oc.env' not found",
    "task=adding trials=${oc.env:A,B,C,D}": "trials: TypeError raised while resolving interpolation",
    "task=adding trials=${oc.decode:[}": "mismatched input '}'",
    "task=adding trials=${nothing:1}": "trials: Unsupported interpolation type nothing",
    "task=adding trials=${hydra:job.name}": "HydraConfig was not set",
    "task=adding trials=${trials}": "trials: Recursive interpolation detected",
    "task=adding seed=${trials} trials=${seed}": "Recursive interpolation detected",
    "task=adding trials=${..trials}": "Error resolving key '..trials'",
    "task=adding trials=${oc.create:{a:1}}": f"trials=${{oc.create:{{a:1}}}}: {UNREADABLE}",
    "task=${trials}": "task=${trials}: no such task",
    "model=${task} task=adding": "model=${task}: no such model",
    "task=adding results_dir=${HOME}/x": "results_dir: Interpolation key 'HOME' not found",
    "-m task=adding results_dir=${oc.env:NOT_SET_ANYWHERE}/x,b": "results_dir: KeyError raised while resolving",
    # Paths that have to be quoted, and why.
    "task=adding results_dir={x}": "results_dir={x}: not understood; write \"results_dir='{x}'\"",
    "task=adding results_dir=[x]": 'results_dir=["x"]: must be text that is not empty',
    "task=adding results_dir=a,b": "results_dir=a,b: several values are a sweep; add -m",
    "-m task=adding results_dir=a(b,c": "results_dir=a(b,c: not understood; write \"results_dir='a(b,c'\"",
    "task=adding results_dir=${trials": "results_dir=${trials: not understood; write \"results_dir='${trials'\"",
    "task=adding results_dir=1.5": "results_dir=1.5: must be text that is not empty",
    "task=adding results_dir=null": "results_dir=null: must be text that is not empty",
    # Sweeps.
    "-m task=adding seed=1,x": f"seed=x: {SEED}",
    "-m task=adding seed=1,null": f"seed=null: {SEED}",
    "-m task=adding seed=1,[2]": f"seed=[2]: {SEED}",
    "-m task=adding seed=1,{a:2}": f'seed={{"a": 2}}: {SEED}',
    "-m task=adding seed=choice(1,x)": f"seed=x: {SEED}",
    "-m task=adding seed=choice()": f"seed=choice(): {UNREADABLE}",
    "-m task=adding seed=range(a,b)": f"seed=range(a,b): {UNREADABLE}",
    "-m task=adding seed=range(0,1e9)": "a sweep of 1000000000 runs; one command starts 100,000 at most",
    "-m task=adding seed=range(0,1000) trials=range(0,1000)": "a sweep of 1000000 runs",
    "-m task=adding seed=range(1.5,3)": f"seed=1.5: {SEED}",
    "-m task=adding seed=sort(3,1,x)": f"seed=sort(3,1,x): {UNREADABLE}",
    "-m task=adding seed=nonsense(1)": f"seed=nonsense(1): {UNREADABLE}",
    "-m task=adding model=amu,lstn": "model=lstn: no such model",
    "-m task=adding model=glob([a*,zz*],exclude=*)": "the sweep is empty",
    "-m task=adding experiment=adding/lstm,none": "experiment=none: no such experiment",
    "-m task=adding model.units=1,2 model.units=3": "model.units is given twice",
    "-m task=adding training={batch_size:1},{batch_size:0}": "training.batch_size=0: must be",
    "-m task=adding training.stop=solved,erc": "training.stop=erc: must be one of solved, or null",
    # Hydra's own.
    "-m task=adding hydra.launcher._target_=nonsense": "of Hydra's keys only hydra/launcher",
    "-m task=adding +hydra.launcher._args_=[1]": "of Hydra's keys only hydra/launcher",
    "-m task=adding +hydra.launcher.x=1": "hydra/launcher: hydra.launcher: Error in call to target",
    "-m task=adding hydra/launcher=basic,joblib": "Could not find 'hydra/launcher/joblib'",
    "task=adding hydra.searchpath=[file:///tmp]": "of Hydra's keys only hydra/launcher",
    "task=adding hydra=null": "hydra=null: no such key",
    # Flags.
    "--config-dir": "argument --config-dir/-cd: expected one argument",
    "--config-dir=/dev/null task=adding": "--config-dir /dev/null: no such folder",
    "--config-path=x task=adding": "--config-path: does not work here",
    "-cn x task=adding": "--config-name: does not work here",
    "--info=nonsense task=adding": "invalid choice: 'nonsense'",
    "-x task=adding": "unrecognized arguments: -x",
    "--multirun=3 task=adding": "ignored explicit argument '3'",
    "--cfg=job task=adding model.initial_range=-1": "model.initial_range=-1: must be a number above 0",
    "--cfg=job task=adding task.T=1": "task.T=1: must be a whole number from 2 to 1000000",
    # Options of cells and tasks.
    "task=adding model.initial_range=-1": "model.initial_range=-1: must be a number above 0",
    "task=adding model.initial_range=[1]": "model.initial_range=[1]: must be a number",
    "task=adding model.initial_range=true": "model.initial_range=true: must be a number",
    "task=adding model.neurons_per_unit=2.5": "model.neurons_per_unit=2.5: must be a whole number from 1 to 1000",
    "task=adding model.output=[memory]": 'model.output=["memory"]: must be text',
    "task=adding model.output_in_product=1": "model.output_in_product=1: must be true or false",
    "task=adding model.gradient=Full": "model.gradient=Full: must be one of truncated, full",
    "task=adding task.T=[[1]]": "task.T=[[1]]: must be a number",
    "task=adding task.T={a:{b:1}}": 'task.T={"a": {"b": 1}}: must be a number',
    "task=adding task.form=": "task.form=: must be one of modern, 1997",
    "task=two_sequence task.targets.noise_free=1": "task.targets.noise_free=1: must be a list",
    "task=two_sequence task.targets.noise_free=[[1],0]": "task.targets.noise_free[0]=[1]: must be a number",
    "task=two_sequence task.tolerance.nothing=1": "task.tolerance.nothing=1: no such key; task.tolerance has ",
    "task=temporal_order task.positions={6a:[1,2]}": "task.positions.6a[0]=1: must be a list",
    "task=adding model=lstm97 model.input_bias=[x]": "model.input_bias[0]=x: must be a number",
    "task=adding task.criteria={modern:3}": "task.criteria.modern=3: must be a group of keys (solved)",
    "task=gun_point task.criteria.good.accuracy=>=0.9": "task.criteria.good.accuracy=>=0.9: must be a comparison",
    # Names.
    "task=Adding": "task=Adding: no such task",
    "TASK=adding": "no task is given",
    "task=adding.yaml": "task=adding.yaml: no such task",
    "task=../task/adding": "task=../task/adding: no such task",
    "experiment=/etc/passwd": "experiment=/etc/passwd: no such experiment",
    "experiment=adding/": "experiment=adding/: no such experiment",
}

DIGITS, LETTERS, CONTROLS = "9" * 5000, "a" * 100_000, "\x1b[31m\a\0x"

ODD = {
    "digits": (f"seed={DIGITS}", "99...: not understood; a number has 4,300 digits at most"),
    "negative digits": (f"seed=-{DIGITS}", "a number has 4,300 digits at most"),
    "digits in a list": (f"seed=[{DIGITS}]", "a number has 4,300 digits at most"),
    "digits of an exponent": (f"training.learning_rate=1e{DIGITS}", "training.learning_rate=inf: must be a number"),
    "letters": (f"seed={LETTERS}", "aaa...: has 100,005 characters; 20,000 at most are read"),
    "many letters": (f"seed={'a' * 15000}", "aaa...: must be a whole number from 0 to 2147483647"),
    "a key of letters": (f"training.{'a' * 5000}=1", "aaa...=1: no such key; training has batch_size, "),
    "a flag of letters": (f"--{LETTERS}", "aaa ... keys are written key=value"),
    "a folder of letters": (f"--config-dir={LETTERS}", "aaa...: no such folder"),
    "controls": (f"seed={CONTROLS}", r"seed=\x1b[31m\x07\x00x: not understood"),
    "controls in quotes": (f"seed='{CONTROLS}'", r"seed=\x1b[31m\x07\x00x: must be a whole number"),
    "controls in a key": (f"{CONTROLS}=1", r"\x1b[31m\x07\x00x=1: not understood"),
    "a flag of controls": (f"--{CONTROLS}", r"unrecognized arguments: --\x1b[31m\x07\x00x;"),
    "a folder of controls": (f"--config-dir={CONTROLS}", r"--config-dir \x1b[31m\x07\x00x: no such folder"),
    "bytes": ("seed=\udcff", r"seed=\udcff: must be a whole number"),
    "two lines": ("seed='1\n2'", "seed=1 2: must be a whole number"),
    "lists in lists": (f"task.T={'[' * 3000}{']' * 3000}", "[[...: not understood; it is nested too deeply"),
    "braces": (
        "task.criteria={modern:{solved:{mse:'< x'}}}",
        "task.criteria.modern.solved.mse=< x: must be a comparison",
    ),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_long_or_cannot_be_printed_is_not_echoed(name, trained, folder, capsys):
    argument, words = ODD[name]
    assert main(["task=adding", argument]) == 2
    out, err = capsys.readouterr()
    assert (out, trained, list(folder.iterdir())) == ("", [], [])
    assert err.startswith("amu-run: ")
    assert err.endswith("\n")
    assert err[:-1].isprintable()
    assert len(err) <= 301
    assert words in err


@pytest.mark.parametrize(
    "path",
    ["~/runs", "~", "résultats", "日本", "a(b", "a[b]c", "(x)", "a b", "a'b", "a=b", "a#b;c&d", "C:\\x\\", "$HOME"],
)
def test_a_path_needs_no_quotes(path, trained):
    assert main(["task=time_series", f"results_dir={path}", f"task.path={path}"]) == 0
    assert trained[0]["results_dir"] == trained[0]["task"]["path"] == path


def test_a_sweep_over_paths(trained):
    assert main(["-m", "task=adding", "results_dir=~/a,résultats"]) == 0
    assert [config["results_dir"] for config in trained] == ["~/a", "résultats"]


def test_a_comparison_needs_no_quotes(trained):
    assert main(["task=gun_point", "task.criteria.good.accuracy=> 0.9", "training.stop=good"]) == 0
    assert trained[0]["task"]["criteria"] == {"good": {"accuracy": "> 0.9"}}


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_command_gets_one_line_and_leaves_nothing(command, trained, folder, capsys):
    assert main(command.split()) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("amu-run: ")
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert len(err) <= 301
    assert WRONG[command] in err
    assert trained == []
    assert list(folder.iterdir()) == []


TINY = "task.T=11 task.test_size=5 task.validation_size=5 model=rnn trials=1 training.max_sequences=5 backend=torch"

SIZES = ("task.test_size", "task.validation_size")

DATA = "@univariate true\n@equalLength false\n@classLabel true a b\n@data\n"

UNFIT = {
    "model=amu model.writers=tanh model.neurons_per_unit=1": "neurons_per_unit=1: must be 2 or more",
    "task=time_series task.name=null": "give exactly one of them",
    "results_dir=file": "results_dir=file: file is a file; give a folder",
    "results_dir=file/inside": "results_dir=file/inside: file is a file; give a folder",
    f"results_dir={'x' * 300}": "not the name of a folder (File name too long)",
    "device=cuda": "device=cuda: not available here",
    "task.N=12": "task.N=12: must be at most task.T=11",
    "task.targets.noise_free=[0,0.5,1]": "task.targets.noise_free=[0.0, 0.5, 1.0]: must be two different numbers",
    "model=lstm97 model.block_size=2 model.units=3": "model.units=3: must be a multiple of 2",
    "model.units=1000000": "TiB of RAM",
    "task=time_series task.path=nan_TRAIN.ts": "nan_TRAIN.ts, line 6: a missing value (nan); fill it in",
    "task=time_series task.path=away_TRAIN.ts": "away_TRAIN.ts: there is no such file",
    "task=time_series task.path=folder_TRAIN.ts": "folder_TEST.ts: cannot be read (Is a directory)",
    "task=time_series task.path=bytes_TRAIN.ts": "bytes_TRAIN.ts: is not text in UTF-8 ('utf-8' codec",
    "task=time_series task.name=Gunpoint": "did you mean GunPoint",
}


@pytest.fixture
def unfit(folder):
    """A file, and time series of which only those called good can be used."""
    (folder / "file").write_text("")
    for name in ("good", "nan", "folder", "bytes"):
        (folder / f"{name}_TRAIN.ts").write_text(f"{DATA}1,2:a\n1,{name if name == 'nan' else 3}:a\n2,2:b\n")
        (folder / f"{name}_TEST.ts").write_text(f"{DATA}1,2:a\n")
    (folder / "folder_TEST.ts").unlink()
    (folder / "folder_TEST.ts").mkdir()
    (folder / "bytes_TRAIN.ts").write_bytes(bytes(range(128, 256)))


@pytest.mark.parametrize(("settings", "sweep"), [*((settings, True) for settings in UNFIT), ("device=cuda", False)])
def test_what_only_a_look_can_tell_is_told_before_anything_starts(settings, sweep, unfit, folder, capsys):
    """In a sweep the job before the bad one could run, and must not."""
    given = dict(setting.split("=", 1) for setting in ["task=two_sequence", *TINY.split(), *settings.split()])
    if given["task"] == "time_series":
        given = {key: value for key, value in given.items() if key not in ("task.T", *SIZES)}
    *_, last = settings.split()
    key, value = last.split("=", 1)
    good = {"results_dir": "kept", "device": "cpu", "task.N": "1", "model.units": "2", "task.path": "good_TRAIN.ts"}
    good |= {"task.targets.noise_free": "[0,1]", "task.name": "GunPoint", "model.neurons_per_unit": "2"}
    if sweep:
        given[key] = f"{good[key]},{value}"
    before = sorted(folder.rglob("*"))
    assert main([*["-m"] * sweep, *(f"{key}={value}" for key, value in given.items())]) == 2
    err = capsys.readouterr().err
    assert err.startswith("amu-run: ")
    assert err.count("\n") == 1
    assert UNFIT[settings] in err
    assert sorted(folder.rglob("*")) == before


def test_a_home_folder_is_found(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder / "home"))
    assert main(["task=two_sequence", *TINY.split(), "results_dir='~/runs'"]) == 0
    assert [path.name for path in folder.iterdir()] == ["home"]
    assert list((folder / "home").glob("runs/two_sequence/rnn/*/trials-0-0/trials.csv"))


def test_memory_that_runs_out_all_the_same_is_told_in_a_line(trained, capsys):
    assert main(["task=adding", "seed=16"]) == 1
    assert capsys.readouterr().err == "amu-run: not enough memory (no 4 TiB to be had)\n"


def test_answers_come_without_heavy_imports(folder):
    script = """
import sys
from amu_experiments.cli import main
assert main(["--help"]) == 0
assert main(["task=addng"]) == main(["task=adding", "model.hiden=3"]) == 2
assert main(["task=adding", "--cfg", "job"]) == 0
print(sorted({"torch", "numpy", "llvmlite", "pandas", "scipy", "matplotlib", "aeon"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert len(done.stderr.splitlines()) == 2


# Answers ----------------------------------------------------------------------------------------------------


def test_help_names_every_choice_and_every_key(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    for group in ("task", "model", "training"):
        assert f"\n{group}=\n" in text
        for name in choices(group):
            assert f"\n  {name} " in text
    assert (
        "\n  adding/  amu_memory, amu_memory_full, amu_tframe_memory, amu_tframe_memory_full, gru, lstm, lstm97, rnn\n"
        in text
    )
    config = load("task=adding")
    for key in ["trials", "seed", "backend", "device", "threads", "results_dir", *config["training"]]:
        assert f"{key}: " in text
    assert "hydra:" not in text


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"amu-run {version('amu-experiments')}\n"


@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("task=adding --cfg job", "trials: 10"),
        ("--cfg job task=adding -p model model=lstm", "cell: lstm"),
        ("--info defaults-tree task=adding", "config:"),
        ("--hydra-help", "Hydra (1.3"),
    ],
)
def test_the_flags_of_hydra_work(command, line, folder, capsys):
    assert main(command.split()) == 0
    assert line in capsys.readouterr().out
    assert list(folder.iterdir()) == []


# Jobs -------------------------------------------------------------------------------------------------------


def test_a_job_gets_the_checked_configuration(trained, folder):
    overrides = [
        "task=adding",
        "task.form=1997",
        "training.stop=l97",
        "trials=1e2",
        "training.learning_rate=1",
    ]
    assert main([*overrides, "training.clip_norm=null", "training.batch_size=32"]) == 0
    (config,) = trained
    assert config == load(*overrides, "training.clip_norm=null", "training.batch_size=32")
    assert config["trials"] == 100
    assert config["task"]["form"] == "1997"
    assert config["training"]["evaluate_every"] % 32 == 0
    assert list(folder.iterdir()) == []


def test_a_criterion_of_ones_own(trained):
    assert main(["task=gun_point", "task.criteria.good.accuracy='> 0.9'", "training.stop=good"]) == 0
    assert main(["task=gun_point", "task.criteria={good: {accuracy: '> 0.9'}}", "training.stop=good"]) == 0
    assert trained[0] == trained[1]
    assert trained[0]["task"]["criteria"] == {"good": {"accuracy": "> 0.9"}}


def test_a_criterion_may_be_named_as_the_data_set_or_any_other_option_is(trained, capsys):
    for task, name in (("japanese_vowels", "JapaneseVowels"), ("gun_point", "time_series"), ("gun_point", "GunPoint")):
        criteria = f"task.criteria={{{name}: {{accuracy: '> 0.9'}}, other: {{loss: '< 1'}}}}"
        for stop in (name, "other"):
            assert main([f"task={task}", criteria, f"training.stop={stop}"]) == 0
        assert main([f"task={task}", criteria, "training.stop=accuracy"]) == 2
        assert f"training.stop=accuracy: must be one of {name}, other, or null" in capsys.readouterr().err
    assert [config["training"]["stop"] for config in trained[:2]] == ["JapaneseVowels", "other"]


def test_what_is_found_later_is_told_in_a_line(trained, capsys):
    assert main(["task=adding", "seed=13"]) == 2
    assert capsys.readouterr().err == "amu-run: no data here\n"


def test_a_fault_shows_where_it_is(trained, capsys):
    assert main(["task=adding", "seed=14"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "RuntimeError: a fault" in err


def test_ctrl_c(trained, capsys):
    assert main(["task=adding", "seed=15"]) == 130
    assert main(["-m", "task=adding", "seed=1,15,17"]) == 130
    assert [config["seed"] for config in trained] == [15, 1, 15]


def test_a_run_and_a_sweep_need_no_temporary_folder(trained, monkeypatch):
    def nowhere(**_):
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    for name in ("TemporaryDirectory", "mkdtemp"):
        monkeypatch.setattr(tempfile, name, nowhere)
    assert main(["task=adding"]) == 0
    assert main(["-m", "task=adding", "seed=1,2"]) == 0
    assert len(trained) == 3


def test_a_sweep_runs_every_combination(trained, folder, tmp_path_factory, monkeypatch, capsys):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path_factory.mktemp("notes")))
    assert main(["task=adding", "model=amu,lstm", "-m", "seed=range(0,20,10)"]) == 0
    assert [(c["model"]["cell"], c["seed"]) for c in trained] == [
        ("amu", 0),
        ("amu", 10),
        ("lstm", 0),
        ("lstm", 10),
    ]
    assert "[3] task=adding model=lstm seed=10\n" in capsys.readouterr().out
    assert list(folder.iterdir()) == []
    assert list(Path(tempfile.gettempdir()).iterdir()) == []


def test_a_job_that_fails_stops_no_other(trained, capsys):
    assert main(["-m", "task=adding", "seed=13,1,14,2"]) == 1
    assert [config["seed"] for config in trained] == [13, 1, 14, 2]
    err = capsys.readouterr().err
    assert "amu-run: no data here\n" in err
    assert "RuntimeError: a fault" in err
    failed = [f"  [{number}] task=adding seed={seed}: error above" for number, seed in ((0, 13), (2, 14))]
    assert err.splitlines()[-3:] == ["amu-run: 2 of 4 jobs failed:", *failed]
    assert "HYDRA_FULL_ERROR" not in err


def test_a_launcher_of_hydra_gives_its_jobs_the_same_configurations(trained, capsys):
    sweep = ["-m", "task=time_series", "model=amu,lstm", "seed=3,13", "results_dir=a b", "task.criteria.x.loss='< 1'"]
    assert main(sweep) == 1
    told = capsys.readouterr()
    assert main([*sweep, "hydra/launcher=basic"]) == 1
    assert trained[:4] == trained[4:]
    again = capsys.readouterr()
    one, other = ([line for line in each.out.splitlines() if line.startswith("[")] for each in (told, again))
    assert one == other
    assert len(one) == 4
    assert again.err.count("amu-run: no data here\n") == told.err.count("amu-run: no data here\n") == 2


# Files of one's own -----------------------------------------------------------------------------------------


ADDING = "# @package _global_\ndefaults: [adding, _self_]\n"

LEAKY = """
from typing import Annotated

from amu_experiments.cells.cell import Cell
from amu_experiments.options import PROPER_FRACTION


class Leaky(Cell):
    @classmethod
    def shapes(cls, input_size, hidden_size, leak: Annotated[float, PROPER_FRACTION]):
        return {"weight_ih": (hidden_size, input_size), "bias": (hidden_size,)}
"""

ECHO = """
from collections.abc import Sequence
from typing import Annotated, Literal

from amu_experiments.options import whole
from amu_experiments.tasks.task import Task


class Echo(Task):
    def __init__(self, trials, *, delay: Annotated[int, whole(1, 9)], noise: float, steps: Sequence[float] | None, pad):
        super().__init__(trials)
"""
"""Of which only the arguments matter here."""


@pytest.fixture(scope="module")
def own_files(tmp_path_factory):
    """A folder with a task, a model and an experiment of a user's own, and wrong ones."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("cells", "tasks"):
        (folder / name).mkdir()
    (folder / "cells" / "leaky.py").write_text(LEAKY)
    (folder / "tasks" / "echo.py").write_text(ECHO)
    files = {
        "model/leaky": "# A leaky integrator.\ncell: leaky\nleak: 0.5\n",
        "task/echo": (
            "# @package _global_\n# Say it again. At the end.\n"
            "task: {problem: echo, delay: 3, noise: 0, steps: null, pad: 2}\n"
            "training: {learning_rate: 0.1}\nmodel: {parameters: 50}\n"
        ),
        "experiment/echo/leaky": (
            "# @package _global_\ndefaults: [override /task: echo, override /model: leaky, _self_]\n"
            "model: {leak: 0.25}\n"
        ),
        "experiment/echo/typo": (
            "# @package _global_\ndefaults: [override /task: echo, _self_]\ntraining: {learning_rte: 1}\n"
        ),
        "task/typo": "# @package _global_\ntask: {problem: echo}\ntraining: {stopp: null}\n",
        "task/no_package": "task: {problem: echo}\n",
        "task/no_yaml": "# @package _global_\ntask: [1\n",
        "model/no_cell": "leak: 0.5\n",
        "model/cells": "cell: [lstm]\n",
        "task/number": "# @package _global_\n3\n",
        "task/itself": "# @package _global_\ndefaults: [itself, _self_]\n",
        "task/in_itself": "# @package _global_\ntask: {problem: echo, a: &x [*x]}\n",
        "task/defaults": "# @package _global_\ndefaults: adding\n",
        "task/null_key": "# @package _global_\ndefaults: [adding, _self_]\ntask:\n  null: 2\n",
        "task/open_brace": "# @package _global_\ndefaults: [adding, _self_]\nseed: ${nope\n",
        "task/problems": "# @package _global_\ntask: {problem: [adding]}\n",
        "task/criteria": "# @package _global_\ndefaults: [adding, _self_]\ntask: {criteria: 3}\n",
        "task/code": f"{ADDING}task: {{T: !!python/object/apply:os.mkdir [pwned]}}\n",
        "task/twice": f"{ADDING}task: {{T: 5, T: 6}}\n",
        "task/tabs": f"{ADDING}task:\n\tT: 5\n",
        "task/mark": f"\ufeff{ADDING}task: {{T: 50}}\n",
        "task/documents": f"{ADDING}---\ntask: {{T: 6}}\n",
        "task/deep": f"{ADDING}task: {{T: {'[' * 3000}{']' * 3000}}}\n",
        "task/digits": f"{ADDING}task: {{T: {DIGITS}}}\n",
        "task/date": f"{ADDING}task: {{T: 2020-01-01}}\n",
        "task/bytes": f"{ADDING}task: {{T: !!binary aGVsbG8=}}\n",
        "task/set": f"{ADDING}task: {{T: !!set {{a, b}}}}\n",
        "task/controls": f'{ADDING}task: {{T: "\\e[31m\\a"}}\n',
        "task/numbers": "# @package _global_\ndefaults: [echo, _self_]\ntask: {pad: {1: 2, 3: 4}}\n",
        "task/merge": f"{ADDING}task: {{<<: 5}}\n",
        "task/alias": f"{ADDING}task: {{T: *nowhere}}\n",
        "task/loop": f"{ADDING}seed: ${{trials}}\ntrials: ${{seed}}\n",
        "task/nulled": f"{ADDING}training: null\n",
        "task/nothing": "# @package _global_\ntask: {problem: nothing}\nmodel: {units: 3}\n",
        "task/absent": "# @package _global_\ndefaults: [nothing_there, _self_]\n",
        "task/default": "# @package _global_\ndefaults: [3]\n",
        "task/empty": "",
        "task/list": "- a\n- b\n",
        "task/zeros": "\0" * 1000,
        "model/nothing": "cell: nothing\n",
        "experiment/other": "# @package _global_\ndefaults: [override /nothing: adding]\n",
        "hydra/launcher/mine": "_target_: nonsense.Launcher\n",
    }
    for name, text in files.items():
        file = folder / f"{name}.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (folder / "task" / "latin.yaml").write_bytes("# @package _global_\n# Größe\n".encode("latin-1"))
    (folder / "task" / "folder.yaml").mkdir()
    return folder


@pytest.fixture
def own(own_files, monkeypatch):
    for package in (amu_experiments.cells, amu_experiments.tasks):
        code = own_files / package.__name__.rpartition(".")[2]
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(code)])
    yield f"--config-dir={own_files}"
    for name in ("amu_experiments.cells.leaky", "amu_experiments.tasks.echo"):
        sys.modules.pop(name, None)


def test_a_task_and_a_model_of_ones_own(own, trained, capsys):
    assert main([own, "task=echo", "model=leaky", "model.leak=1e-3", "task.delay=9.0", "task.noise=0.5"]) == 0
    assert main([own, "experiment=echo/leaky"]) == 0
    assert main([own, "task=numbers", "model=leaky"]) == 0
    first, second, third = trained
    assert third["task"]["pad"] == {"1": 2, "3": 4}
    assert first["model"] == {"units": None, "parameters": 50, "layers": 1, "cell": "leaky", "leak": 1e-3}
    assert first["task"] == {"problem": "echo", "delay": 9, "noise": 0.5, "steps": None, "pad": 2}
    assert second["model"]["leak"] == 0.25
    assert second["training"]["learning_rate"] == 0.1
    capsys.readouterr()
    assert main([own, "--help"]) == 0
    help_text = capsys.readouterr().out
    assert "Say it again\n" in help_text
    assert "\nexperiment=\n" in help_text


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (
            "task=echo model=leaky model.leek=1",
            "model leaky has units, parameters, layers, cell, leak (did you mean model.leak?)",
        ),
        ("task=echo model=leaky model.leak=all", "model.leak=all: must be a number"),
        ("task=echo model=leaky model.leak=1", "model.leak=1: must be a number between 0 and 1"),
        ("task=echo model=leaky task.delay=10", "task.delay=10: must be a whole number from 1 to 9"),
        ("task=echo model=leaky task.delay=2.5", "task.delay=2.5: must be a whole number from 1 to 9"),
        ("task=echo model=leaky task.pad=2.5", "task.pad=2.5: must be a whole number"),
        ("task=echo model=leaky task.noise=1e39", "task.noise=1e+39: must be a number"),
        ("task=echo model=leaky task.steps=x", "task.steps=x: must be a list"),
        (
            "experiment=echo/leak",
            "lists them (did you mean echo/leaky?)",
        ),
        ("experiment=echo/typo", "did you mean training.learning_rate?"),
        ("task=typo", "training.stopp=null: no such key"),
        ("task=no_package", "task/no_package.yaml does not set task.problem"),
        ("task=no_yaml", "no_yaml.yaml"),
        ("task=echo model=no_cell", "model/no_cell.yaml does not set model.cell"),
        ("task=echo model=cells", 'model.cell=["lstm"]: model/cells.yaml must give the name of one'),
        ("task=number", "task=number: Invalid loaded object type"),
        ("task=itself", "task=itself: a file refers to itself"),
        ("task=in_itself", "task=in_itself: a file refers to itself"),
        ("task=defaults", "defaults must be a list"),
        ("task=null_key", "task=null_key: task: Incompatible key type"),
        ("task=open_brace", "task=open_brace: seed: no viable alternative at input '${nope'"),
        ("task=problems", 'task.problem=["adding"]: task/problems.yaml must give the name of one'),
        ("task=criteria", "task.criteria=3: task/criteria.yaml must give a group of keys"),
        ("task=latin", "task=latin: 'utf-8' codec can't decode"),
        ("task=folder", "task=folder: no such task"),
        ("task=code", "could not determine a constructor for the tag"),
        ("task=twice", "found duplicate key T"),
        ("task=tabs", "found character '\\t' that cannot start any token"),
        ("task=mark", "mark.yaml: begins with a byte order mark; save it without one"),
        ("task=documents", "expected a single document"),
        ("task=deep", "or is nested too deeply"),
        ("task=digits", "Exceeds the limit (4300 digits)"),
        ("task=date", "task.T=2020-01-01: must be a whole number"),
        ("task=bytes", "must be a text, a number, true, false, null, a list or a group of keys in its yaml file"),
        ("task=set", "Value 'set' is not a supported primitive type"),
        ("task=controls", "task.T=\\x1b[31m\\x07: must be a whole number"),
        ("task=merge", "expected a mapping or list of mappings for merging"),
        ("task=alias", "found undefined alias 'nowhere'"),
        ("task=loop", "Recursive interpolation detected"),
        ("task=nulled training.stop=null", 'training={"stop": null}: lacks batch_size, '),
        ("task=nothing", "task.problem: 'nothing' is not a task; choose one of adding, "),
        ("task=absent", "Could not load 'task/nothing_there'"),
        ("task=default", "task=default: Unsupported type in defaults"),
        ("task=empty", "task/empty.yaml does not set task.problem"),
        ("task=list", "Cannot merge DictConfig with ListConfig"),
        ("task=zeros", "unacceptable character #x0000"),
        ("task=echo model=nothing", "model.cell: 'nothing' is not a cell; choose one of amu, "),
        ("task=adding experiment=other", "Could not override 'nothing'"),
        ("task=adding hydra/launcher=mine", "hydra/launcher: Invalid plugin 'nonsense.Launcher'"),
    ],
)
def test_mistakes_in_files_of_ones_own(own, trained, command, message, capsys):
    assert main([own, *command.split()]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1
    assert err[:-1].isprintable()
    assert len(err) <= 301
    assert trained == []


def test_anchors_that_stand_for_too_much_take_no_time(folder, capsys):
    lines = [f"  a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 30)]
    (folder / "task").mkdir()
    (folder / "task" / "laughs.yaml").write_text(f"{ADDING}task:\n  a0: &a0 [x]\n{''.join(lines)}")
    assert main([f"--config-dir={folder}", "task=laughs"]) == 2
    assert "laughs.yaml: its anchors stand for more than 100,000 values\n" in capsys.readouterr().err


def test_ctrl_c_that_a_library_turns_into_another_error(monkeypatch, capsys):
    def load(*_):
        try:
            try:
                raise KeyboardInterrupt
            finally:
                raise AttributeError("no flags")  # as in the clean-up of omegaconf
        except AttributeError as error:
            raise ConfigurationError(str(error)) from None

    monkeypatch.setattr("amu_experiments.overrides.load_jobs", load)
    assert main(["task=adding"]) == 130
    assert capsys.readouterr().err == "amu-run: interrupted\n"


@pytest.mark.parametrize("door", ["command", "report"])
@pytest.mark.parametrize("seconds", [0.06, 0.12, 0.2])
def test_ctrl_c_while_modules_are_imported(door, seconds, folder):
    script = f"print(flush=True); from amu_experiments.cli import {door}; {door}()"
    arguments = ["task=adding"] if door == "command" else []
    with subprocess.Popen([sys.executable, "-c", script, *arguments], stdout=-1, stderr=-1, text=True) as process:
        process.stdout.readline()
        time.sleep(seconds * slowness())
        process.send_signal(signal.SIGINT)
        _, err = process.communicate()
    assert process.returncode == 130
    assert err.count("\n") == 1
    assert err.endswith("interrupted\n")
    assert list(folder.iterdir()) == []


def test_ctrl_c_inside_a_finaliser_is_not_lost_and_prints_nothing():
    script = """
import os, signal, time
from amu_experiments.interrupts import stop_on_signals
class Last:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0)
with stop_on_signals():
    try:
        Last()
        time.sleep(60)
    except KeyboardInterrupt:
        print("stopped")
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=30)
    assert (done.stdout, done.stderr) == ("stopped\n", "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--only=all"], "argument --only: invalid choice: 'all'"),
        (["--nothing"], "unrecognized arguments: --nothing"),
        ([f"--{LETTERS}"], "aaa"),
        ([f"--{CONTROLS}"], r"\x1b[31m"),
        (["--results-dir"], "expected one argument"),
        (["--results-dir=nowhere"], "no finished runs in nowhere"),
        (["--results-dir=\x1b[31m"], r"no finished runs in \x1b[31m"),
        ([f"--results-dir={'a' * 255}/b"], "no finished runs in aaa"),
    ],
)
def test_a_wrong_report_gets_one_line(arguments, words, folder, capsys):
    try:
        status = report.main(arguments)
    except SystemExit as end:
        status = end.code
    err = capsys.readouterr().err
    assert status in (1, 2)
    assert err.startswith("amu-report: ")
    assert err[:-1].isprintable()
    assert len(err) <= 301
    assert words in err
    assert list(folder.iterdir()) == []

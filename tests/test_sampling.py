"""The command amu-sample: what it writes, from which runs, and what it answers to nonsense."""

import io
import json
import shlex
import wave
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from amu_experiments import store
from amu_experiments.analysis.samples import marked, read_samples
from amu_experiments.cli import main as run
from amu_experiments.sampling import main
from amu_experiments.tasks.pen import letter_moves

SHORT = (
    "training.max_sequences=40",
    "training.evaluate_every=20",
    "trials=2",
    "model.parameters=null",
    "model.units=3",
)
SERIES = ("task=oscillators", "task.T=30", "task.free_steps=20", "task.validation_size=4", "task.test_size=4")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Overrides of two finished runs, and the folder of their results."""
    folder = tmp_path_factory.mktemp("runs")
    commands = {
        "series": [*SERIES, "model=lstm", *SHORT, f"results_dir={folder}"],
        "texts": ["task=embedded_reber", "task.strings=8", "model=lstm", *SHORT, f"results_dir={folder}"],
        "adding": ["task=adding", "task.T=5", "model=lstm", *SHORT, f"results_dir={folder}"],
        "strokes": [
            "task=pen",
            "task.letters=3",
            "training.batch_size=1",
            "model=lstm",
            *SHORT,
            f"results_dir={folder}",
        ],
    }
    assert [run(command) for command in commands.values()] == [0, 0, 0, 0]
    return commands


def folder_of(command):
    (folder,) = {result.folder for result in store.read_results(command[-1][12:]) if command[0].endswith(result.task)}
    return folder


def made(out):
    left_out = []
    (sample,) = read_samples(out, left_out)
    assert left_out == []
    return sample


def test_a_series_is_drawn_and_can_be_heard(runs, tmp_path, capsys):
    assert main([*runs["series"], "--primed", "--count", "2", "--out", str(tmp_path)]) == 0
    sample = made(tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == f"sample.png, sample.wav in {tmp_path / sample.name}"
    assert {name: values.shape for name, values in sample.series.items()} == {
        "prime": (2, 11),
        "generated": (2, 20),
        "truth": (2, 20),
    }
    with Image.open(tmp_path / sample.name / "sample.png") as image:
        assert image.width > 500
    with wave.open(io.BytesIO((tmp_path / sample.name / "sample.wav").read_bytes())) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (8000, 1, 2)
        assert sound.getnframes() == 16_000
        heard = np.frombuffer(sound.readframes(20), "<i2").astype(float)
    said = sample.series["generated"][0]
    assert np.corrcoef(heard, said)[0, 1] == pytest.approx(1, abs=1e-3)


def test_the_rest_of_a_test_sequence_is_the_target(runs, tmp_path):
    """A sum of two sines goes on by a recurrence of order four."""
    assert main([*runs["series"], "--primed", "--out", str(tmp_path)]) == 0
    sample = made(tmp_path)
    whole = np.concatenate([sample.series["prime"], sample.series["truth"]], axis=1)[0]
    kernel = np.convolve([1, -2 * np.cos(0.2), 1], [1, -2 * np.cos(0.311), 1])
    assert np.abs(np.convolve(whole, kernel, "valid")).max() < 1e-5


def test_texts_are_written_with_the_first_wrong_symbol_marked(runs, tmp_path, capsys):
    assert main([str(folder_of(runs["texts"])), "--count", "3", "--out", str(tmp_path)]) == 0
    sample = made(tmp_path)
    *lines, last = capsys.readouterr().out.splitlines()
    assert lines == (tmp_path / sample.name / "sample.txt").read_text().splitlines() == sample.marked_texts()
    assert last == f"sample.txt in {tmp_path / sample.name}"
    assert len(lines) == 3
    assert all(line.startswith("B") and "[" in line for line in lines)  # forty strings teach no grammar


def test_a_seed_gives_the_same_texts_and_another_seed_others(runs, tmp_path):
    for number, more in enumerate(([], [], ["--seed", "1"], ["--temperature", "0.01"])):
        assert main([*runs["texts"], *more, "--out", str(tmp_path / str(number))]) == 0
    texts = [made(tmp_path / str(number)).texts for number in range(4)]
    assert texts[0] == texts[1] != texts[2]
    assert len(set(texts[0])) > len(set(texts[3]))  # the coldest softmax says the likeliest symbol, but for near ties


def test_primed_texts_begin_as_the_grammar_does(runs, tmp_path):
    assert main([*runs["texts"], "--primed", "--out", str(tmp_path)]) == 0
    assert {text[:2] for text, _ in made(tmp_path).texts} <= {"BT", "BP"}


def test_letters_are_drawn_beside_those_that_were_learned(runs, tmp_path, capsys):
    assert main([*runs["strokes"], "--out", str(tmp_path)]) == 0
    sample = made(tmp_path)
    assert capsys.readouterr().out.splitlines()[-1] == f"sample.svg, sample.png in {tmp_path / sample.name}"
    assert {name: values.shape for name, values in sample.series.items()} == {
        "prime": (3, 1, 4),
        "generated": (3, 22, 4),
        "truth": (3, 22, 4),
    }
    np.testing.assert_allclose(sample.series["truth"][1, :13], letter_moves("b")[:13], rtol=1e-6)
    with Image.open(tmp_path / sample.name / "sample.png") as image:
        assert image.width > 500
    drawing = ElementTree.parse(tmp_path / sample.name / "sample.svg").getroot()
    assert drawing.tag == "{http://www.w3.org/2000/svg}svg"
    assert len(drawing.findall(".//{*}path[@d]")) >= 6


def test_another_trial_says_something_else(runs, tmp_path):
    for trial in (0, 1):
        assert main([*runs["series"], "--trial", str(trial), "--out", str(tmp_path / str(trial))]) == 0
    said = [made(tmp_path / str(trial)).series["generated"] for trial in (0, 1)]
    assert not np.allclose(*said)


@pytest.mark.parametrize(("text", "wrong", "shown"), [("BTE", 1, "B[T]E"), ("BT", 2, "BT[]"), ("BT", None, "BT")])
def test_the_mark_of_a_wrong_symbol(text, wrong, shown):
    assert marked(text, wrong) == shown


def complaint(capsys, *arguments):
    try:
        status = main([*map(str, arguments)])
    except SystemExit as end:
        status = end.code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("amu-sample: ")
    return status, line


def test_nonsense_gets_one_line(runs, tmp_path, capsys):
    (tmp_path / "config.yaml").write_text("nonsense: [\n")
    assert complaint(capsys, tmp_path)[0] == 1
    (tmp_path / "config.yaml").write_bytes(b"\0\xff")
    assert complaint(capsys, tmp_path)[0] == 1
    (tmp_path / "config.yaml").unlink()
    words = f"{tmp_path}: is no stored run, since it has no config.yaml; give RESULTS/TASK/MODEL/IDENTITY"
    assert complaint(capsys, tmp_path) == (1, f"amu-sample: {words}")
    assert "no such folder" in complaint(capsys, tmp_path / "none")[1]
    assert complaint(capsys, "task=nothing")[0] == 2
    assert "--trial 7" in complaint(capsys, *runs["series"], "--trial", 7)[1]
    untrained = ["task=adding", "task.T=9", "results_dir=none"]
    assert complaint(capsys, *untrained)[1].endswith(f"; train some with amu-run {' '.join(untrained)}")
    assert "cannot be continued" in complaint(capsys, *runs["adding"])[1]
    assert "--temperature" in complaint(capsys, *runs["series"], "--temperature", "cold")[1]
    assert "--count" in complaint(capsys, *runs["series"], "--count", "-1")[1]


def test_a_run_without_weights_says_so(runs, tmp_path, capsys):
    folder = folder_of(runs["texts"])
    copy = tmp_path / folder.parent.parent.name / folder.parent.name / folder.name
    copy.mkdir(parents=True)
    (copy / "config.yaml").write_bytes((folder / "config.yaml").read_bytes())
    assert complaint(capsys, copy)[1].endswith("has no finished trials; train some with amu-run")
    for path in folder.rglob("*.*"):
        if path.is_file() and path.name not in ("weights.npz", "sums.json"):
            (copy / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
            (copy / path.relative_to(folder)).write_bytes(path.read_bytes())
    assert "has no weights" in complaint(capsys, copy)[1]


def test_a_sample_that_is_damaged_is_left_out(runs, tmp_path):
    assert main([*runs["series"], "--out", str(tmp_path)]) == 0
    (path,) = tmp_path.glob("*/sample.json")
    sound = json.loads(path.read_text())
    damaged = [{}, [], sound | {"series": {}}, sound | {"model": "gru"}, sound | {"extra": 1}, sound | {"texts": 3}]
    damaged += [sound | {"media": ["svg"]}, sound | {"media": ["txt"]}, sound | {"media": 3}]
    damaged += [sound | {"series": sound["series"] | {name: None}} for name in ("prime", "generated")]
    damaged += [sound | {"series": sound["series"] | {"generated": sound["series"]["generated"][:2]}}]
    for content in damaged:
        path.write_text(json.dumps(content))
        left_out = []
        assert read_samples(tmp_path, left_out) == []
        assert len(left_out) == 1


def test_the_commands_of_the_readme_work_as_typed(tmp_path, monkeypatch):
    text = (Path(__file__).parents[1] / "README.md").read_text()
    section = text.partition("## Networks that generate")[2].partition("\n## ")[0]
    typed = [shlex.split(line, comments=True) for line in section.splitlines() if line.startswith("    amu-")]
    assert [command[0] for command in typed] == ["amu-run", "amu-sample", "amu-sample"]
    monkeypatch.chdir(tmp_path)
    few = ["training.max_sequences=4", "training.evaluate_every=2", "trials=4"]
    for command, *words in typed:
        assert (run if command == "amu-run" else main)([*words, *few]) == 0
    samples = read_samples(tmp_path / "results/report/samples", [])
    assert {sample.media for sample in samples} == {("png", "wav")}
    assert 3 in {sample.trial for sample in samples}
    assert all(sample.series["truth"].shape == (1, 320) for sample in samples)

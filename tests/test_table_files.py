"""Data of one's own as CSV and numpy files: classes, numbers and forecasting, and errors for unusable files."""

import numpy as np
import pytest
from test_time_series import task

from amu_experiments import store
from amu_experiments.analysis.report import main as report
from amu_experiments.cli import main

CLASSES = """series,left,right,class
1,0.1,1.2,up
1,0.3,1.1,up
1,0.7,0.9,up
2,0.8,0.4,down
2,0.5,0.6,down
three,0.2,1.1,up
three,0.3,1.2,up
4,0.9,0.3,down
4,0.6,0.5,down
"""
TARGETS = "series,x,target_sum,target_last\n" + "".join(
    f"{name},{a},{a + b},{b}\n{name},{b},{a + b},{b}\n" for name, a, b in [("a", 1, 2), ("b", 3, 5), ("c", 2, 0.5)]
)
ANSWERS = "series,x,answer\n" + "".join(
    f"{n},{x},{sum(xs[: t + 1])}\n"
    for n, xs in [("a", [1, 2, 3]), ("b", [4, 5]), ("c", [1, 1])]
    for t, x in enumerate(xs)
)
FORECAST = "series,x\n" + "".join(f"{n},{n * 2**t}\n" for n in (1, 3, 5) for t in range(4 if n == 1 else 3))


def write(folder, train, test=None):
    for part, text in (("TRAIN", train), ("TEST", train if test is None else test)):
        data = text if isinstance(text, bytes) else text.encode()
        (folder / f"Own_{part}.csv").write_bytes(data)
    return str(folder / "Own_TRAIN.csv")


def write_arrays(folder, **arrays):
    file = folder / "Own.npz"
    np.savez(file, **{name: np.array(value) for name, value in arrays.items() if value is not None})
    return str(file)


X = np.arange(24.0).reshape(4, 3, 2) ** 2
GOOD = {"x_train": X, "x_test": X[:2], "y_train": ["b", "b", "A a", "A a"], "y_test": ["b", "A a"]}


# Contents -------------------------------------------------------------------------------------------------------


def test_classes_of_a_csv_file(tmp_path):
    kind = task(path=write(tmp_path, CLASSES))
    assert (kind.classes, kind.input_size, kind.output_size, kind.squash) == (["down", "up"], 2, 2, "softmax")
    test = kind.test().take(0)
    assert test.lengths.tolist() == [3, 2, 2, 2]
    assert test.targets.argmax(-1).ravel().tolist() == [1, 0, 1, 0]
    assert task(path=str(tmp_path)).contents == kind.contents
    spaced = CLASSES.replace(",", " , ").replace("\n", "\r\n") + "\r\n\r\n"
    other = task(path=write(tmp_path, "\ufeff" + spaced))
    np.testing.assert_array_equal(other.test().inputs, kind.test().inputs)


def test_numbers_at_the_last_step_of_a_csv_file(tmp_path):
    kind = task(path=write(tmp_path, TARGETS))
    assert (kind.answer, kind.loss, kind.squash, kind.output_size) == ("last", "squared_error", "linear", 2)
    test = kind.test().take(0)
    given = np.array([[3, 2], [8, 5], [2.5, 0.5]])
    np.testing.assert_allclose(test.targets[:, 0], (given - given.mean(0)) / given.std(0), rtol=1e-6)
    outputs = (given + [[1, 0], [-1, 0], [0, 2]] - given.mean(0)) / given.std(0)
    assert kind.measure(outputs[:, None], test) == pytest.approx({"mse": 6 / 6, "mean_error": 4 / 6})


def test_numbers_at_every_step_of_a_csv_file(tmp_path):
    kind = task(path=write(tmp_path, ANSWERS))
    test = kind.test().take(0)
    given = np.array([1, 3, 6, 4, 9, 1, 2])
    counts = np.arange(3) < test.lengths[:, None]
    assert kind.answer == "every"
    np.testing.assert_allclose(test.targets[counts][:, 0], (given - given.mean()) / given.std(), rtol=1e-6)
    assert not test.targets[~counts].any()
    assert kind.measure(test.targets, test) == {"mse": 0, "mean_error": 0}
    # What is after the end of a series does not count.
    wrong = test.targets + np.where(counts, 1, 100)[:, :, None] / given.std()
    assert kind.measure(wrong, test) == pytest.approx({"mse": 1, "mean_error": 1})


@pytest.mark.parametrize("horizon", [1, 2])
def test_forecasting_answers_with_later_values(tmp_path, horizon):
    """The series of powers of two: the answer is the input, times two for each step."""
    kind = task(path=write(tmp_path, FORECAST), horizon=horizon)
    test = kind.test().take(0)
    assert test.lengths.tolist() == [4 - horizon, 3 - horizon, 3 - horizon]
    counts = np.arange(test.inputs.shape[1]) < test.lengths[:, None]
    answers = test.targets[counts] * kind.answer_scale + kind.answer_shift
    now = [n * 2**t for n, length in zip((1, 3, 5), test.lengths, strict=True) for t in range(length)]
    np.testing.assert_allclose(answers[:, 0], np.array(now) * 2**horizon, rtol=1e-5)


def test_arrays_of_numpy_hold_the_same_as_csv_files(tmp_path):
    x = np.zeros((4, 3, 2))
    x[:, :, 0], x[:, :, 1] = [[0.1, 0.3, 0.7], [0.8, 0.5, 9], [0.2, 0.3, 9], [0.9, 0.6, 9]], 1
    x[:, :, 1] = [[1.2, 1.1, 0.9], [0.4, 0.6, 9], [1.1, 1.2, 9], [0.3, 0.5, 9]]
    y, lengths = ["up", "down", "up", "down"], [3, 2, 2, 2]
    (tmp_path / "arrays").mkdir()
    file = write_arrays(
        tmp_path / "arrays", x_train=x, x_test=x, y_train=y, y_test=y, lengths_train=lengths, lengths_test=lengths
    )
    one, two = task(path=file), task(path=write(tmp_path, CLASSES))
    assert one.classes == two.classes
    for mine, theirs in ((one.test(), two.test()), (one.train_batch(0, 8), two.train_batch(0, 8))):
        np.testing.assert_array_equal(mine.inputs, theirs.inputs)
        np.testing.assert_array_equal(mine.targets, theirs.targets)
    assert task(path=str(tmp_path / "arrays")).contents == one.contents


@pytest.mark.parametrize(
    ("y", "kind", "outputs"),
    [
        ([3, 1, 3, 1], "last", 2),
        ([True, False, True, False], "last", 2),
        ([0.5, 1.5, 2, 3], "last", 1),
        (np.ones((4, 3)), "last", 3),
        (np.ones((4, 3, 5)), "every", 5),
        (None, "every", 2),
    ],
)
def test_forms_of_answers_in_numpy_files(tmp_path, y, kind, outputs):
    read = task(path=write_arrays(tmp_path, x_train=X, x_test=X, y_train=y, y_test=y))
    assert (read.answer, read.output_size) == (kind, outputs)
    assert (read.classes is not None) == (isinstance(y, list) and y[0] != 0.5)


# Runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["classes", "targets", "answers", "forecast"])
def test_data_of_every_kind_are_trained_resumed_and_reported(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    text = {"classes": CLASSES, "targets": TARGETS, "answers": ANSWERS, "forecast": FORECAST}[form]
    metric = "accuracy: '> 0.5'" if form == "classes" else "mean_error: '< 100'"
    words = [
        *("task=time_series", f"task.path={write(tmp_path, text)}", "model=rnn", "model.units=1", "backend=torch"),
        *("training.max_sequences=32", "training.evaluate_every=16", f"task.criteria={{good: {{{metric}}}}}"),
    ]
    assert main([*words, "trials=2"]) == 0
    (result,) = store.read_results(tmp_path / "results" / "runs")
    assert (result.task, len(result.trials)) == ("own", 2)
    assert result.config["task"]["path"] is None
    assert "horizon" not in result.config["task"]
    names = ["test_accuracy"] if form == "classes" else ["test_mse", "test_mean_error"]
    assert np.isfinite(result.trials[names].to_numpy()).all()
    assert main([*words, "trials=3"]) == 0
    assert report([]) == 0
    assert "own" in (tmp_path / "results" / "report" / "report.md").read_text()


# Errors ---------------------------------------------------------------------------------------------------------

HEAD = "series,x,class\n"
TWO = "a,1,u\na,2,u\nb,1,v\nb,2,v\nc,1,u\nc,3,u\n"

WRONG_TABLES = [
    ("", "Own_TRAIN.csv: the first row names no columns"),
    (HEAD, "Own_TRAIN.csv: contains no rows below the names of its columns"),
    ("series,x\nn\xe9,1\n".encode("latin-1"), "Own_TRAIN.csv: is not text in UTF-8 .*; save it as UTF-8"),
    ("series,x,label\na,1,up\na,2,up\n", "column label has words, such as up, .*; name it class if it is the answer"),
    ("series,x,note,class\na,1,up,u\na,2,w,u\n", "the column note has words, such as up, .* numbers; leave it out"),
    ('series,x\n"a,1\n', "Own_TRAIN.csv, line 2: unexpected end of data"),
    ("x,class\n1,u\n", "no column is named series"),
    ("series,class\na,u\n", "no column is a channel"),
    ("series,x,x\na,1,2\n", "two columns are named x"),
    ("series,x,\na,1,2\n", "column 3 has no name"),
    ("series,x,class,target\na,1,u,2\n", "has columns class and target; give one of class, target and answer"),
    (HEAD + "a,1\n", "line 2: 2 values, but the first row names 3 columns"),
    (HEAD + "a,1,u\n\na,,u\n", r"line 4, x: a missing value \(nothing\); fill it in"),
    (HEAD + "a,1,u\na,NaN,u\n", r"line 3, x: a missing value \(NaN\)"),
    (HEAD + "a,1,u\na,1;5,u\n", "line 3, x: 1;5 is not a number such as 12, -0.5 or 1e-3; a row is one step"),
    (HEAD + "a,1,u\na,1e31,u\n", r"line 3, x: the value 1e31 is above 1e\+30 in size"),
    (HEAD + "a,1,u\n,2,u\n", "line 3: the column series is empty"),
    (HEAD + "a,1,u\na,2,\n", "line 3: class is empty, but u in the first row of the series"),
    (HEAD + "a,1,\na,2,\n", "line 2: the column class is empty"),
    (HEAD + "a,1,u\na,2,v\n", "line 3: class is v, but u in the first row of the series; it must be the same in all"),
    (HEAD + "a,1,u\na,2,u\nb,1,v\nb,2,v\na,3,u\n", "line 6: series a goes on here; the rows of a series follow each"),
    (HEAD + "a,1,u\nb,2,u\n", "line 2: 1 value; a series must have 2 to 100,000 values"),
    (HEAD + "a,1,u\na,2,u\nb,1,u\nb,2,u\n", "every training series is of class u; at least two classes"),
    (HEAD + "a,1,u\na,2,u\nb,1,v\nb,2,v\n", "no class has two training series"),
    ("series,x,target\na,1,5\na,2,6\n", "line 3: target is 6, but 5 in the first row of the series"),
    ("series,x,target\na,1,u\na,2,u\n", "line 2, target: u is not a number"),
    ("series,x,answer\na,1,1\na,2,\n", "line 3, answer: a missing value"),
    ("series,x\na,1\na,2\n", "one training series, so there is none for validation; cut it into shorter ones"),
]


@pytest.mark.parametrize(("text", "message"), WRONG_TABLES)
def test_unusable_csv_files_are_refused_in_one_line(tmp_path, text, message):
    with pytest.raises(ValueError, match=message) as error:
        task(path=write(tmp_path, text))
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (HEAD + TWO, HEAD + "a,1,w\na,2,w\n", "no training series has the class w of the test part"),
        (HEAD + TWO, "series,x,y,class\na,1,1,u\na,2,2,u\n", "1 channels in the training part, 2 in the test part"),
        (HEAD + TWO, FORECAST, "the training part has classes, the test part no answers"),
        (TARGETS, ANSWERS, "the training part has 2 answers at the last step, the test part 1 answers at every step"),
    ],
)
def test_parts_that_do_not_fit_are_named(tmp_path, train, test, message):
    with pytest.raises(ValueError, match=message):
        task(path=write(tmp_path, train, test))


WRONG_ARRAYS = [
    ({"x_test": None}, "Own.npz: has no array x_test; it must have x_train, x_test"),
    ({"y_test": None}, "Own.npz: has only one of y_train and y_test"),
    ({"z": [1]}, "Own.npz: z is none of x_train, x_test, y_train, y_test, lengths_train, lengths_test"),
    ({"x_train": X[0, 0]}, r"x_train has the shape \(2,\) and the type float64: must be numbers \(series, steps, chan"),
    ({"x_train": X.astype(str)}, r"x_train has the shape \(4, 3, 2\) and the type <U32: must be numbers"),
    ({"x_train": X[:0]}, r"x_train has the shape \(0, 3, 2\)"),
    ({"x_train": X[:, :1]}, "Own.npz: x_train, series 1: 1 value; a series must have 2"),
    ({"x_train": np.where(X == 4, np.nan, X)}, r"Own.npz: x_train, series 1: missing values, or values above 1e\+30"),
    ({"x_test": X[:2, :, :1]}, "2 channels in the training part, 1 in the test part"),
    (
        {"y_train": ["b", "a"]},
        r"y_train has the shape \(2,\) and the type <U1: must be classes \(4,\), or numbers",
    ),
    ({"y_train": ["b", "b", "", "A a"]}, "y_train, series 3: the class is empty"),
    ({"y_train": np.ones((4, 2, 1))}, r"y_train has the shape \(4, 2, 1\) .* or \(4, 3, O\)"),
    ({"y_train": [1, np.inf, 0.5, 1], "y_test": [1.0, 2]}, "y_train: missing values, or values above"),
    (
        {"lengths_train": [3, 3, 3]},
        r"lengths_train has the shape \(3,\) and the type int64: must be whole numbers",
    ),
    ({"lengths_train": [3, 3, 3, 4]}, "lengths_train .* from 1 to 3"),
    ({"lengths_test": [1.5, 2]}, "lengths_test has the shape .2,. and the type float64"),
    ({"y_train": np.array(["b", 1, 2, None], object)}, "Own.npz: contains objects; it must have x_train"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG_ARRAYS)
def test_unusable_numpy_files_are_refused_in_one_line(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message) as error:
        task(path=write_arrays(tmp_path, **(GOOD | changes)))
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_archive_is_named(tmp_path):
    np.save(tmp_path / "one.npy", X)
    array = (tmp_path / "one.npy").read_bytes()
    for data, message in (
        (b"series,x", "is no numpy"),
        (b"", "is no numpy"),
        (array, "is no numpy"),
        (b"PK\3\4", "is dam"),
    ):
        (tmp_path / "Own.npz").write_bytes(data)
        with pytest.raises(ValueError, match=f"Own.npz: {message}"):
            task(path=str(tmp_path))


def test_a_horizon_is_for_forecasting_and_within_the_series(tmp_path):
    with pytest.raises(ValueError, match="task.horizon=3: must be below 3, the steps of a series of task.path="):
        task(path=write(tmp_path, FORECAST), horizon=3)
    with pytest.raises(ValueError, match="task.horizon=2: must be 1, since the series have answers of their own"):
        task(path=write(tmp_path, CLASSES), horizon=2)


def test_files_that_do_not_belong_to_a_set_are_named(tmp_path):
    write(tmp_path, CLASSES)
    with pytest.raises(ValueError, match="must be NAME_TRAIN.ts or NAME_TRAIN.csv, .* or NAME.npz, or their folder"):
        task(path=str(tmp_path / "Own_TEST.csv"))
    (tmp_path / "Own_TEST.csv").unlink()
    with pytest.raises(ValueError, match="Own_TEST.csv: there is no such file"):
        task(path=str(tmp_path))

"""No text, however odd, does more than load or be refused with exit code 3; nothing in it is executed."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from deepmedic.config.kinds import CLASSES, config_kind, key_names
from deepmedic.config.load import load_model_config, load_test_config, load_train_config
from deepmedic.errors import DeepMedicError

KEYS = sorted(set().union(*(key_names(kind) for kind in CLASSES)))
LOADERS = [load_model_config, load_train_config, load_test_config, config_kind]
ROOT = Path(__file__).parents[2]

SOME_CONFIG = """\
folderForOutput = "out"  # comment
channelsTraining = ["c1.cfg", 'c2.cfg']
gtLabelsTraining = "labels.cfg"
batchsize_train = 10
learningRate = 1e-3
numberOfOutputClasses = 3
numberOfInputChannels = 2
numberFMsPerLayerNormal = [4, 5]
kernelDimPerLayerNormal = [[3, 3, 3], [3, 3, 3]]
segmentsDimTrain = [15, 15, 15]
augm_sample_prms_tr = {reflect = [0.5, 0, 0]}
useSubsampledPathway = true
"""
PYTHON_CONFIG = SOME_CONFIG.replace("true", "True").replace("{reflect = [0.5, 0, 0]}", "{'reflect': (0.5, 0., 0.)}")

fuzzing = settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def refusal_of(load: Callable[[Path], object], path: Path) -> DeepMedicError | None:
    try:
        load(path)
    except DeepMedicError as problem:
        return problem
    return None


def loads_or_refuses(path: Path) -> None:
    for load in LOADERS:
        problem = refusal_of(load, path)
        assert problem is None or problem.exit_code in (3, 5)
        assert all(line.isprintable() for line in str(problem).split("\n"))  # does nothing to a terminal


scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(st.characters(codec="utf-8"), max_size=6),
    st.sampled_from(["none", "valid", "mirror", "poly", "auto", "predef", "expon", "..", "a/b"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["mu", "affine", "xentr", "x"]), inner),
    max_leaves=10,
)


@fuzzing
@given(assignments=st.dictionaries(st.sampled_from(KEYS), values, max_size=8))
def test_any_values_for_known_keys(assignments, tmp_path):
    path = tmp_path / "x.cfg"
    path.write_text("\n".join(f"{key} = {value!r}" for key, value in assignments.items()), encoding="utf-8")
    loads_or_refuses(path)


@fuzzing
@given(
    text=st.sampled_from([SOME_CONFIG, PYTHON_CONFIG]),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 3), st.text(max_size=4)), min_size=1, max_size=6),
)
def test_any_changes_to_a_text(text, changes, tmp_path):
    for where, removed, inserted in changes:
        start = int(where * len(text))
        text = text[:start] + inserted + text[start + removed :]
    path = tmp_path / "x.cfg"
    path.write_text(text, encoding="utf-8", errors="replace", newline="")
    loads_or_refuses(path)


@fuzzing
@given(content=st.binary(max_size=80))
def test_any_bytes(content, tmp_path):
    path = tmp_path / "x.cfg"
    path.write_bytes(content)
    loads_or_refuses(path)


PUNCTUATION = ["=", "\n", "(", ")", "[", "]", "{", "}", ",", ":", "#", ";", "\\", " ", "\t", ".", "**", "*", "/", "-"]
WORDS = ["x", "'a'", '"', "'''", "1", "2.", "True", "None", "lambda", "import os", "open('pwned')", "f'{1}'"]
python_tokens = st.sampled_from([*PUNCTUATION, *WORDS, "numberOfEpochs = 3\n"])


@fuzzing
@given(tokens=st.lists(python_tokens, max_size=30))
def test_any_python_tokens(tokens, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.cfg"
    path.write_text("".join(tokens), encoding="utf-8")
    loads_or_refuses(path)
    assert {entry.name for entry in tmp_path.iterdir()} == {"x.cfg"}


HOSTILE = [
    'x = __import__("os").system("touch pwned")',
    'x = open("pwned", "w")',
    "x = [c for c in ().__class__.__base__.__subclasses__()]",
    "x = f\"{__import__('os').mkdir('pwned')}\"",
    "import os\nos.mkdir('pwned')",
    "from pathlib import Path\nPath('pwned').touch()",
    "x = (lambda: open('pwned', 'w'))()",
    "class X:\n    open('pwned', 'w')",
    "@print\ndef f(): pass",
    'numberOfEpochs = exec(\'open("pwned", "w")\')',
]


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_files_run_nothing(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "x.cfg"
    path.write_text(text)
    for load in LOADERS:
        with pytest.raises(DeepMedicError) as caught:
            load(path)
        assert caught.value.exit_code == 3
        assert f"{path}:" in str(caught.value)
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.cfg"]


AUDITED = """\
import sys
from pathlib import Path
from deepmedic.config.load import load_model_config
from deepmedic.errors import DeepMedicError
import ast, encodings.latin_1, encodings.idna
seen = []
def audit(event, arguments):
    if event in ("os.system", "subprocess.Popen", "exec", "os.exec", "os.fork", "socket.connect", "import"):
        seen.append(event)
    if event == "open" and isinstance(arguments[1], str) and set(arguments[1]) & set("wax+"):
        seen.append("open for writing")
sys.addaudithook(audit)
for path in map(Path, sys.argv[1:]):
    try:
        load_model_config(path)
    except DeepMedicError:
        pass
print(seen)
"""


def test_reading_hostile_files_raises_no_audit_event_of_execution(tmp_path):
    paths = []
    for number, text in enumerate(HOSTILE):
        path = tmp_path / f"{number}.cfg"
        path.write_text(text)
        paths.append(str(path))
    done = subprocess.run(
        [sys.executable, "-c", AUDITED, *paths], cwd=ROOT, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"

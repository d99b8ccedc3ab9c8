import nncompile
from nncompile.bench.engines import nncompile as engine
from nncompile.bench.engines import nncompile_tuned, open_engine
from nncompile.bench.engines.exporting import export
from nncompile.bench.engines.nncompile import Compiled
from nncompile_runtime import Predictor


def test_nncompile_names_what_is_special_about_its_plan(lenet):
    predictor = nncompile.load(lenet.path, device="cpu", plan={"threads": 2, "micro_batch": 4})
    engine = Compiled(predictor)
    kernels = f", {predictor.session.kernels.note}" if predictor.native else ""
    assert engine.description == f"predict, cpu{kernels}, micro_batch=4"
    assert engine.threads == 2


def test_a_copy_of_its_own_is_tuned(lenet, subject_of, monkeypatch):
    tuned = []
    monkeypatch.setattr(Predictor, "tune", lambda self, **given: tuned.append((self, given)))
    subject = subject_of(lenet.path)
    with open_engine("nncompile-tuned", subject) as engine:
        ((predictor, given),) = tuned
        assert given == {"seconds": nncompile_tuned.SECONDS, "batches": None, "like": None}
        assert predictor is not subject.predictor
        assert engine.compile_seconds > 0


def test_a_tuned_model_is_tuned_once(lenet, subject_of, monkeypatch):
    tuned, tune = [], Predictor.tune
    monkeypatch.setattr(Predictor, "tune", lambda self, **options: tuned.append(tune(self, **options)))
    subject = subject_of(lenet.path)
    with open_engine("nncompile-tuned", subject) as first, open_engine("nncompile-tuned", subject) as again:
        assert first.reopens
        assert again.reopens
        assert (first.compile_seconds > 0, again.compile_seconds) == (True, 0)
        assert again.description == first.description
    ((found),) = tuned
    assert nncompile.load(subject.folder / "tuned.onnx", device="cpu").plans == found.plans


def test_a_tuned_file_that_keeps_no_plans_stays_open(lenet, subject_of, tmp_path):

    compiled = subject_of(lenet.path)
    plain = tmp_path / "plain.onnx"
    plain.write_bytes(export(lenet.module, compiled.signature, compiled.example))
    subject = subject_of(plain)
    with open_engine("nncompile-tuned", subject) as engine:
        assert not engine.reopens
        assert engine.compile_seconds > 0
    assert not (subject.folder / "tuned.onnx").exists()


def test_each_opening_of_nncompile_has_a_session_of_its_own(lenet, subject_of, monkeypatch):

    sessions = []

    class Watched(Compiled):
        def __init__(self, predictor):
            super().__init__(predictor)
            sessions.append(predictor.session)

    monkeypatch.setattr(engine, "Compiled", Watched)
    subject = subject_of(lenet.path)
    with open_engine("nncompile", subject), open_engine("nncompile", subject):
        first, again = sessions
        assert first is not again
        assert first.native is not again.native

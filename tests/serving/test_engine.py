"""The server around a real engine: the same answers as `predict`, and files that mean harm."""

import dataclasses
import pathlib

import jsonschema
import pytest

from masm_jax.prediction import answers, predictor, words
from masm_jax.prediction.engine import Engine
from masm_jax.prediction.media import Limits, Source
from masm_jax.serving import scoring
from tests.prediction import hostile
from tests.serving import media
from tests.serving.conftest import serving, upload, wait_until
from tests.serving.hostile import LIMITS, escaped, problem


@pytest.fixture(scope='module')
def engine(trained_run):
  limits = Limits(**{name.replace('-', '_'): value for name, value in LIMITS.items()})
  detector = predictor.load(str(trained_run), batch_size=8)
  with Engine(detector, faces='whole', limits=limits) as made:
    yield made


@pytest.fixture(scope='module')
def client(engine, tmp_path_factory):
  folder = tmp_path_factory.mktemp('engine') / 'data'
  with serving(folder, scoring.EngineScorer(engine), read=scoring.read, report=scoring.report,
               model=scoring.model_document(engine), wait_s=60.0) as made:  # fmt: skip
    yield made


def sent(client, content, name):
  response = upload(client, content, name, path='/v1/predictions?wait=1')
  assert response.status_code == 200
  return response.json()


@pytest.mark.parametrize('kind', ['picture', 'video'])
def test_the_server_answers_as_the_engine(client, engine, kind):
  content = media.picture() if kind == 'picture' else media.video(seconds=2)
  document = sent(client, content, 'a.bin')
  jsonschema.validate(document['answer'], answers.schema())
  alone = answers.without_timing(engine.submit(Source(content, name='a.bin')).result())
  assert answers.without_timing(answers.from_dict(document['answer'])) == answers.from_dict(
    alone.to_dict()
  )
  said = dataclasses.asdict(words.describe(alone))
  assert document['words']['headline'] == said['headline']
  frames = {frame.index for track in alone.tracks for frame in track.frames}
  views = {int(name.removeprefix('view-').removesuffix('.jpg')) for name in document['pictures']}
  assert views <= frames and len(views) == (1 if kind == 'picture' else 6)
  report = client.get(document['links']['report'])
  assert report.status_code == 200 and said['headline'] in report.text
  assert report.text.count('data:image/jpeg') == (1 if kind == 'picture' else 3)
  assert '<script' not in report.text


def test_the_model_is_told_with_its_rules_and_limits(client):
  document = client.get('/v1/model').json()
  assert document['model']['method'] == 'linear' and document['limits']['streams'] == 16
  assert 0 < document['policy']['video']['threshold'] < 1
  assert document['server']['keep_s'] == 86400.0


def test_files_that_mean_harm_have_their_answers(client):
  folder = pathlib.Path(client.store.uploads).parent
  before = sorted(folder.parent.rglob('*'))
  for file in hostile.make(len(hostile.KINDS)):
    document = sent(client, file.content, escaped(file.name))
    assert problem(file, document) == '', file.kind
  wait_until(lambda: sorted(folder.parent.rglob('*')) == before)  # Not kept beyond the answer.
  assert client.get('/healthz').status_code == 200


def test_faces_are_counted(client):
  (line,) = [
    line for line in client.get('/metrics').text.splitlines() if line.startswith('masm_jax_faces')
    and 'created' not in line
  ]  # fmt: skip
  assert float(line.split()[-1]) > 30

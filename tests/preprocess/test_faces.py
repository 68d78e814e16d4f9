import cv2
import numpy as np
import pytest

from masm_jax.errors import UserError
from masm_jax.preprocess.faces import Haar, YuNet, make_detector
from masm_jax.preprocess.yunet import Network

# Read off the picture by eye: image-left eye, image-right eye, nose, mouth corners.
LANDMARKS = [[205, 104], [246, 106], [224, 130], [206, 148], [242, 150]]


def test_yunet_finds_the_astronaut(yunet, astronaut):
  (face,) = YuNet(yunet, min_score=0.7).detect(astronaut)
  np.testing.assert_allclose(face.landmarks, LANDMARKS, atol=8)
  assert 0.8 < face.score <= 1
  assert (face.box[:2] < face.landmarks.min(0)).all()
  assert (face.box[:2] + face.box[2:] > face.landmarks.max(0)).all()


@pytest.mark.parametrize('scale', [0.2, 3, 6])
def test_yunet_finds_small_and_huge_faces(yunet, astronaut, scale):
  image = cv2.resize(astronaut, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
  faces = YuNet(yunet, min_score=0.7).detect(image)
  np.testing.assert_allclose(faces[0].landmarks / scale, LANDMARKS, atol=12)


def test_yunet_finds_a_small_face_in_a_large_frame(yunet, astronaut):
  image = np.full((1080, 1920, 3), 90, np.uint8)
  small = cv2.resize(astronaut, (128, 128), interpolation=cv2.INTER_AREA)  # The face is 24 px wide.
  image[300:428, 1500:1628] = small
  (face,) = YuNet(yunet, min_score=0.7).detect(image)
  np.testing.assert_allclose(face.landmarks, np.array(LANDMARKS) / 4 + (1500, 300), atol=6)


def test_the_largest_face_comes_first(yunet, astronaut):
  small = cv2.resize(astronaut, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
  image = np.zeros((512, 768, 3), np.uint8)
  image[:256, :256], image[:, 256:] = small, astronaut
  first, second = YuNet(yunet, min_score=0.7).detect(image)
  assert first.area > 3 * second.area
  assert first.landmarks[0, 0] > 256 > second.landmarks[0, 0]


@pytest.mark.parametrize('shape', [(1, 1), (3, 500), (96, 96)])
def test_no_face(yunet, shape):
  image = np.random.default_rng(0).integers(0, 255, (*shape, 3), np.uint8)
  assert YuNet(yunet, min_score=0.7).detect(image) == []
  assert Haar().detect(image) == []


def test_haar_is_roughly_right(astronaut):
  face = Haar().detect(astronaut)[0]
  np.testing.assert_allclose(face.landmarks, LANDMARKS, atol=15)


def test_detectors_by_name(tmp_path):
  assert isinstance(make_detector('haar', model=None, min_score=0.7), Haar)
  with pytest.raises(UserError, match="no detector 'dlib'"):
    make_detector('dlib', model=None, min_score=0.7)
  (tmp_path / 'model.onnx').write_bytes(b'nothing')
  with pytest.raises(UserError, match='not a YuNet model'):
    make_detector('yunet', model=tmp_path / 'model.onnx', min_score=0.7)


def test_yunet_sees_what_opencv_s_own_code_sees(yunet, astronaut):
  small = cv2.resize(astronaut, (150, 150), interpolation=cv2.INTER_AREA)
  image = np.zeros((533, 801, 3), np.uint8)
  image[:512, :512], image[300:450, 600:750] = astronaut, small
  theirs = cv2.FaceDetectorYN.create(str(yunet), '', (801, 533), 0.3, 0.3, 5000)
  expected = theirs.detect(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1]
  found = Network(yunet, min_score=0.3)(cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
  assert len(found) >= 2
  np.testing.assert_allclose(found, expected, atol=2e-3)


def test_a_network_of_another_kind_is_refused(tmp_path):
  onnx = pytest.importorskip('onnx')
  x = onnx.helper.make_tensor_value_info('x', onnx.TensorProto.FLOAT, [1])
  y = onnx.helper.make_tensor_value_info('y', onnx.TensorProto.FLOAT, [1])
  graph = onnx.helper.make_graph([onnx.helper.make_node('Neg', ['x'], ['y'])], 'g', [x], [y])
  model = onnx.helper.make_model(
    graph, ir_version=8, opset_imports=[onnx.helper.make_opsetid('', 17)]
  )
  onnx.save(model, str(tmp_path / 'a.onnx'))
  with pytest.raises(UserError, match='not a YuNet model: its outputs are others'):
    make_detector('yunet', model=tmp_path / 'a.onnx', min_score=0.7)

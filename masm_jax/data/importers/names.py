"""Reads file names: which are images, who is seen in a video, what a fake was made from."""

import re

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp', '.tif', '.tiff')

# FaceForensics++: real `000`, fake `000_003` (target 000 wears the face of 003).
_NUMBERS = re.compile(r'\d+(_\d+)*')
# Celeb-DF: real `id0_0000`, fake `id0_id1_0000` (target id0's video 0000, face of id1).
_CELEB = re.compile(r'(?P<target>id\d+)(_(?P<face>id\d+))?_(?P<number>\d+)')
# DeepFakeDetection: real `01__meeting_serious`, fake `01_02__meeting_serious__YVGY8LOK`.
_DFD = re.compile(r'(?P<target>\d\d)(_(?P<face>\d\d))?__(?P<scene>\w+?)(__[A-Z0-9]{8})?')
# DeeperForensics: fake `000_M101` (target 000 of FaceForensics++, face of the actor M101).
_ACTOR = re.compile(r'(?P<target>\d{3})_(?P<face>[MW]\d{3})')
# UADFV: real `0000`, fake `0000_fake`.
_MARKED = re.compile(r'(?P<target>\d+)_fake')

# Data sets whose names speak of the same people.
_FAMILIES = {
  'FF++': re.compile(
    r'ff(\+\+|pp)?([-_ ]\w+)?|faceforensics.*|faceshifter|deeperforensics.*|dfr|dfo|df40-ff',
    re.IGNORECASE,
  ),
  'Celeb-DF': re.compile(r'celeb-?df.*|cdf.*|df40-cdf', re.IGNORECASE),
}


def is_image(name: str) -> bool:
  """Whether a file name ends like an image and is not hidden."""
  return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith('.')


def identities(video: str) -> list[str]:
  """Every identity in a video's name, the target first; empty if the name has no known form."""
  if _NUMBERS.fullmatch(video):
    return video.split('_')
  for form in (_CELEB, _DFD, _ACTOR, _MARKED):
    if match := form.fullmatch(video):
      groups = match.groupdict()
      return [name for name in (groups['target'], groups.get('face')) if name]
  return []


def target_video(video: str) -> str:
  """Name of the real video that a fake was made from; empty if the name does not tell."""
  if _NUMBERS.fullmatch(video) and '_' in video:
    return video.split('_')[0]
  if (match := _CELEB.fullmatch(video)) and match['face']:
    return f'{match["target"]}_{match["number"]}'
  if (match := _DFD.fullmatch(video)) and match['face']:
    return f'{match["target"]}__{match["scene"]}'
  match = _ACTOR.fullmatch(video) or _MARKED.fullmatch(video)
  return match['target'] if match else ''


def joined_identities(text: str) -> list[str]:
  """The ids of a manifest's column `identities`: those that are joined by ';', blanks left out.

  >>> joined_identities('a; b;'), joined_identities(';')
  (['a', 'b'], [])
  """
  return [name for name in map(str.strip, text.split(';')) if name]


def suggested_identities(video: str) -> list[str]:
  """Identities that a name of unknown origin suggests.

  As `identities`, without a number that stands alone, unless it has three digits as those of
  FaceForensics++ have: elsewhere a number mostly counts videos.
  """
  found = identities(video)
  return found if video != ''.join(found) or len(video) == 3 else []


def identity_scope(dataset: str) -> str:
  """What an identity's name is unique in: the data set, or a family that shares its people.

  FaceShifter, DeeperForensics and the FF part of DF40 were made from FaceForensics++'s videos, and
  keep their numbers; Celeb-DF's versions and the CDF part of DF40 share theirs.
  """
  for family, form in _FAMILIES.items():
    if form.fullmatch(dataset):
      return family
  return dataset


def frame_number(stem: str) -> int:
  """The number at the end of a frame's name without its suffix; 0 if there is none."""
  match = re.search(r'\d{1,18}$', stem)
  return int(match[0]) if match else 0

"""What names say: which files are images, who is seen in a video, what a fake was made from."""

import re

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.webp', '.tif', '.tiff')

# FaceForensics++: real `000`, fake `000_003` (target 000 wears the face of 003).
_NUMBERS = re.compile(r'\d+(_\d+)*')
# Celeb-DF: real `id0_0000`, fake `id0_id1_0000` (target id0's video 0000, face of id1).
_CELEB = re.compile(r'(?P<target>id\d+)(_(?P<face>id\d+))?_(?P<number>\d+)')


def is_image(name: str) -> bool:
  """Whether a file's name is that of an image, and not hidden."""
  return name.lower().endswith(IMAGE_SUFFIXES) and not name.startswith('.')


def identities(video: str) -> list[str]:
  """Every identity in a video's name, the target first; empty if the name has no known form."""
  if _NUMBERS.fullmatch(video):
    return video.split('_')
  if match := _CELEB.fullmatch(video):
    return [name for name in (match['target'], match['face']) if name]
  return []


def target_video(video: str) -> str:
  """Name of the real video that a fake was made from; empty if the name does not tell."""
  if _NUMBERS.fullmatch(video) and '_' in video:
    return video.split('_')[0]
  match = _CELEB.fullmatch(video)
  return f'{match["target"]}_{match["number"]}' if match and match['face'] else ''


def frame_number(stem: str) -> int:
  """The number at the end of a frame's name without its suffix; 0 if there is none."""
  match = re.search(r'\d{1,18}$', stem)
  return int(match[0]) if match else 0

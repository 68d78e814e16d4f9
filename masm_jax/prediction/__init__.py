"""From a picture or a video to a verdict: media read apart, faces scored, answers made."""

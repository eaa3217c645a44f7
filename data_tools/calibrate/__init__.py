"""Where the cameras and arms of a real cell are, found from pictures of two ChArUco boards."""

import importlib.util

if importlib.util.find_spec("cv2") is None:
    raise ImportError("boards are found by OpenCV, which is not installed: pip install 'clamp-jax[hardware]'")

"""Where the cameras and arms of a real cell are, found from pictures of two ChArUco boards."""

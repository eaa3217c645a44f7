"""x"""
import ctypes.util
import os
def choose_gl():
    if "MUJOCO_GL" not in os.environ:
        os.environ["MUJOCO_GL"] = "egl"

"""The second geometry: the public simulator's robot, cell and objects, from the user's clone of google-deepmind/aloha_sim.

Bodies, joints and frames are those of the primitive scenes, so that resets, success conditions and experts are the same code.
"""

"""Recording episodes of a real cell: joints, commands and images of a person's or a program's motion, an episode a file.

`loop.record_episode` records one episode of any robot, cameras and source of commands; `files` says how it lies on disk; `packing`
makes a data set of all of them. Not yet run on hardware.
"""

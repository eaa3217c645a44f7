"""Speed and memory, each figure beside what it is compared with: `python -m experiments.benchmark --help`."""

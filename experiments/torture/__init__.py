"""Trains a small run and does to it what happens to runs: kills, saves without end, bytes that change."""

"""Tests of a run's decoder: samples, multiple choice, exact match, lm-evaluation-harness."""

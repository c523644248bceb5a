"""The forecast of a run's cost before it begins: counted where it can be, measured over a few steps where it must be."""

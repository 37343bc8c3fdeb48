"""Lanner: a recommender that joins a graph neural network and a language model, built to be served."""

__version__ = "0.1.0"

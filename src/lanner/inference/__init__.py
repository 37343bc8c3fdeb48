"""From a scoring model to recommendations: one path for the library, command line, evaluation and server."""

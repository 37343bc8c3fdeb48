"""From a scoring model to recommendations: the one path of library, command line, evaluation and server."""

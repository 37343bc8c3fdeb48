"""From an exported model to answers: the one path of the library, the command line, evaluation and the server."""
